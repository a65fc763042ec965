"""One TCP connection to a node: requests go out, each reply finds its own request.

A skin over the sans-IO parts: ``data_received`` only feeds the reader, checks each frame against the request
it claims to answer, and hands the decoded reply on. Frames of one loop turn leave in one write. A request
that nobody waits for any more stays behind as a tombstone, so that its late reply is swallowed and never
reaches another call; one that was not sent yet is simply forgotten. Whatever the protocol does not allow ends
the connection and is reported as a breach. Invariant: every request is told exactly one outcome, or was
abandoned by its caller.
"""

import asyncio
import contextlib
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from pulsering import limits, messages
from pulsering._last_seen import GetSeenReply, decode_get_seen_reply
from pulsering._request import Request
from pulsering.credentials import explain
from pulsering.errors import (
    ClusterMismatch,
    FrameError,
    NodeBusy,
    NodeDraining,
    NodeUnavailable,
    NotServed,
    Overloaded,
    PresenceError,
    ProtocolError,
    Unauthorized,
    VersionMismatch,
)
from pulsering.frame_age import FrameAge
from pulsering.transport import now_ms
from pulsering.wire import HEADER_BYTES, REPLY, VERSION, ErrorCode, Frame, FrameReader, Op, encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Connection", "resolve"]

_GOAWAY: Final = int(Op.GOAWAY)
_ERROR: Final = int(Op.ERROR)
_WATCH: Final = int(Op.WATCH)
_DATED: Final = frozenset({int(Op.HELLO), _WATCH})
"""Replies whose age is told: the first of a connection, and those that what follows is a sequel of."""
_WRITE_HIGH_BYTES: Final = 256 << 10
"""Unsent bytes in the transport before further frames wait in the queue, where they can be abandoned."""

PINGS_MISSED_MAX: Final = 2
"""Pings without an answer before the node counts as dead."""


class Connection(asyncio.Protocol):
    """An asyncio protocol, ready for requests once ``hello`` has returned.

    ``on_change`` is called when the connection starts draining and when it is lost, before the requests that
    fail by it: whatever they do next finds it gone.
    """

    def __init__(
        self,
        label: str,
        loop: asyncio.AbstractEventLoop,
        on_change: "Callable[[Connection], None]",
        clock: "Callable[[], int]" = now_ms,
    ) -> None:
        self.label = label
        self.draining_ms: int | None = None
        """Milliseconds until the node stops, once it has said GOAWAY."""
        self.error: PresenceError | None = None
        """Why the connection ended."""
        self.welcome: messages.Welcome | None = None
        self.heard_at = 0.0
        """Loop time of the last reply."""
        self.on_vitals: Callable[[messages.Vitals], None] | None = None
        """Told what the node says of itself with each ping: also who is never asked hears of a new epoch."""
        self.on_watch: Callable[[messages.WatchPush], None] | None = None
        """Told what the node pushes to who watches."""
        self.lasting = False
        """Whether it is kept when there is little to do."""
        self.age_ms = 0
        """How long the last WATCH frame was under way, beyond what frames take."""
        self._loop = loop
        self._on_change = on_change
        self._now_ms = clock
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._in_flight: dict[int, Request] = {}
        self._queued: OrderedDict[int, Request] = OrderedDict()
        self._in_flight_max = 1
        self._next_id = 1
        self._output: list[bytes] = []
        self._flush_due = False
        self._paused = False
        self._lost = asyncio.Event()
        self._ping: Request | None = None
        self._missed = 0
        self._timer: asyncio.TimerHandle | None = None
        self._age: FrameAge | None = None

    # --- What the channel asks ---------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether new requests may be sent."""
        return self.welcome is not None and self.error is None and self.draining_ms is None

    @property
    def load(self) -> int:
        """Requests that have no answer yet, tombstones included."""
        return len(self._in_flight) + len(self._queued)

    async def hello(self, hello: messages.Hello) -> messages.Welcome:
        """Shake hands; raises what the node said, or what is wrong with it."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        request = Request(Op.HELLO, messages.encode_map(hello), self._now_ms(), partial(resolve, answer))
        self.send(request)
        try:
            welcome: messages.Welcome = await answer
        finally:
            request.abandon()
        self._check_welcome(welcome, hello)
        self.welcome = welcome
        self._reader.frame_bytes_max = limits.FRAME_BYTES_MAX
        self._in_flight_max = min(welcome.in_flight, limits.IN_FLIGHT_MAX)
        self._timer = self._loop.call_later(limits.PING_MS / 1000, self._on_ping_due)
        return welcome

    def send(self, request: Request) -> None:
        """Send now, or as soon as the node's in-flight limit and the socket allow."""
        if self.error is not None:
            request.settle(None, self.error)
            return
        request.id = self._take_id()
        request.connection = self
        if self._paused or len(self._in_flight) >= self._in_flight_max or self._queued:
            self._queued[request.id] = request
        else:
            self._transmit(request)

    def forget(self, request: Request) -> None:
        """A request was abandoned: if it has not been sent, it never is."""
        self._queued.pop(request.id, None)

    def close(self, error: PresenceError) -> None:
        """End the connection; every request without an answer gets ``error``."""
        if self.error is not None:
            return
        self.error = error
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._end_transport(self._transport)
        orphans = [*self._in_flight.values(), *self._queued.values()]
        self._in_flight.clear()
        self._queued.clear()
        self._output.clear()
        self._on_change(self)
        for request in orphans:
            request.settle(None, error)

    async def wait_lost(self) -> None:
        """Until the socket is closed; it is about to be once ``close`` was called."""
        if self._transport is not None and not self._lost.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._lost.wait()

    def _end_transport(self, transport: asyncio.Transport) -> None:
        # An orderly FIN when nothing is left to say, or else no lingering for a peer that does not read. TLS
        # would hold the socket for its closing handshake.
        if transport.get_write_buffer_size() or transport.get_extra_info("ssl_object") is not None:
            transport.abort()
        else:
            transport.close()

    # --- What asyncio calls ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        if self.error is not None:
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)

    def data_received(self, data: bytes) -> None:
        if self.error is None:
            self._reader.feed(data)
            self._take_frames()

    def eof_received(self) -> None:
        return None  # asyncio closes the transport, connection_lost tells the requests

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost.set()
        self.close(
            self._draining_error()
            if self.draining_ms is not None
            else NodeUnavailable(
                f"{self.label}: connection lost ({(exc and explain(exc)) or exc or 'closed by the node'})",
                node=self.label,
            )
        )

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pump()

    # --- Out ---------------------------------------------------------------------------------------------

    def _take_id(self) -> int:
        request_id = self._next_id
        while request_id in self._in_flight or request_id in self._queued:
            request_id = request_id % messages.U32_MAX + 1
        self._next_id = request_id % messages.U32_MAX + 1
        return request_id

    def _transmit(self, request: Request) -> None:
        self._in_flight[request.id] = request
        request.sent_at = self._loop.time()
        self._output.append(encode_frame(request.op, request.id, request.sender_ms, request.body))
        request.body = b""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        output, self._output = self._output, []
        if self._transport is not None and self.error is None:
            self._transport.write(output[0] if len(output) == 1 else b"".join(output))

    def _pump(self) -> None:
        while self._queued and not self._paused and len(self._in_flight) < self._in_flight_max:
            _, request = self._queued.popitem(last=False)
            self._transmit(request)

    # --- In ----------------------------------------------------------------------------------------------

    def _take_frames(self) -> None:
        reader = self._reader
        try:
            while (frame := reader.next_frame()) is not None:
                self._dispatch(frame)
                if self.error is not None:
                    return
        except FrameError as error:
            self._breach(str(error))
            return
        if self._queued:
            self._pump()
        if self.draining_ms is not None and not self._in_flight:
            self.close(self._draining_error())

    def _dispatch(self, frame: Frame) -> None:
        op, flags, request_id, _, body = frame
        self.heard_at = self._loop.time()
        if not flags & REPLY:
            self._breach(f"a request (op {op}) from a node")
        elif op == _GOAWAY:
            self._on_goaway(frame)
        elif op == _ERROR:
            self._on_error(frame)
        elif op == _WATCH and not request_id:
            self._on_push(frame)
        else:
            request = self._in_flight.pop(request_id, None)
            if request is None:
                self._breach(f"a reply to request {request_id}, which is not waiting for one")
                return
            if op != request.op:
                self._breach(f"a reply of op {op} to a request of op {request.op.name}", request)
                return
            try:
                reply = _READERS[op](body, request)
            except FrameError as error:
                self._breach(f"{request.op.name} reply: {error}", request)
                return
            if op in _DATED:
                self._date(frame)
            request.settle(reply, None)

    def _on_push(self, frame: Frame) -> None:
        try:
            push = messages.decode_watch_push(frame.body)
        except FrameError as error:
            self._breach(f"WATCH push: {error}")
            return
        if self.on_watch is None:
            self._breach("a WATCH push, and nobody has watched")
            return
        self._date(frame)
        self.on_watch(push)

    def _date(self, frame: Frame) -> None:
        now_ms = self._now_ms()
        if self._age is None:
            self._age = FrameAge(frame.sender_ms, now_ms)
        self.age_ms = self._age.age_ms(frame.sender_ms, now_ms)

    def _on_goaway(self, frame: Frame) -> None:
        self.draining_ms = messages.decode_error(frame.body).after_ms
        waiting = list(self._queued.values())
        self._queued.clear()
        self._on_change(self)
        for request in waiting:
            request.settle(None, self._draining_error())

    def _on_error(self, frame: Frame) -> None:
        reply = messages.decode_error(frame.body)
        request = self._in_flight.pop(frame.request_id, None)
        op = request.op.name if request is not None else None
        error = self._error_of(reply, op)
        if request is not None:
            request.settle(None, error)
        if reply.code < ErrorCode.UNKNOWN_OP:
            self.close(error)
        elif request is None:
            self._breach(f"an error for request {frame.request_id}, which is not waiting for an answer")

    def _error_of(self, reply: messages.ErrorReply, op: str | None) -> PresenceError:
        text = f"{self.label} refused: {reply.message}"
        match reply.code:
            case ErrorCode.BUSY:
                return NodeBusy(text, node=self.label, op=op, retry_after=reply.after_ms / 1000)
            case ErrorCode.DRAINING:
                return NodeDraining(text, node=self.label, op=op)
            case ErrorCode.UNAUTHORIZED | ErrorCode.FORBIDDEN:
                return Unauthorized(text, node=self.label, op=op)
            case ErrorCode.UNKNOWN_OP:
                return NotServed(f"{text}; nodes are upgraded before services", node=self.label, op=op)
            case ErrorCode.WATCH_LIMIT:
                return Overloaded(text, node=self.label, op=op)
            case ErrorCode.CLUSTER_MISMATCH:
                return ClusterMismatch(text, node=self.label, op=op)
            case ErrorCode.UNSUPPORTED_VERSION:
                return VersionMismatch(text, ours=(VERSION, VERSION), theirs=(0, 0), node=self.label)
            case _:
                return ProtocolError(text, node=self.label, op=op)

    def _draining_error(self) -> NodeDraining:
        return NodeDraining(f"{self.label} is draining and takes no more requests", node=self.label)

    def _breach(self, what: str, request: Request | None = None) -> None:
        error = ProtocolError(f"{self.label} broke the protocol: {what}", node=self.label)
        if request is not None:
            request.settle(None, error)
        self.close(error)

    def _check_welcome(self, welcome: messages.Welcome, hello: messages.Hello) -> None:
        error: PresenceError | None = None
        if not hello.version_min <= welcome.version <= hello.version_max:
            error = VersionMismatch(
                f"{self.label} chose protocol version {welcome.version}, which was not offered",
                ours=(hello.version_min, hello.version_max),
                theirs=(welcome.version, welcome.version),
                node=self.label,
            )
        elif hello.cluster and welcome.cluster != hello.cluster:
            error = ClusterMismatch(
                f"{self.label} belongs to cluster {welcome.cluster!r}, not {hello.cluster!r}", node=self.label
            )
        elif (
            welcome.keys_per_frame < 1
            or welcome.in_flight < 2
            or welcome.frame_bytes_max < HEADER_BYTES + 24 + welcome.keys_per_frame * messages.KEY_BYTES
        ):
            error = ProtocolError(
                f"{self.label} announced limits that leave no room for a request", node=self.label
            )
        if error is not None:
            self.close(error)
            raise error

    # --- Alive? ------------------------------------------------------------------------------------------

    def _on_ping_due(self) -> None:
        self._timer = self._loop.call_later(limits.PING_MS / 1000, self._on_ping_due)
        if self._ping is not None or self._paused:  # who does not read cannot answer either
            self._missed += 1
            if self._missed >= PINGS_MISSED_MAX:
                self.close(
                    NodeUnavailable(f"{self.label}: {self._missed} pings without an answer", node=self.label)
                )
            return
        self._ping = Request(Op.PING, messages.EMPTY_BODY, self._now_ms(), self._on_pong)
        self._ping.id = self._take_id()
        self._transmit(self._ping)

    def _on_pong(self, request: Request, reply: Any, error: PresenceError | None) -> None:
        self._ping = None
        self._missed = 0
        if reply is not None and self.on_vitals is not None:
            self.on_vitals(reply)


_Reader: TypeAlias = "Callable[[bytes, Request], Any]"


def _read_write(body: bytes, request: Request) -> messages.WriteReply:
    return messages.decode_write_reply(body, request.count)


def _read_get(body: bytes, request: Request) -> "messages.GetReply | GetSeenReply":
    if request.want_last_seen:
        return decode_get_seen_reply(body, request.count, want_ages=request.want_ages)
    return messages.decode_get_reply(body, request.count, want_ages=request.want_ages)


_READERS: "Final[dict[int, _Reader]]" = {
    Op.HEARTBEAT: _read_write,
    Op.LEAVE: _read_write,
    Op.GET: _read_get,
    Op.WATCH: lambda body, request: messages.decode_watch_reply(body, request.count),
    Op.COUNT: lambda body, request: messages.decode_count_reply(body),
    Op.HELLO: lambda body, request: messages.decode_welcome(body),
    Op.PING: lambda body, request: messages.decode_vitals(body),
    Op.TOPOLOGY: lambda body, request: messages.decode_map(body),
}
"""How the reply to each op is read."""


def resolve(future: "asyncio.Future[Any]", request: Request, reply: Any, error: PresenceError | None) -> None:
    """Give a future the outcome of a request, unless its task was cancelled."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(reply)
