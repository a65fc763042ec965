"""The asyncio skin around a node: sockets in, sockets out, and nothing decided here.

``Connection`` feeds what arrived to its ``Session`` and sends what that answers, once a loop turn.
``Listener`` owns the listening socket and the set of connections: the cap on them, one sweep for the timeouts
of all, and the way to an orderly end. It keeps the set itself, because uvloop's ``Server`` cannot close its
clients.

Back-pressure: a peer whose replies pile up unread is no longer read and its requests wait; one that reads
nothing for ``OUTPUT_TIMEOUT_MS``, or lets replies grow beyond ``output_close``, is cut off; so is whoever
holds most, when all together hold more than ``buffers``. A connection with many frames at hand gets
``WORK_PER_TURN`` of work done, then the others have their turn. The listener also tells the core whether this
thread ever waits for work, from which it knows overload.
"""

import asyncio
import resource
import socket
from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, cast

import structlog

from pulsering import limits
from pulsering.wire import ErrorCode
from pulsering_server.session import Session, error_frame
from pulsering_server.stats import Close

if TYPE_CHECKING:
    from pulsering_server.node import NodeCore

__all__ = ["Connection", "Listener", "thread_waits"]

SWEEP_MS: Final = 250
SWEEP_PARTS: Final = 4
"""Every connection is looked at once a second, a quarter of them at a time: 10,000 take about half a ms."""

BACKLOG: Final = 1024
"""Connections the kernel holds for us while a loop turn lasts."""

_ORDINARY: Final = frozenset({Close.LEFT, Close.IDLE, Close.DRAINED})
"""Ends that nobody needs to read about."""

log = structlog.get_logger("pulsering_server.listener")


def thread_waits() -> int | None:
    """How often this thread has waited for anything since its start; None where the system does not tell.

    Time that others took from it is not waiting, so a node short of CPU knows that it is.
    """
    if not hasattr(resource, "RUSAGE_THREAD"):
        return None  # pragma: no cover - the node runs on Linux
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


class Connection(asyncio.BufferedProtocol):
    """One accepted socket. What it receives lies in a buffer that all share, and is used up at once."""

    __slots__ = (
        "_closing_ms",
        "_listener",
        "_output",
        "_paused_ms",
        "_reading",
        "_reason",
        "_session",
        "_transport",
        "_turn",
        "bytes_received",
        "bytes_sent",
        "held_bytes",
        "since_ms",
    )

    def __init__(self, listener: "Listener") -> None:
        self.held_bytes = self.bytes_received = self.bytes_sent = 0
        self.since_ms = listener.now_ms()
        self._listener = listener
        self._session: Session | None = None
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._output: list[bytes] = []
        self._turn: asyncio.Handle | None = None
        self._paused_ms: int | None = None
        self._closing_ms: int | None = None
        self._reading = True
        self._reason = Close.LEFT

    # -- called by the loop ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin a session, or refuse a connection too many."""
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener = self._listener
        pause = listener.core.limits.output_pause_bytes
        self._transport.set_write_buffer_limits(high=pause, low=min(limits.OUTPUT_RESUME_BYTES, pause // 2))
        if listener.admit(self):
            self._session = Session(listener.core, listener.now_ms())

    def get_buffer(self, _size_hint: int) -> memoryview:
        """Where the loop puts what it receives next."""
        return self._listener.received

    def buffer_updated(self, size: int) -> None:
        """Answer what arrived, or keep it for the turn when this peer's output is read again."""
        self.bytes_received += size
        if self._session is not None and self._closing_ms is None:
            self._feed(self._listener.received[:size])

    def pause_writing(self) -> None:
        """The peer does not read its replies: stop reading its requests."""
        self._paused_ms = self._listener.now_ms()
        self._listener.core.counters.pauses += 1
        self._read_or_not()

    def resume_writing(self) -> None:
        """It reads again: go on with what it asked meanwhile."""
        self._paused_ms = None
        self._account()
        if self._closing_ms is not None or self._session is None:
            return
        self._session.resume(self._listener.now_ms())
        self._read_or_not()
        if self._session.backlog:
            self._schedule()

    def _read_or_not(self) -> None:
        """Read only when what was read before is answered and the answers are taken."""
        session = self._session
        if self._closing_ms is not None or session is None:
            return
        wanted = self._paused_ms is None and not session.backlog
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def eof_received(self) -> bool:
        """A peer that half-closes has left: it gets the answers that are made, and no more."""
        self._flush()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        self._session = None
        self._output.clear()
        self._listener.forget(self, self._reason)

    # -- turns -----------------------------------------------------------------------------------------------

    def _feed(self, data: bytes | memoryview) -> None:
        session = self._session
        assert session is not None
        try:
            output = session.receive(data, self._listener.now_ms())
        except Exception:
            # A fault of ours may cost this connection, never the node.
            log.exception("conn.fault", peer=self.peer)
            self._cut(Close.FAULT)
            return
        if session.closed is not None:
            self._end(output, session.closed)
            return
        if output:
            self._output.append(output)
        if output or session.backlog:
            self._schedule()
        self._read_or_not()
        if session.pending or self.held_bytes:
            self._account()

    def _schedule(self) -> None:
        if self._turn is None:
            self._turn = self._listener.loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        """Send what this loop turn made, and go on with the backlog."""
        self._turn = None
        self._flush()
        session = self._session
        if self._closing_ms is not None or session is None or self._paused_ms is not None:
            return
        if session.backlog:
            self._feed(b"")

    def _flush(self) -> None:
        if not self._output or self._transport.is_closing():
            return
        output = self._output[0] if len(self._output) == 1 else b"".join(self._output)
        self._output.clear()
        stats = self._listener.core.counters
        stats.bytes_sent += len(output)
        self.bytes_sent += len(output)
        self._transport.write(output)
        unread = self._transport.get_write_buffer_size()
        if unread > self._listener.core.limits.output_close_bytes:
            self._cut(Close.UNREAD)
        elif unread:
            self._account()

    def measure(self) -> int:
        """Bytes that this connection holds in memory: requests not answered and replies not taken."""
        if self._session is None or self._closing_ms is not None:
            return 0
        return self._transport.get_write_buffer_size() + self._session.pending

    def _account(self) -> None:
        held_bytes = self.measure()
        if held_bytes != self.held_bytes:
            self._listener.hold(self, held_bytes)

    def send(self, output: bytes) -> None:
        """Send ``output`` with this turn's replies."""
        if output and self._closing_ms is None:
            self._output.append(output)
            self._schedule()

    def _end(self, last_words: bytes, reason: Close) -> None:
        """Send what is left, then close; ``sweep`` cuts off a peer that does not take it."""
        self._note(reason)
        self._output.append(last_words)
        self._flush()
        self._closing_ms = self._listener.now_ms()
        self._transport.close()

    def _cut(self, reason: Close) -> None:
        """Close without another word."""
        self._note(reason)
        self._closing_ms = self._listener.now_ms()
        self._transport.abort()

    def _note(self, reason: Close) -> None:
        self._reason = reason
        if reason not in _ORDINARY:
            log.warning("conn.closed", peer=self.peer, reason=reason.value)

    # -- called by the listener ------------------------------------------------------------------------------

    @property
    def peer(self) -> str:
        """The other end's address, for the log."""
        name: Any = self._transport.get_extra_info("peername")
        return f"{name[0]}:{name[1]}" if isinstance(name, tuple) and len(name) >= 2 else str(name)

    @property
    def agent(self) -> str:
        """What the peer calls itself; empty before HELLO."""
        return self._session.agent if self._session is not None else ""

    @property
    def in_flight(self) -> int:
        """Requests that came and are not answered."""
        return self._session.in_flight() if self._session is not None else 0

    @property
    def paused(self) -> bool:
        """Whether its requests wait until it has read its replies."""
        return self._paused_ms is not None

    def refuse(self, last_words: bytes) -> None:
        """Say why there is no session, and close."""
        self._end(last_words, Close.BUSY)

    def sweep(self, now_ms: int) -> None:
        """End the connection if it is overdue in any way."""
        session = self._session
        if self.held_bytes:
            self._account()
        if self._closing_ms is not None:
            if now_ms - self._closing_ms >= limits.CLOSE_TIMEOUT_MS:
                self._transport.abort()
        elif self._paused_ms is not None and now_ms - self._paused_ms >= limits.OUTPUT_TIMEOUT_MS:
            self._cut(Close.UNREAD)
        elif session is not None and not session.backlog:
            last_words = session.expire(now_ms, paused=self._paused_ms is not None)
            if session.closed is not None:
                self._end(last_words, session.closed)

    def go_away(self, now_ms: int, after_ms: int) -> None:
        """Ask the peer to leave."""
        session = self._session
        if session is None or self._closing_ms is not None:
            return
        output = session.goaway(now_ms, after_ms)
        if session.closed is not None:
            self._end(output, session.closed)
        else:
            self.send(output)

    def abort(self, reason: Close) -> None:
        """Drop the socket and whatever was still to be sent."""
        self._cut(reason)


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
        self.received = memoryview(bytearray(limits.RECEIVE_BYTES))
        self._waits = waits
        self._waited: int | None = None
        self._probe_timer: asyncio.TimerHandle | None = None
        self._probe_due_ns = 0
        self.loop = asyncio.get_running_loop()
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
        if len(self._connections) <= core.limits.connections:
            return True
        core.counters.errors[ErrorCode.BUSY] += 1
        if len(self._connections) > core.limits.connections + limits.FILES_RESERVED // 2:
            connection.abort(Close.BUSY)
            return False
        message = f"node {core.name} has its {core.limits.connections} connections already"
        words = error_frame(ErrorCode.BUSY, message, self.now_ms(), after_ms=limits.RECONNECT_MS_MAX)
        connection.refuse(words)
        return False

    def forget(self, connection: Connection, reason: Close) -> None:
        """A connection is gone."""
        if connection not in self._connections:
            return
        del self._connections[connection]
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
        for connection in list(self._connections):
            connection.abort(Close.DRAINED)
        await self._empty.wait()
