"""Accepts connections for a node, and looks after all of them: their number, their time, their memory.

``Listener`` owns the listening socket and the set of connections: the caps on them, for all and for each
address, one sweep for the timeouts of all, and the way to an orderly end. It keeps the set itself, because
uvloop's ``Server`` cannot close its clients. When all together hold more than ``buffers``, whoever holds most
is cut off. With a ``tls`` context every new connection has to speak TLS; it is counted, and timed, before it
does. The listener also tells the core whether this thread ever waits for work, from which it knows overload.
"""

import asyncio
import resource
import socket
from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final

from pulsering import limits
from pulsering.wire import ErrorCode
from pulsering_server.addresses import Addresses
from pulsering_server.connection import Connection
from pulsering_server.session import error_frame
from pulsering_server.stats import Close

if TYPE_CHECKING:
    import ssl

    from pulsering_server.node import NodeCore

__all__ = ["Listener", "thread_waits"]

SWEEP_MS: Final = 50
SWEEP_PARTS: Final = 20
"""Every connection is looked at once a second, a twentieth of them at a time: of 10,000 that takes 0.4 ms, in
which nobody is answered."""

BACKLOG: Final = 1024
"""Connections the kernel holds for us while a loop turn lasts."""


def thread_waits() -> int | None:
    """How often this thread has waited for anything since its start; None where the system does not tell.

    Time that others took from it is not waiting, so a node short of CPU knows that it is.
    """
    if not hasattr(resource, "RUSAGE_THREAD"):
        return None  # pragma: no cover - the node runs on Linux
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


class Listener:
    """Accepts connections for one node until told to stop.

    ``now_ms`` is the clock that sessions are told; ``waits`` counts how often the node waited for work.
    Use: ``await open(…)``, ``address``, then either ``close()`` or ``await drain(…)``.
    """

    def __init__(
        self,
        core: "NodeCore",
        now_ms: Callable[[], int],
        waits: Callable[[], int | None] = thread_waits,
    ) -> None:
        self.core = core
        self.now_ms = now_ms
        self.held_bytes = 0
        self.tls: ssl.SSLContext | None = None
        """For connections that come from now on; None: they are in plain."""
        self.addresses = Addresses(core.limits.connections_per_address)
        self.received = memoryview(bytearray(limits.RECEIVE_BYTES))
        self._waits = waits
        self._waited: int | None = None
        self._probe_timer: asyncio.TimerHandle | None = None
        self._probe_due_ns = 0
        self.loop = asyncio.get_running_loop()
        self._push_turn: asyncio.Handle | None = None
        self._connections: dict[Connection, None] = {}
        self._unswept: list[Connection] = []
        self._server: asyncio.Server | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._empty.set()
        self.address: tuple[str, int] = ("", 0)

    async def open(self, host: str, port: int) -> tuple[str, int]:
        """Listen on ``host`` (name or address) and ``port`` (0: any free one); the address it became."""
        infos = await self.loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, proto, _, where = infos[0]
        sock = socket.socket(family, kind, proto)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.SEND_BUFFER_BYTES)
            sock.setblocking(False)
            sock.bind(where)
            self.address = sock.getsockname()[:2]
            self._server = await self.loop.create_server(lambda: Connection(self), sock=sock, backlog=BACKLOG)
        except BaseException:
            sock.close()
            raise
        self._sweep_timer = self.loop.call_later(SWEEP_MS / 1000, self._sweep)
        self.core.watchers.on_due = self._push_soon
        self._waited = self._waits()
        if self._waited is not None:
            self._probe_later()
        return self.address

    @property
    def connections(self) -> tuple[Connection, ...]:
        """Those there are."""
        return tuple(self._connections)

    def admit(self, connection: Connection) -> bool:
        """Take a new connection in, or refuse it because there are too many."""
        core = self.core
        core.counters.connections_accepted += 1
        self._connections[connection] = None
        self._empty.clear()
        core.counters.connections_open = len(self._connections)
        within = self.addresses.take(connection.holder)
        if within and len(self._connections) <= core.limits.connections:
            return True
        core.counters.errors[ErrorCode.BUSY] += 1
        reason, who = Close.BUSY, f"node {core.name} has its {core.limits.connections} connections"
        if not within:
            reason, who = Close.PER_ADDRESS, f"this address has its {self.addresses.most} of node {core.name}"
        if len(self._connections) > core.limits.connections + limits.FILES_RESERVED // 2:
            connection.abort(reason)
            return False
        words = error_frame(ErrorCode.BUSY, f"{who} already", self.now_ms(), after_ms=limits.RECONNECT_MS_MAX)
        connection.refuse(words, reason)
        return False

    def forget(self, connection: Connection, reason: Close) -> None:
        """A connection is gone."""
        if connection not in self._connections:
            return
        del self._connections[connection]
        self.addresses.give(connection.holder)
        self.held_bytes -= connection.held_bytes
        connection.held_bytes = 0
        stats = self.core.counters
        stats.connections_closed[reason] += 1
        stats.connections_open = len(self._connections)
        if not self._connections:
            self._empty.set()

    def hold(self, connection: Connection, held_bytes: int) -> None:
        """Take note of what a connection holds in memory; beyond what all may hold, cut off the largest."""
        self.held_bytes += held_bytes - connection.held_bytes
        connection.held_bytes = held_bytes
        if self.held_bytes > self.core.limits.buffers_bytes:
            self._relieve()

    def _relieve(self) -> None:
        holding = [connection for connection in self._connections if connection.held_bytes]
        for connection in holding:  # some was sent since they told
            held_bytes = connection.measure()
            self.held_bytes += held_bytes - connection.held_bytes
            connection.held_bytes = held_bytes
        for connection in sorted(holding, key=lambda each: each.held_bytes, reverse=True):
            if self.held_bytes <= self.core.limits.buffers_bytes:
                break
            self.held_bytes -= connection.held_bytes
            connection.held_bytes = 0
            connection.abort(Close.BUFFERS)

    def _probe_later(self) -> None:
        self._probe_due_ns = perf_counter_ns() + limits.LOAD_PROBE_MS * 1_000_000
        self._probe_timer = self.loop.call_later(limits.LOAD_PROBE_MS / 1000, self._probe)

    def _probe(self) -> None:
        """Note how late this is called, and whether the thread had to wait for work since the last time."""
        self.core.counters.loop_lag.record(max(0, perf_counter_ns() - self._probe_due_ns))
        self._probe_later()
        waited = self._waits()
        self.core.note_load(self.now_ms(), waited=waited != self._waited)
        self._waited = waited

    def _sweep(self) -> None:
        self._sweep_timer = self.loop.call_later(SWEEP_MS / 1000, self._sweep)
        if not self._unswept:
            self._unswept = list(self._connections)
        now_ms = self.now_ms()
        for _ in range(-(-len(self._connections) // SWEEP_PARTS)):
            if not self._unswept:
                break
            connection = self._unswept.pop()
            if connection in self._connections:
                connection.sweep(now_ms)

    def _push_soon(self) -> None:
        if self._push_turn is None:
            self._push_turn = self.loop.call_soon(self._push)

    def _push(self) -> None:
        """Tell some of those who watch what is due; the others in the next turn."""
        self._push_turn = None
        if self.core.push(self.now_ms()):
            self._push_soon()

    def recheck(self) -> None:
        """The tokens that count have changed: whoever showed another has to leave."""
        now_ms = self.now_ms()
        for connection in list(self._connections):
            connection.recheck(now_ms)

    def stop_accepting(self) -> None:
        """Close the listening socket; connections stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def drain(self, drain_ms: int) -> int:
        """Send every peer away and wait until all have left, at most ``drain_ms``; how many had not."""
        self.stop_accepting()
        self.core.draining = True
        now_ms = self.now_ms()
        for connection in list(self._connections):
            connection.go_away(now_ms, drain_ms)
        try:
            async with asyncio.timeout(drain_ms / 1000):
                await self._empty.wait()
        except TimeoutError:
            pass
        return len(self._connections)

    async def close(self) -> None:
        """Stop accepting and drop every connection at once."""
        self.stop_accepting()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        if self._probe_timer is not None:
            self._probe_timer.cancel()
            self._probe_timer = None
        self.core.watchers.on_due = None
        if self._push_turn is not None:
            self._push_turn.cancel()
        for connection in list(self._connections):
            connection.abort(Close.DRAINED)
        await self._empty.wait()
