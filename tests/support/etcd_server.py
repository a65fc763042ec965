"""A real etcd in a directory of its own, started and stopped as a test wants it."""

import asyncio
import shutil
import signal
import socket
from asyncio.subprocess import DEVNULL, Process
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from support.raw_peer import PATIENCE_S

from pulsering_server.etcd import EtcdFailed, EtcdKey
from pulsering_server.etcd_url import EtcdUrl, parse_etcd_url

KEY = "pulsering/test"

needs_etcd = pytest.mark.skipif(
    shutil.which("etcd") is None,
    reason="etcd is not here: apt-get install -y --no-install-recommends etcd-server",
)


class EtcdServer:
    """``async with EtcdServer(directory) as etcd``; ``url`` is a key in it."""

    def __init__(self, directory: Path, *options: str, scheme: str = "http", query: str = "") -> None:
        self._directory = directory / "etcd"
        self._options = options
        self._scheme = scheme
        with ExitStack() as stack:  # two ports that were free a moment ago
            sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
            self._port, self._peer_port = (each.getsockname()[1] for each in sockets)
        self.text = f"etcd{'s' if scheme == 'https' else ''}://127.0.0.1:{self._port}/{KEY}{query}"
        self._process: Process | None = None

    @property
    def url(self) -> EtcdUrl:
        """The key."""
        return parse_etcd_url(self.text)

    @property
    def key(self) -> EtcdKey:
        """A new client of it."""
        return EtcdKey(self.url)

    async def start(self) -> None:
        """Start it, with what it held before, and wait until it answers."""
        client, peer = f"{self._scheme}://127.0.0.1:{self._port}", f"http://127.0.0.1:{self._peer_port}"
        self._process = await asyncio.create_subprocess_exec(
            *("etcd", "--name", "test", "--data-dir", str(self._directory), "--log-level", "error"),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"test={peer}", *self._options),
            stdout=DEVNULL,
            stderr=DEVNULL,
        )
        async with asyncio.timeout(2 * PATIENCE_S), self.key as key:
            while True:
                try:
                    await key.get()
                    return
                except EtcdFailed:
                    assert self._process.returncode is None, "etcd has ended"
                    await asyncio.sleep(0)

    def signal(self, number: int) -> None:
        """SIGSTOP is an etcd that is there and does not answer."""
        assert self._process is not None
        self._process.send_signal(number)

    async def stop(self) -> None:
        """End it as a power cut would."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            self._process.send_signal(signal.SIGCONT)
            await self._process.wait()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
