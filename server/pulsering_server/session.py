"""One connection as a state machine: bytes in, bytes out, and at some point a reason to close.

No socket, no loop, and no clock that an answer depends on. ``receive`` never raises for what a peer sent,
whatever it was: a breach of the protocol becomes an ERROR frame (for a stranger's protocol, one line of text)
and ``closed`` says why. Behind that, nothing is interpreted and ``receive`` answers nothing. Invariant: the
same bytes give the same answers however they were cut.
"""

from time import perf_counter_ns
from typing import TYPE_CHECKING, Final

from pulsering import limits
from pulsering._last_seen import WANT_LAST_SEEN
from pulsering.errors import FrameError
from pulsering.messages import (
    STOP_WATCH,
    WANT_AGES,
    WATCH,
    KeysRequest,
    WriteReply,
    decode_count_request,
    decode_empty,
    decode_hello,
    decode_keys_request,
    decode_topology_request,
    encode_count_reply,
    encode_error,
    encode_get_reply,
    encode_map,
    encode_watch_reply,
    encode_write_reply,
)
from pulsering.wire import (
    HEADER_BYTES,
    KNOWN_OPS,
    MAGIC,
    VERSION,
    ErrorCode,
    Frame,
    FrameReader,
    Op,
    encode_frame,
)
from pulsering_server.auth import Identity, may
from pulsering_server.datapath import FrameAge
from pulsering_server.foreign import PEEK_BYTES, recognise
from pulsering_server.stats import OUTCOMES, Close

if TYPE_CHECKING:
    from collections.abc import Callable

    from pulsering_server.node import NodeCore
    from pulsering_server.watchers import Watcher

__all__ = ["Session", "error_frame"]

VERSION_MIN: Final = 1

_WANTS: Final = WANT_AGES | WANT_LAST_SEEN
"""What a GET may ask for beside states."""

_REASONS: Final = {
    ErrorCode.BAD_FRAME: Close.BAD_FRAME,
    ErrorCode.UNSUPPORTED_VERSION: Close.UNSUPPORTED_VERSION,
    ErrorCode.HELLO_REQUIRED: Close.HELLO_REQUIRED,
    ErrorCode.CLUSTER_MISMATCH: Close.CLUSTER_MISMATCH,
    ErrorCode.FRAME_TOO_LARGE: Close.FRAME_TOO_LARGE,
    ErrorCode.HELLO_TIMEOUT: Close.HELLO_TIMEOUT,
    ErrorCode.FRAME_TIMEOUT: Close.FRAME_TIMEOUT,
    ErrorCode.UNAUTHORIZED: Close.UNAUTHORIZED,
}


def error_frame(code: int, message: str, now_ms: int, *, request_id: int = 0, after_ms: int = 0) -> bytes:
    """An ERROR frame; request id 0 speaks of the connection as a whole."""
    return encode_frame(Op.ERROR, request_id, now_ms, encode_error(code, message, after_ms), reply=True)


class Session:
    """The server's side of one connection to ``core``.

    ``receive`` takes what arrived and returns what to send; ``closed`` is None until the connection has to
    end (send what was returned, then close). ``backlog`` is true when ``receive`` stopped early, at
    ``work_max`` work or a full output: call it again, with nothing new, once the others had their turn and
    the output is read.

    What is said unasked, to who watches, goes to ``deliver``, which the shell gives; ``pause`` and ``resume``
    tell whether the peer takes it. A shell that loses its peer has to ``abandon`` the session.
    """

    __slots__ = (
        "_age",
        "_core",
        "_frame_began_ms",
        "_heard_ms",
        "_identity",
        "_may_write",
        "_reader",
        "_replies",
        "_watcher",
        "_work",
        "agent",
        "backlog",
        "closed",
        "deliver",
    )

    def __init__(self, core: "NodeCore", now_ms: int) -> None:
        self.closed: Close | None = None
        self.backlog = False
        self.deliver: Callable[[bytes], None] | None = None
        self.agent = ""
        """What the peer calls itself, in its own words: escape it before anybody reads it."""
        self._core = core
        self._reader = FrameReader()
        self._age: FrameAge | None = None
        self._heard_ms = now_ms
        self._identity: Identity | None = None
        self._may_write = True
        self._frame_began_ms: int | None = None
        self._replies: list[bytes] = []
        self._watcher: Watcher | None = None
        self._work = 0

    @property
    def pending(self) -> int:
        """Bytes that came and are not answered."""
        return self._reader.pending

    @property
    def greeted(self) -> bool:
        """Whether HELLO is done."""
        return self._age is not None

    def in_flight(self) -> int:
        """Requests that came and are not answered, of which the last may not be all there."""
        buffer, start = self._reader.buffered
        requests = 0
        while len(buffer) - start >= HEADER_BYTES:
            start += HEADER_BYTES + int.from_bytes(buffer[start + 8 : start + 12], "little")
            requests += 1
        return requests + (len(buffer) > start)

    # -- bytes in, bytes out ---------------------------------------------------------------------------------

    def receive(
        self, data: bytes | bytearray | memoryview, now_ms: int, *, work_max: int = limits.WORK_PER_TURN
    ) -> bytes:
        """Answer complete frames until ``work_max`` work is done; what is not complete waits for more."""
        if self.closed is not None:
            return b""
        now_ms = self._core.observe(now_ms)
        self._core.counters.bytes_received += len(data)
        self._work = work_max
        try:
            frames = self._answer_frames(self._join(data), now_ms)
        except FrameError as error:
            self._refuse(error, None, now_ms)
            frames = 1
        self._note_time(frames, now_ms)
        if self._core.watchers.set.waiting:
            self._core.watchers.call()
        output = b"".join(self._replies)
        self._replies.clear()
        return output

    def _join(self, data: bytes | bytearray | memoryview) -> memoryview:
        """Join what arrived to the frame begun before; returns the rest, which need not be copied for it."""
        reader = self._reader
        fresh = memoryview(data)
        if self._age is None or 0 < reader.pending < HEADER_BYTES:
            size = len(fresh)
        elif not reader.pending:
            size = 0
        else:
            buffer, start = reader.buffered
            end = HEADER_BYTES + int.from_bytes(buffer[start + 8 : start + 12], "little")
            size = end - reader.pending if end > reader.pending else len(fresh)
        if size:
            reader.feed(fresh[:size])
        return fresh[size:]

    def _answer_frames(self, fresh: memoryview, now_ms: int) -> int:
        """Answer what the reader holds, then ``fresh``: how many frames; sets ``backlog``."""
        reader = self._reader
        room = self._core.limits.output_pause_bytes
        frames = 0
        self.backlog = False
        while self._work > 0 and room > 0:
            if self._age is not None:
                begun = reader.pending > 0
                buffer, start = reader.buffered if begun else (fresh, 0)
                end, fast, replies = self._run_data_path(self._age, buffer, start, now_ms, room)
                if begun:
                    reader.skip(end - start)
                else:
                    fresh = fresh[end:]
                frames += fast
                room -= len(replies)
                if self._work <= 0 or room <= 0:
                    break
                if begun and fresh and not reader.pending:
                    continue
            if fresh:
                reader.feed(fresh)
                fresh = fresh[:0]
            frame = reader.next_frame()
            if frame is None:
                return frames
            frames += 1
            self._work -= limits.WORK_PER_FRAME
            try:
                reply = self._answer(frame, now_ms)
            except FrameError as error:
                self._refuse(error, frame.request_id, now_ms)
                return frames
            self._replies.append(reply)
            room -= len(reply)
        if fresh:
            reader.feed(fresh)
        self.backlog = reader.pending > 0
        return frames

    def _run_data_path(
        self, age: FrameAge, buffer: bytearray | memoryview, start: int, now_ms: int, output_max: int
    ) -> tuple[int, int, bytes]:
        """Let native code answer what it can from ``start`` on: (where it ended, frames, their replies)."""
        core = self._core
        end, frames, work, replies = core.data_path.run(
            buffer,
            start,
            age,
            now_ms,
            core.topology.epoch,
            core.warming_ms(now_ms),
            self._work,
            output_max,
            self._may_write,
        )
        if frames:
            self._work -= work
            self._replies.append(replies)
        return end, frames, replies

    def _note_time(self, frames: int, now_ms: int) -> None:
        if frames:
            self._heard_ms = now_ms
        if not self._reader.pending or self.backlog:
            self._frame_began_ms = None
        elif frames or self._frame_began_ms is None:
            self._frame_began_ms = now_ms

    # -- one frame -------------------------------------------------------------------------------------------

    def _answer(self, frame: Frame, now_ms: int) -> bytes:
        if frame.is_reply:
            raise FrameError(f"a reply (op {frame.op}) where a request is expected")
        if self._age is None:
            return self._reply(frame, self._hello(frame, now_ms), now_ms)
        age_ms = self._age.age_ms(frame.sender_ms, now_ms)
        op = frame.op
        stats = self._core.counters
        if op not in KNOWN_OPS or op in (Op.GOAWAY, Op.ERROR):
            stats.requests_unknown += 1
            return self._error(frame, ErrorCode.UNKNOWN_OP, f"op {op} is not served here", now_ms)
        if self._identity is not None and not may(self._identity.role, op):
            role = self._identity.role.name.lower()
            message = f"{Op(op).name} needs the role write, and this token has {role}"
            return self._error(frame, ErrorCode.FORBIDDEN, message, now_ms)
        stats.requests[op] += 1
        if op == Op.HELLO:
            raise FrameError("HELLO a second time")
        if op in (Op.HEARTBEAT, Op.LEAVE, Op.GET):
            return self._keys_op(frame, age_ms, now_ms)
        if op == Op.WATCH:
            return self._watch(frame, age_ms, now_ms)
        return self._reply(frame, self._control(frame, now_ms), now_ms)

    def _hello(self, frame: Frame, now_ms: int) -> bytes:
        core = self._core
        if frame.op != Op.HELLO:
            raise FrameError(
                f"the first frame must be HELLO, not op {frame.op}", code=ErrorCode.HELLO_REQUIRED
            )
        hello = decode_hello(frame.body)
        if hello.version_min > VERSION or hello.version_max < VERSION_MIN:
            raise FrameError(
                f"no protocol version in common: you speak {hello.version_min} to {hello.version_max},"
                f" this node {VERSION_MIN} to {VERSION}",
                code=ErrorCode.UNSUPPORTED_VERSION,
            )
        if hello.cluster not in ("", core.topology.cluster):
            raise FrameError(
                f"this is node {core.name} of cluster {core.topology.cluster}, not of {hello.cluster}",
                code=ErrorCode.CLUSTER_MISMATCH,
            )
        if core.auth is not None:
            self._identity = core.auth.identify(hello.token)
            if self._identity is None:
                what = "this token is not known" if hello.token else "a token is needed"
                raise FrameError(f"{what} to node {core.name}", code=ErrorCode.UNAUTHORIZED)
            self._may_write = may(self._identity.role, Op.HEARTBEAT)
        core.counters.requests[Op.HELLO] += 1
        self._age = FrameAge(frame.sender_ms, now_ms)
        self.agent = hello.agent
        self._reader.frame_bytes_max = core.limits.frame_bytes
        return encode_map(core.welcome(now_ms))

    def _control(self, frame: Frame, now_ms: int) -> bytes:
        core = self._core
        if frame.op == Op.COUNT:
            _, skipped = decode_count_request(frame.body)
            return encode_count_reply(core.count(skipped, now_ms))
        if frame.op == Op.TOPOLOGY:
            return core.topology_reply(decode_topology_request(frame.body), now_ms)
        assert frame.op == Op.PING
        decode_empty(frame.body)
        return encode_map(core.vitals(now_ms))

    def _keys_op(self, frame: Frame, age_ms: int, now_ms: int) -> bytes:
        core, stats = self._core, self._core.counters
        began_ns = perf_counter_ns()
        request = decode_keys_request(frame.body)
        if request.key_count > core.limits.keys_per_frame:
            return self._too_many_keys(frame, request, now_ms)
        epoch = core.topology.epoch
        if frame.op == Op.GET:
            if request.argument & ~_WANTS:
                raise FrameError(f"body: want is {request.argument}, at most {_WANTS}")
            if not core.overload.admits_get(age_ms):
                return self._busy(frame, now_ms)
            self._work -= request.key_count
            states = core.table.get(request.keys, now_ms)
            ages = core.table.get_ages(request.keys, now_ms) if request.argument & WANT_AGES else b""
            stats.note_answers(states, request.key_count)
            if request.argument & WANT_LAST_SEEN:
                self._work -= request.key_count
                body = core.seen_body(request, states, ages, now_ms)
            else:
                body = encode_get_reply(epoch, core.warming_ms(now_ms), request.key_count, states, ages)
            return self._reply_done(frame, body, now_ms, began_ns)
        ttl_ms = core.topology.ttl_ms
        if frame.op == Op.HEARTBEAT and request.argument:
            raise FrameError(f"body: the second value of a heartbeat is {request.argument}, not 0")
        if not core.overload.admits_write(age_ms):
            return self._busy(frame, now_ms)
        self._work -= request.key_count
        stats.frame_age.record(age_ms)
        stats.frame_age_ms_max = max(stats.frame_age_ms_max, age_ms)
        stats.frames_stale += age_ms >= ttl_ms
        age_ms = min(age_ms, 2 * ttl_ms)
        if frame.op == Op.HEARTBEAT:
            tally = core.table.heartbeat(request.keys, now_ms, age_ms)
        else:
            tally = core.table.leave(request.keys, now_ms, age_ms, min(request.argument, ttl_ms))
        outcomes = stats.heartbeats if frame.op == Op.HEARTBEAT else stats.leaves
        for outcome, users in zip(OUTCOMES, tally, strict=True):
            outcomes[outcome] += users
        return self._reply_done(frame, encode_write_reply(WriteReply(epoch, *tally)), now_ms, began_ns)

    def _watch(self, frame: Frame, age_ms: int, now_ms: int) -> bytes:
        core, request = self._core, decode_keys_request(frame.body)
        watchers, epoch = core.watchers, core.topology.epoch
        if request.argument not in (STOP_WATCH, WATCH):
            raise FrameError(f"body: want is {request.argument}, not {STOP_WATCH} or {WATCH}")
        if request.key_count > core.limits.keys_per_frame:
            return self._too_many_keys(frame, request, now_ms)
        self._work -= request.key_count * limits.WORK_PER_WATCH
        if request.argument == STOP_WATCH:
            if self._watcher is not None:
                watchers.set.stop(self._watcher.number, request.keys)
            return self._reply(frame, encode_watch_reply(epoch, core.warming_ms(now_ms), 0, b""), now_ms)
        if not core.overload.admits_get(age_ms):
            return self._busy(frame, now_ms)
        if self._watcher is None:
            self._watcher = watchers.add(self.deliver, now_ms)
        states = watchers.set.watch(self._watcher.number, request.keys, now_ms)
        if states is None:
            message = (
                f"this connection may watch {limits.WATCHED_USERS_PER_CONNECTION} users, and all of this node"
                f" together {core.limits.watched_users} (limits.watched_users)"
            )
            return self._error(frame, ErrorCode.WATCH_LIMIT, message, now_ms)
        body = encode_watch_reply(epoch, core.warming_ms(now_ms), request.key_count, states)
        return self._reply(frame, body, now_ms)

    # -- words to the peer -----------------------------------------------------------------------------------

    def _reply(self, frame: Frame, body: bytes, now_ms: int) -> bytes:
        return encode_frame(frame.op, frame.request_id, now_ms, body, reply=True)

    def _reply_done(self, frame: Frame, body: bytes, now_ms: int, began_ns: int) -> bytes:
        reply = self._reply(frame, body, now_ms)
        self._core.counters.service[frame.op].record(perf_counter_ns() - began_ns)
        return reply

    def _too_many_keys(self, frame: Frame, request: KeysRequest, now_ms: int) -> bytes:
        bound = self._core.limits.keys_per_frame
        message = f"{request.key_count} keys in a frame, at most {bound} here"
        return self._error(frame, ErrorCode.TOO_MANY_KEYS, message, now_ms)

    def _busy(self, frame: Frame, now_ms: int) -> bytes:
        core = self._core
        core.counters.errors[ErrorCode.BUSY] += 1
        return encode_frame(Op.ERROR, frame.request_id, now_ms, core.busy_body, reply=True)

    def _error(self, frame: Frame, code: ErrorCode, message: str, now_ms: int) -> bytes:
        self._core.counters.errors[code] += 1
        return error_frame(code, message, now_ms, request_id=frame.request_id)

    def _refuse(self, error: FrameError, request_id: int | None, now_ms: int) -> None:
        """Answer a breach of the protocol and end the session; without an id, the header itself is bad."""
        start = self._reader.peek(PEEK_BYTES)
        if not self.greeted and request_id is None and start[0] != MAGIC:
            foreign = recognise(start)
            self._replies.append(foreign.answer)
            self._end(Close(f"foreign_{foreign.kind}"))
            return
        code = ErrorCode(error.code)
        self._core.counters.errors[code] += 1
        self._replies.append(error_frame(code, str(error), now_ms, request_id=request_id or 0))
        self._end(_REASONS[code])

    def _end(self, reason: Close) -> None:
        self.closed = reason
        self.backlog = False
        self._reader = FrameReader()
        self.abandon()

    def abandon(self) -> None:
        """Nobody is there any more: watch nothing."""
        if self._watcher is not None:
            self._core.watchers.remove(self._watcher)
            self._watcher = None

    def goaway(self, now_ms: int, after_ms: int) -> bytes:
        """Tell the peer to leave, as this node stops in ``after_ms``; one that never said HELLO is closed."""
        if self.closed is not None:
            return b""
        message = f"node {self._core.name} is stopping"
        if not self.greeted:
            self._end(Close.DRAINED)
            return error_frame(ErrorCode.DRAINING, message, now_ms, after_ms=after_ms)
        body = encode_error(ErrorCode.DRAINING, message, after_ms)
        return encode_frame(Op.GOAWAY, 0, now_ms, body, reply=True)

    def recheck(self, now_ms: int) -> bytes:
        """The tokens that count have changed: end the session if its own is not among them; its last words.

        One that began when no token was needed has shown none, so it goes as well, once one is.
        """
        auth = self._core.auth
        if self.closed is not None or not self.greeted:
            return b""
        if auth is None:
            self._identity, self._may_write = None, True
            return b""
        self._identity = auth.still(self._identity.digest) if self._identity is not None else None
        if self._identity is None:
            message = f"this token is not known to node {self._core.name} any more"
            return self._end_with(ErrorCode.UNAUTHORIZED, message, now_ms)
        self._may_write = may(self._identity.role, Op.HEARTBEAT)
        return b""

    def expire(self, now_ms: int, *, paused: bool = False) -> bytes:
        """Close the session if its peer was silent, or slow within a frame, for too long; its last words.

        While ``paused`` we do not read, so a frame that does not get on is not the peer's fault.
        """
        if self.closed is not None:
            return b""
        silent_ms = now_ms - self._heard_ms
        if not self.greeted and silent_ms >= limits.HELLO_TIMEOUT_MS:
            return self._end_with(ErrorCode.HELLO_TIMEOUT, f"no HELLO within {silent_ms} ms", now_ms)
        began_ms = self._frame_began_ms
        if not paused and began_ms is not None and now_ms - began_ms >= limits.FRAME_TIMEOUT_MS:
            message = f"a frame unfinished after {now_ms - began_ms} ms"
            return self._end_with(ErrorCode.FRAME_TIMEOUT, message, now_ms)
        if silent_ms >= limits.IDLE_TIMEOUT_MS:
            self._end(Close.IDLE)
        return b""

    def _end_with(self, code: ErrorCode, message: str, now_ms: int) -> bytes:
        self._core.counters.errors[code] += 1
        self._end(_REASONS[code])
        return error_frame(code, message, now_ms)

    def pause(self) -> None:
        """The peer does not take what it is sent: push nothing to it."""
        if self._watcher is not None:
            self._watcher.paused = True

    def resume(self, now_ms: int) -> None:
        """Reading goes on after a pause of ours: an unfinished frame gets its whole time again."""
        if self._watcher is not None:
            self._watcher.resume()
        if self._frame_began_ms is not None:
            self._frame_began_ms = now_ms
