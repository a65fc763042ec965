"""What is fuzzed: the two places where bytes of a stranger are read, each as a function of some bytes.

``request`` is a node's side: a ``Session`` before or after HELLO, with and without the right to write, fed in
pieces of any size. Two nodes hear the same, one of them without the native data path, and must answer the
same. ``reply`` is a client's side: frames are cut out of a stream and read as the replies that they claim to
be, by the native readers and by the cursor that specifies them. The first byte of an input says which of all
that it is about.

Allowed is an answer, or a ``FrameError`` on the client's side (``ValueError`` for a topology that cannot be).
All else that is raised, and every difference, is a bug. State does not grow: nodes are small, and new now and
then.
"""

import contextlib
from collections.abc import Callable
from typing import Any, Final

from support.node_driver import World, hello_body

from pulsering import kernel, limits, messages
from pulsering._last_seen import decode_get_seen_reply
from pulsering.errors import FrameError
from pulsering.topology import Topology
from pulsering.wire import ErrorCode, FrameReader, Op, encode_frame
from pulsering_server import _datapath_reference
from pulsering_server.auth import Auth, Role
from pulsering_server.session import Session

__all__ = ["TARGETS", "reply", "request"]

TOKEN: Final = "0123456789abcdef"
FRAME_BYTES: Final = 8192
"""What both sides take at most: enough for every shape of frame, and inputs stay small."""

ROUNDS: Final = 10_000
"""Inputs that a pair of nodes hears before there is a new one."""

_FOREIGN: Final = (b"this port is a Pulsering", b"HTTP/1.0 400", b"-ERR this port")
_HELLO: Final = encode_frame(Op.HELLO, 0, 1000, hello_body(token=TOKEN))
_KINDS: Final = [
    Op.HELLO, Op.PING, Op.HEARTBEAT, Op.LEAVE, Op.GET, Op.COUNT, Op.TOPOLOGY, Op.WATCH, Op.ERROR,
]  # fmt: skip


class _Pair:
    """Two nodes that hear the same."""

    def __init__(self) -> None:
        self.rounds = 0
        self.worlds = [self._world(compiled=True), self._world(compiled=False)]

    @staticmethod
    def _world(*, compiled: bool) -> World:
        world = World(
            keys_per_frame=64, frame_bytes=FRAME_BYTES, users=1000, memory_bytes=1 << 20, watched_users=100
        )
        core = world.cores["a"]
        if not compiled:
            core.data_path = _datapath_reference.DataPath(core.table, 64, FRAME_BYTES, core.busy_body)
        return world


_pair: list[_Pair] = []


def _next_pair() -> _Pair:
    if not _pair or _pair[0].rounds >= ROUNDS:
        _pair[:] = [_Pair()]
    _pair[0].rounds += 1
    return _pair[0]


def request(data: bytes) -> None:
    """Feed what a peer may say to both nodes; see the module."""
    if not data:
        return
    mode, stream = data[0], data[1:]
    role = (None, Role.READ, Role.WRITE, Role.ADMIN)[mode & 3]
    greeted, pressed, step = mode & 4, mode & 8, (mode >> 4) ** 2 or len(stream) or 1
    heard = []
    for world in _next_pair().worlds:
        core = world.cores["a"]
        core.auth = Auth([(role, TOKEN)]) if role is not None else None
        world.now_ms += 7
        core.tick(world.now_ms)  # the native path turns the wheel with each call, the other with each tick
        core.note_load(world.now_ms, waited=not pressed)
        session = Session(core, world.now_ms)
        said, pushed = bytearray(), bytearray()
        session.deliver = pushed.extend
        if greeted:
            assert session.receive(_HELLO, world.now_ms)
        for start in range(0, len(stream), step):
            said += _receive(session, stream[start : start + step], world.now_ms)
            assert session.pending <= FRAME_BYTES, "more is kept than one frame may have"
            while core.push(world.now_ms):
                pass
        said += session.goaway(world.now_ms, 0)
        session.abandon()
        assert core.watchers.set.watches == 0, "who is gone watches nothing"
        _check_said(bytes(pushed))
        heard.append((bytes(said), session.closed, session.pending, bytes(pushed)))
    assert heard[0] == heard[1], "native and Python differ"
    answer, closed, *_ = heard[0]
    if closed is not None and closed.startswith("foreign"):
        assert answer.startswith(_FOREIGN), "a stranger gets a word of ours, and before anything else"
    else:
        _check_said(answer)


def _receive(session: Session, part: bytes, now_ms: int) -> bytes:
    said = session.receive(part, now_ms)
    while session.backlog:
        said += session.receive(b"", now_ms)
    if session.closed is not None:
        assert session.receive(_HELLO, now_ms) == b"", "who is closed says nothing more"
    return said


def _check_said(said: bytes) -> None:
    """A node says whole frames, all of them replies that a client can read."""
    reader = FrameReader(limits.FRAME_BYTES_MAX)
    reader.feed(said)
    while (frame := reader.next_frame()) is not None:
        assert frame.is_reply
        if frame.op in (Op.ERROR, Op.GOAWAY):
            ErrorCode(messages.decode_error(frame.body).code)
        elif frame.op == Op.WATCH and not frame.request_id:
            with contextlib.suppress(FrameError):  # it may as well answer a request of that number
                messages.decode_watch_push(frame.body)
    assert reader.pending == 0, "half a frame"


def reply(data: bytes) -> None:
    """Read what a node may say as a client does; see the module."""
    if not data:
        return
    mode, stream = data[0], data[1:]
    count, want_ages, step = mode & 7, bool(mode & 8), (mode >> 4) ** 2 or len(stream) or 1
    reader = FrameReader(FRAME_BYTES)
    try:
        for start in range(0, len(stream), step):
            reader.feed(stream[start : start + step])
            while (frame := reader.next_frame()) is not None:
                _read(frame.op, frame.body, count, want_ages)
            assert reader.pending <= FRAME_BYTES + step
    except FrameError:
        try:
            reader.next_frame()
        except FrameError:
            return
        raise AssertionError("after an error a reader stays broken") from None


def _read(op: int, body: bytes, count: int, want_ages: bool) -> None:
    """Read one body by every reader that its op may mean; ops of no meaning take turns with the others."""
    kind = op if op in _KINDS else _KINDS[op % len(_KINDS)]
    if kind in (Op.HEARTBEAT, Op.LEAVE):
        _same(
            lambda: kernel.read_write_reply(body, count),
            lambda: messages.read_write_reply(body, count),
            lambda: messages.decode_write_reply(body, count),
        )
    elif kind == Op.GET:
        _same(
            lambda: kernel.read_get_reply(body, count, want_ages),
            lambda: messages.read_get_reply(body, count, want_ages=want_ages),
            lambda: messages.decode_get_reply(body, count, want_ages=want_ages),
        )
        with contextlib.suppress(FrameError):
            decode_get_seen_reply(body, count, want_ages=want_ages)
    elif kind == Op.WATCH:
        with contextlib.suppress(FrameError):
            messages.decode_watch_reply(body, count)
        with contextlib.suppress(FrameError):
            messages.decode_watch_push(body)
    elif kind == Op.TOPOLOGY:
        with contextlib.suppress(FrameError, ValueError):
            Topology.from_wire(messages.decode_map(body))
    else:
        readers: dict[int, Callable[[bytes], Any]] = {
            Op.HELLO: messages.decode_welcome,
            Op.PING: messages.decode_vitals,
            Op.COUNT: messages.decode_count_reply,
            Op.ERROR: messages.decode_error,
        }
        with contextlib.suppress(FrameError):
            readers[kind](body)


def _same(native: Callable[[], Any], slow: Callable[[], Any], both: Callable[[], Any]) -> None:
    """The native reader gives what the cursor gives, or leaves it to that; both together are the cursor."""
    answers: list[Any] = []
    for read in (slow, both):
        try:
            answers.append(read())
        except FrameError as error:
            answers.append(str(error))
    assert answers[0] == answers[1]
    found = native()
    assert found is None or not isinstance(answers[0], str), "native took what the cursor refuses"


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {"request": request, "reply": reply}
