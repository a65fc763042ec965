"""Tells systemd, or whoever else started us by its protocol (sd_notify), how the node is, from its own loop.

The protocol is one datagram of ``NAME=value`` lines to the socket that the environment names; where it names
none, nobody is told. Ready means that the next node may be restarted, so that a plain loop over all of them,
with ``systemctl restart``, is a rolling restart: the node is warm, and clients have had the time to come back
to it (``CLIENTS_BACK_MS``). Until then the manager is asked for as much more patience as it will take.

Each message tells all, and one that does not fit into the manager's queue is dropped rather than waited for:
the next one is due within a second. Invariant: no message is sent but by the loop that serves, so that a
watchdog that hears them knows that it turns.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import structlog

from pulsering import limits

__all__ = ["CLIENTS_BACK_MS", "INTERVAL_S", "VARIABLES", "Manager", "State", "watchdog_us"]

VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""What a manager leaves in our environment. They are for one process: no child may inherit them."""

INTERVAL_S: Final = 1.0
"""Between two messages at most; thrice as often as the watchdog wants them, if that is more."""

PATIENCE_MS: Final = 10_000
"""Beyond what is still to be warmed up, until we are ready."""

CLIENTS_BACK_MS: Final = limits.RECONNECT_MS_MAX + limits.CONNECT_TIMEOUT_MS
"""From its start until every client that had lost a node has found it again. With a short ttl that is longer
than to be warm, and the next node would leave users whose clients have not come back without an owner."""

log = structlog.get_logger("pulsering_server.service_manager")


class State(NamedTuple):
    """How a node is. ``left_ms`` is how long it will take to be ready; ``status`` says it to people."""

    ready: bool
    status: str
    left_ms: int = 0
    reloading: bool = False
    stopping: bool = False


class Manager:
    """``tell`` it when something has changed, ``await run()`` beside the work; ``look`` says how we are."""

    def __init__(self, look: Callable[[], State], environ: Mapping[str, str] = os.environ) -> None:
        self._look = look
        self._address = _address_of(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_us = watchdog_us(environ) if self._address else 0
        """How long a manager waits for the next message before it ends us; 0 if it does not."""
        self._was_ready = False
        self._failed = False
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    def __bool__(self) -> bool:
        """Whether there is one."""
        return self._socket is not None

    async def run(self) -> None:
        """Tell now and then, for as long as the node runs."""
        while self._socket is not None:
            self.tell()
            await asyncio.sleep(min(INTERVAL_S, self.watchdog_us / 3e6 or INTERVAL_S))
        await asyncio.Event().wait()

    def tell(self) -> None:
        """Tell at once."""
        if self._socket is None:
            return
        state = self._look()
        self._was_ready |= state.ready
        lines = [f"STATUS={state.status}"]
        if state.stopping:
            lines.append("STOPPING=1")
        elif state.reloading and self._was_ready:
            lines += ("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        elif self._was_ready:
            lines.append("READY=1")
        else:
            lines.append(f"EXTEND_TIMEOUT_USEC={(state.left_ms + PATIENCE_MS) * 1000}")
        if self.watchdog_us:
            lines.append("WATCHDOG=1")
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except BlockingIOError:
            return
        except OSError as error:
            if not self._failed:
                log.warning("service_manager.unreachable", reason=error.strerror)
            self._failed = True
        else:
            self._failed = False

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def watchdog_us(environ: Mapping[str, str]) -> int:
    """How often a manager wants to hear of this process, in us; 0 for never."""
    pid, text = environ.get("WATCHDOG_PID", ""), environ.get("WATCHDOG_USEC", "")
    if not text.isdecimal() or (pid and pid != str(os.getpid())):
        return 0
    return int(text)


def _address_of(text: str) -> str:
    """The address as sockets have it; empty for none, and for a kind that is not of this machine."""
    if text.startswith("@"):
        return "\0" + text[1:]
    return text if text.startswith("/") else ""
