"""One accepted socket: feeds what arrived to its ``Session``, and sends what that answers, once a loop turn.

Nothing is decided here. A peer whose replies pile up unread is no longer read and its requests wait; one that
reads nothing for ``OUTPUT_TIMEOUT_MS``, or lets replies grow beyond ``output_close``, is cut off. One with
many frames at hand gets ``WORK_PER_TURN`` of work done, then the others have their turn. Where TLS is spoken
it lies between socket and session (``tls``).
"""

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Final, cast

import structlog

from pulsering import limits
from pulsering_server.addresses import holder_of
from pulsering_server.foreign import PEEK_BYTES, plain_answer
from pulsering_server.session import Session
from pulsering_server.stats import Close
from pulsering_server.tls import TlsFailed, TlsLayer

if TYPE_CHECKING:
    from pulsering_server.listener import Listener

__all__ = ["Connection"]

_ORDINARY: Final = frozenset({Close.LEFT, Close.IDLE, Close.DRAINED})
"""Ends that nobody needs to read about."""

log = structlog.get_logger("pulsering_server.connection")


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
        "_tls",
        "_transport",
        "_turn",
        "bytes_received",
        "bytes_sent",
        "held_bytes",
        "holder",
        "since_ms",
    )

    def __init__(self, listener: "Listener") -> None:
        self.held_bytes = self.bytes_received = self.bytes_sent = 0
        self.since_ms = listener.now_ms()
        self._listener = listener
        self.holder = ""
        """Whom it is counted for (``addresses``)."""
        self._session: Session | None = None
        self._tls: TlsLayer | None = None
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
        name: Any = transport.get_extra_info("peername")
        self.holder = holder_of(name[0]) if isinstance(name, tuple) and name else ""
        if listener.tls is not None:
            self._tls = TlsLayer(listener.tls)
        if listener.admit(self):
            self._session = Session(listener.core, listener.now_ms())
            self._session.deliver = self.send

    def get_buffer(self, _size_hint: int) -> memoryview:
        """Where the loop puts what it receives next."""
        return self._listener.received

    def buffer_updated(self, size: int) -> None:
        """Answer what arrived, or keep it for the turn when this peer's output is read again."""
        self.bytes_received += size
        if self._session is not None and self._closing_ms is None:
            data = self._listener.received[:size]
            if self._tls is None:
                self._feed(data)
            else:
                self._decrypt(self._tls, data)

    def _decrypt(self, tls: TlsLayer, data: memoryview) -> None:
        try:
            plain = tls.receive(data)
        except TlsFailed as error:
            self._tls = None  # its last words are made, or the peer would not understand them
            if error.plain:
                self._end(plain_answer(bytes(data[:PEEK_BYTES]), self._listener.now_ms()), Close.PLAINTEXT)
            else:
                log.warning("conn.tls_failed", peer=self.peer, reason=str(error))
                self._end(tls.take(), Close.TLS)
            return
        self._write(tls.take())
        if plain:
            self._feed(plain)
        if tls.ended and self._closing_ms is None:
            self._flush()
            self._transport.close()

    def pause_writing(self) -> None:
        """The peer does not read its replies: stop reading its requests."""
        self._paused_ms = self._listener.now_ms()
        self._listener.core.counters.pauses += 1
        if self._session is not None:
            self._session.pause()
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
        if self._session is not None:
            self._session.abandon()
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
        self._write(output if self._tls is None else self._tls.wrap(output))
        unread = self._transport.get_write_buffer_size()
        if unread > self._listener.core.limits.output_close_bytes:
            self._cut(Close.UNREAD)
        elif unread:
            self._account()

    def _write(self, output: bytes) -> None:
        if output:
            self._transport.write(output)

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
        if self._tls is not None:
            self._write(self._tls.farewell())
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

    def refuse(self, last_words: bytes, reason: Close) -> None:
        """Say why there is no session, and close. By TLS nothing can be said: that would take a handshake."""
        self._end(last_words, reason)

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

    def recheck(self, now_ms: int) -> None:
        """The tokens that count have changed."""
        session = self._session
        if session is None or self._closing_ms is not None:
            return
        last_words = session.recheck(now_ms)
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
