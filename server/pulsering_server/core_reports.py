"""How the cores of one node are, heard from each as systemd would hear it, and told as one.

systemd listens to one process of a service. So the process that keeps the cores listens to them, each on a
socket of its own, by the same protocol (``service_manager``), and tells systemd what they have in common:
ready when all are, with a watchdog that also minds each core. Invariant: only what a core's own process says
of itself counts, as the kernel vouches for the sender.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final

from pulsering_server.service_manager import State

__all__ = ["CoreReport", "in_common"]

_CREDENTIALS: Final = struct.Struct("3i")
_MESSAGE_BYTES: Final = 4096


class CoreReport:
    """What one core said last. ``pid`` is which process it is, ``environ`` what tells it where to say it."""

    def __init__(
        self, pid: Callable[[], int | None], watchdog_us: int, on_change: Callable[[], None]
    ) -> None:
        self._pid = pid
        self._watchdog_us = watchdog_us
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind("")  # an address that the kernel chooses
        self._loop.add_reader(self._socket, self._hear)
        self.state = State(ready=False, status="starting")
        self._heard_s: float | None = None

    @property
    def environ(self) -> dict[str, str]:
        """Variables for the core's process."""
        address: bytes = self._socket.getsockname()
        found = {"NOTIFY_SOCKET": "@" + address[1:].decode()}
        return found | ({"WATCHDOG_USEC": str(self._watchdog_us)} if self._watchdog_us else {})

    @property
    def overdue(self) -> bool:
        """Whether its process has spoken, and then been silent for longer than the watchdog allows."""
        if not self._watchdog_us or self._heard_s is None:
            return False
        return self._loop.time() - self._heard_s > self._watchdog_us / 1e6

    def excuse(self) -> None:
        """Count its silence from now on."""
        self._heard_s = self._loop.time()

    def forget(self, status: str) -> None:
        """Its process has ended, and is now in this state."""
        self.state = State(ready=False, status=status)
        self._heard_s = None

    def close(self) -> None:
        """Listen no more."""
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _hear(self) -> None:
        before = self.state
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, _ = self._socket.recvmsg(
                    _MESSAGE_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size)
                )
                if _sender(ancillary) == self._pid():
                    self._note(data)
        if self.state != before:
            self._on_change()

    def _note(self, data: bytes) -> None:
        said = dict(line.partition("=")[::2] for line in data.decode("utf-8", "replace").split("\n"))
        self._heard_s = self._loop.time()
        self.state = State(
            ready="READY" in said or (self.state.ready and "RELOADING" in said),
            status=said.get("STATUS", ""),
            left_ms=_number(said.get("EXTEND_TIMEOUT_USEC", "")) // 1000,
            reloading="RELOADING" in said,
            stopping="STOPPING" in said,
        )


def in_common(states: Sequence[State], *, stopping: bool) -> State:
    """How a node is whose cores are like this."""
    if len(states) == 1:
        return states[0]._replace(stopping=stopping)
    kinds = [state.status.partition(",")[0] for state in states]
    counts = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    return State(
        ready=all(state.ready for state in states),
        status=f"{len(states)} cores: {', '.join(f'{count} {kind}' for kind, count in counts.items())}",
        left_ms=max(state.left_ms for state in states),
        reloading=any(state.reloading for state in states),
        stopping=stopping,
    )


def _sender(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            pid, _, _ = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])
            return int(pid)
    return None


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 20 else 0
