"""The receiving end of sd_notify: a real datagram socket in a directory, as systemd's own is."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from support.raw_peer import PATIENCE_S

Message = dict[str, str]


class ManagerStub:
    """``async with ManagerStub(directory) as stub``: ``environ`` is for a node, ``until`` waits for words."""

    def __init__(self, directory: Path, watchdog_s: float | None = None) -> None:
        self.path = directory / "notify"
        self.watchdog_s = watchdog_s
        self.messages: list[Message] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._unread: asyncio.Queue[Message] = asyncio.Queue()

    @property
    def environ(self) -> dict[str, str]:
        """What systemd would set."""
        found = {"NOTIFY_SOCKET": str(self.path)}
        if self.watchdog_s is not None:
            found["WATCHDOG_USEC"] = str(round(self.watchdog_s * 1e6))
        return found

    async def __aenter__(self) -> Self:
        self._socket.setblocking(False)
        self._socket.bind(str(self.path))
        asyncio.get_running_loop().add_reader(self._socket, self._receive)
        return self

    def _receive(self) -> None:
        data = self._socket.recv(4096)
        self._unread.put_nowait(dict(line.split("=", 1) for line in data.decode().split("\n")))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    async def next(self) -> Message:
        """The next message."""
        async with asyncio.timeout(PATIENCE_S):
            message = await self._unread.get()
        self.messages.append(message)
        return message

    async def until(self, true: Callable[[Message], bool], within_s: float = 2 * PATIENCE_S) -> Message:
        """The first of the next messages of which something is true."""
        async with asyncio.timeout(within_s):
            while not true(message := await self.next()):
                pass
        return message
