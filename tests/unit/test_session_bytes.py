"""Bytes from outside, whatever they are: a typed answer, an orderly end, nothing behind it interpreted."""

import os
import random
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.node_driver import ONLINE, Peer, World, frames_in, hello_body, pack, refusal

from pulsering import limits, messages
from pulsering.wire import HEADER_BYTES, ErrorCode, Frame, Op, encode_frame
from pulsering_server.session import Session
from pulsering_server.stats import Close

BEHIND = 99
"""The key of a heartbeat that is glued behind a bad frame and must have no effect."""

CLOSING = {code for code in ErrorCode if code < 16}


def lengths_around(maximum: int) -> list[int]:
    return [0, 1, maximum - 1, maximum, maximum + 1, 2**31 - 1, 2**31, 2**32 - 1]


def body_bound(op: Op) -> int:
    if op in (Op.HEARTBEAT, Op.LEAVE, Op.GET, Op.WATCH):
        return limits.FRAME_BYTES_MAX - HEADER_BYTES
    if op == Op.HELLO:
        return limits.HELLO_FRAME_BYTES_MAX - HEADER_BYTES
    return limits.CONTROL_BODY_BYTES_MAX


def text(word: bytes) -> tuple[bytes, bytes]:
    return b"\xdb", word


KEYS = pack([1, 2, 3])
TEMPLATES: dict[Op, list[bytes | tuple[bytes, bytes]]] = {
    # Literal bytes, and (head, content) where a length of 32 bits stands between the two.
    Op.HELLO: [
        (b"\xdf", b""),
        *(part for name in messages.Hello._fields for part in (text(name.encode()), text(b"x"))),
    ],
    Op.HEARTBEAT: [(b"\xdd", b""), b"\x01\x00", (b"\xc9", b"\x01" + KEYS)],
    Op.LEAVE: [(b"\xdd", b""), b"\x01\x00", (b"\xc9", b"\x01" + KEYS)],
    Op.GET: [(b"\xdd", b""), b"\x01\x00", (b"\xc9", b"\x01" + KEYS)],
    Op.WATCH: [(b"\xdd", b""), b"\x01\x01", (b"\xc9", b"\x01" + KEYS)],
    Op.COUNT: [(b"\xdd", b""), b"\x01", (b"\xdd", b""), text(b"b")],
    Op.PING: [(b"\xdd", b"")],
    Op.TOPOLOGY: [(b"\xdd", b"")],
}
COUNTS = {Op.HELLO: [6], Op.COUNT: [2, 1], Op.PING: [0], Op.TOPOLOGY: [0]}
SERVED = [*TEMPLATES]


def bodies_with_each_length(op: Op) -> Iterator[tuple[str, bytes]]:
    """The template's body once for each of its length fields and each bound, all other fields right."""
    right = []
    counts = iter(COUNTS.get(op, [3]))
    for part in TEMPLATES[op]:
        if isinstance(part, tuple):
            head, content = part
            size = len(content) - (head == b"\xc9")
            right.append(next(counts) if head in (b"\xdd", b"\xdf") else size)
    for field, correct in enumerate(right):
        for length in lengths_around(max(correct, 2)):
            if length == correct:
                continue
            body, position = b"", 0
            for part in TEMPLATES[op]:
                if isinstance(part, bytes):
                    body += part
                    continue
                number = length if position == field else right[position]
                body += part[0] + struct.pack(">I", number) + part[1]
                position += 1
            yield f"field {field} = {length}", body


def glued(peer: Peer) -> bytes:
    return peer.frame(Op.HEARTBEAT, messages.encode_keys_request(1, 0, pack([BEHIND])))


def assert_refused(world: World, peer: Peer, replies: list[Frame]) -> None:
    """The last reply is a typed error that closed the session, and what was behind it had no effect."""
    if peer.session.closed is None:
        # The frame says that more is to come: it never does, and time ends the wait.
        world.now_ms += limits.FRAME_TIMEOUT_MS
        replies = frames_in(peer.session.expire(world.now_ms))
    assert peer.session.closed is not None
    assert refusal(replies[-1]).code in CLOSING
    assert peer.deliver(glued(peer)) == []
    assert peer.deliver(b"\xc1" * 5000) == []
    assert world.connect().is_online(BEHIND) != ONLINE


@pytest.mark.parametrize("op", SERVED)
def test_every_length_in_every_header(op: Op) -> None:
    """Scenario 46: the body length at every bound."""
    for length in lengths_around(body_bound(op)):
        world = World()
        peer = world.connect(greet=op != Op.HELLO)
        frame = bytearray(peer.frame(op, b"\x00" * 12))
        frame[8:12] = struct.pack("<I", length)
        replies = peer.deliver(bytes(frame) + glued(peer))
        assert_refused(world, peer, replies)
        if length > body_bound(op):
            assert peer.session.closed == Close.FRAME_TOO_LARGE


@pytest.mark.parametrize("op", SERVED)
def test_every_length_in_every_body(op: Op) -> None:
    """Scenario 46: array, map, text and ext lengths at every bound, in every body."""
    tried = 0
    for what, body in bodies_with_each_length(op):
        world = World()
        peer = world.connect(greet=op != Op.HELLO)
        replies = peer.deliver(peer.frame(op, body) + glued(peer))
        if op in (Op.PING, Op.TOPOLOGY, Op.COUNT, Op.HELLO) and peer.session.closed is None:
            pytest.fail(f"{op.name}: {what} was taken: {replies}")
        assert_refused(world, peer, replies)
        assert peer.session.closed == Close.BAD_FRAME, what
        tried += 1
    assert tried >= 6


@pytest.mark.parametrize("op", [Op.HEARTBEAT, Op.LEAVE, Op.GET])
@pytest.mark.parametrize("count", [0, 1, limits.KEYS_PER_FRAME - 1, limits.KEYS_PER_FRAME])
def test_every_key_count_within_the_bound_is_served(op: Op, count: int) -> None:
    """Scenario 46, the bounds that hold."""
    peer = World().connect()
    assert peer.ask(op, messages.encode_keys_request(1, 0, bytes(8 * count))).op == op


@pytest.mark.parametrize("op", [Op.HEARTBEAT, Op.LEAVE, Op.GET])
@pytest.mark.parametrize("count", [limits.KEYS_PER_FRAME + 1, limits.KEYS_PER_FRAME_MAX])
def test_every_key_count_beyond_the_bound_is_refused(op: Op, count: int) -> None:
    """Scenario 46: a typed error, and as the frame was read whole, the connection goes on."""
    peer = World().connect()
    assert (
        peer.refused(op, messages.encode_keys_request(1, 0, bytes(8 * count))).code == ErrorCode.TOO_MANY_KEYS
    )
    assert peer.beat(1).accepted == 1


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\x80" * 4096, id="maps"),
        pytest.param(b"\x90" * 4096, id="arrays"),
        pytest.param(b"\x91" * 4096, id="nested arrays"),
        pytest.param(b"\x81\xc0" * 2048, id="maps with nil keys"),
        pytest.param(b"\x81\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\x00", id="NaN key"),
        pytest.param(b"\xc1", id="0xc1"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xc7\x00\x7f", id="ext"),
        pytest.param(b"\xa2\xff\xff", id="bad UTF-8"),
    ],
)
@pytest.mark.parametrize("op", SERVED)
def test_no_body_of_a_wrong_kind_is_taken(op: Op, body: bytes) -> None:
    """Scenario 48, at the session: typed error, closed, nothing behind interpreted."""
    world = World()
    peer = world.connect(greet=op != Op.HELLO)
    assert_refused(world, peer, peer.deliver(peer.frame(op, body) + glued(peer)))


# -- however it was cut --------------------------------------------------------------------------------------


def a_conversation(peer: Peer) -> bytes:
    """A HELLO and one request of each kind, glued."""
    keys = pack([1, 2, 2**64 - 1])
    return b"".join(
        [
            peer.frame(Op.HELLO, hello_body()),
            peer.frame(Op.HEARTBEAT, messages.encode_keys_request(1, 0, keys)),
            peer.frame(Op.LEAVE, messages.encode_keys_request(1, 5_000, pack([2]))),
            peer.frame(Op.GET, messages.encode_keys_request(1, messages.WANT_AGES, keys)),
            peer.frame(Op.COUNT, messages.encode_count_request(1, ("b",))),
            peer.frame(Op.PING, b"\x90"),
            peer.frame(200, b"later"),
            peer.frame(Op.TOPOLOGY, b"\x90"),
            peer.frame(Op.GET, messages.encode_keys_request(1, 0, b"")),
        ]
    )


@given(cuts=st.lists(st.integers(0, 1000), max_size=40))
def test_frames_may_be_cut_anywhere(cuts: list[int]) -> None:
    """Scenario 49: cut at any bytes, the replies are those to the whole."""
    whole = World().connect(greet=False)
    data = a_conversation(whole)
    expected = whole.deliver(data)
    assert len(expected) == 9
    peer = World().connect(greet=False)
    replies, start = [], 0
    for end in [*sorted(cut % len(data) for cut in cuts), len(data)]:
        replies += peer.deliver(data[start:end])
        start = end
    assert replies == expected


def test_frames_may_come_a_byte_at_a_time() -> None:
    """Scenario 49: and the answer comes with the last byte of each."""
    whole = World().connect(greet=False)
    data = a_conversation(whole)
    peer = World().connect(greet=False)
    assert [frame for byte in data for frame in peer.deliver(bytes([byte]))] == whole.deliver(data)


PINGS_PER_TURN = limits.WORK_PER_TURN // limits.WORK_PER_FRAME


def test_many_frames_at_once_are_answered_in_slices() -> None:
    peer = World().connect()
    data = b"".join(peer.frame(Op.PING, b"\x90") for _ in range(3 * PINGS_PER_TURN))
    first = frames_in(peer.session.receive(data, peer.world.now_ms))
    assert len(first) == PINGS_PER_TURN
    assert peer.session.backlog
    rest = peer.deliver(b"")
    assert [frame.request_id for frame in [*first, *rest]] == list(range(2, 2 + 3 * PINGS_PER_TURN))
    assert not peer.session.backlog


@pytest.mark.parametrize("op", [Op.HEARTBEAT, Op.LEAVE, Op.GET])
def test_a_slice_of_large_frames_ends_after_as_many_keys_as_a_turn_has(op: Op) -> None:
    """One more may be begun while there is work left, so a turn ends within a frame of its bound."""
    peer = World().connect()
    body = messages.encode_keys_request(1, 0, bytes(8 * limits.KEYS_PER_FRAME))
    data = b"".join(peer.frame(op, body) for _ in range(64))
    frames = len(frames_in(peer.session.receive(data, peer.world.now_ms)))
    assert (frames + 1) * limits.KEYS_PER_FRAME >= limits.WORK_PER_TURN
    assert frames * limits.KEYS_PER_FRAME < limits.WORK_PER_TURN + limits.KEYS_PER_FRAME
    assert peer.session.backlog
    assert len(peer.deliver(b"")) == 64 - frames


def test_a_slice_is_never_empty() -> None:
    """A frame larger than a whole turn's work is done at once, or it would never be."""
    peer = World(keys_per_frame=limits.KEYS_PER_FRAME_MAX).connect()
    body = messages.encode_keys_request(1, 0, bytes(8 * limits.KEYS_PER_FRAME_MAX))
    assert limits.KEYS_PER_FRAME_MAX > limits.WORK_PER_TURN
    data = peer.frame(Op.GET, body) * 2
    assert len(frames_in(peer.session.receive(data, peer.world.now_ms))) == 1
    assert len(peer.deliver(b"")) == 1


def test_half_a_frame_is_no_backlog() -> None:
    """What waits for its peer must not be tried again and again."""
    peer = World().connect()
    data = b"".join(peer.frame(Op.PING, b"\x90") for _ in range(PINGS_PER_TURN))
    peer.session.receive(data, peer.world.now_ms)
    assert not peer.session.backlog
    peer.session.receive(data[:20], peer.world.now_ms)
    assert not peer.session.backlog
    assert peer.session.pending == 3


def test_a_slice_ends_where_the_output_is_full() -> None:
    """A topology is far larger than the request for it: what is made at once stays bounded."""
    world = World(output_pause_bytes=4096)
    peer = world.connect()
    data = b"".join(peer.frame(Op.TOPOLOGY, b"\x90") for _ in range(1000))
    size = len(peer.session.receive(data, world.now_ms, work_max=1 << 40))
    assert 4096 <= size < 4096 + 1024
    assert peer.session.backlog


# -- strangers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", Close.FOREIGN_HTTP),
        (b"POST /v1 HTTP/1.1\r\n\r\n", Close.FOREIGN_HTTP),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Close.FOREIGN_HTTP),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Close.FOREIGN_TLS),
        (b"*1\r\n$4\r\nPING\r\n", Close.FOREIGN_REDIS),
        (b"PING\r\n", Close.FOREIGN_REDIS),
        (b"SSH-2.0-OpenSSH_9.6\r\n", Close.FOREIGN_OTHER),
        (b"\x00", Close.FOREIGN_OTHER),
        (b"\xff" * 300_000, Close.FOREIGN_OTHER),
    ],
)
def test_strangers_get_one_line_and_are_closed(said: bytes, reason: Close) -> None:
    """Scenario 50: HTTP, TLS, Redis and anything else."""
    world = World()
    session = Session(world.cores["a"], world.now_ms)
    answer = session.receive(said, world.now_ms)
    assert session.closed == reason
    assert b"Pulsering" in answer
    assert answer.endswith(b"\n")
    words = answer.removeprefix(b"HTTP/1.0 400 Bad Request\r\n\r\n")
    assert words.count(b"\n") == 1
    assert session.receive(said, world.now_ms) == b""


def test_a_stranger_is_recognised_by_the_first_byte() -> None:
    """Scenario 50: nobody waits for 16 bytes from a peer that sends one."""
    world = World()
    session = Session(world.cores["a"], world.now_ms)
    assert b"HTTP" in session.receive(b"G", world.now_ms)
    assert session.closed == Close.FOREIGN_HTTP


def test_garbage_behind_a_greeting_gets_an_error_frame() -> None:
    peer = World().connect()
    (reply,) = peer.deliver(b"GET / HTTP/1.1\r\n\r\n")
    assert refusal(reply).code == ErrorCode.BAD_FRAME


def test_a_frame_of_another_version_is_told_so() -> None:
    peer = World().connect(greet=False)
    frame = bytearray(peer.frame(Op.HELLO, hello_body()))
    frame[1] = 2
    (reply,) = peer.deliver(bytes(frame))
    assert refusal(reply).code == ErrorCode.UNSUPPORTED_VERSION


@given(noise=st.binary(max_size=200), greet=st.booleans(), header=st.booleans())
@settings(max_examples=500)
def test_noise_never_raises(noise: bytes, greet: bool, header: bool) -> None:
    """Scenario 50, 51: no bytes make the core raise anything."""
    world = World()
    peer = world.connect(greet=greet)
    data = encode_frame(noise[0] if noise else 0, 7, 0, noise[1:]) if header else noise
    peer.session.receive(data, world.now_ms)


def test_flipped_bits_never_raise() -> None:
    """Scenario 51: a conversation with random damage, many times over."""
    rng = random.Random(51)
    world = World()
    data = a_conversation(world.connect(greet=False))
    for _ in range(2000):
        damaged = bytearray(data)
        for _ in range(rng.randrange(1, 6)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        world.connect(greet=False).session.receive(bytes(damaged), world.now_ms)


# -- time ----------------------------------------------------------------------------------------------------


def test_hello_must_come_in_time() -> None:
    world = World()
    peer = world.connect(greet=False)
    peer.deliver(peer.frame(Op.HELLO, hello_body())[:-1])
    world.now_ms += limits.HELLO_TIMEOUT_MS - 1
    assert peer.session.expire(world.now_ms) == b""
    world.now_ms += 1
    (reply,) = frames_in(peer.session.expire(world.now_ms))
    assert refusal(reply).code == ErrorCode.HELLO_TIMEOUT
    assert peer.session.closed == Close.HELLO_TIMEOUT


def test_a_frame_must_be_finished_in_time_however_it_drips() -> None:
    """Scenario 53: one byte now and then does not keep a frame alive."""
    world = World()
    peer = world.connect()
    frame = peer.frame(Op.HEARTBEAT, messages.encode_keys_request(1, 0, bytes(8000)))
    for start in range(5):
        peer.deliver(frame[start : start + 1])
        assert peer.session.expire(world.now_ms) == b""
        world.now_ms += limits.FRAME_TIMEOUT_MS // 5
    (reply,) = frames_in(peer.session.expire(world.now_ms))
    assert refusal(reply).code == ErrorCode.FRAME_TIMEOUT


def test_each_frame_has_its_own_time() -> None:
    world = World()
    peer = world.connect()
    for _ in range(10):
        frame = peer.frame(Op.PING, b"\x90")
        peer.deliver(frame[:5])
        world.now_ms += limits.FRAME_TIMEOUT_MS - 1
        assert peer.session.expire(world.now_ms) == b""
        assert len(peer.deliver(frame[5:])) == 1


def test_a_frame_that_waits_for_us_is_not_timed() -> None:
    """While its output is paused, a peer's requests lie in the kernel: not the peer's fault."""
    world = World()
    peer = world.connect()
    peer.deliver(peer.frame(Op.PING, b"\x90")[:5])
    world.now_ms += limits.FRAME_TIMEOUT_MS
    assert peer.session.expire(world.now_ms, paused=True) == b""
    peer.session.resume(world.now_ms)
    assert peer.session.expire(world.now_ms) == b""
    assert peer.session.closed is None


def test_a_silent_connection_is_closed_without_a_word() -> None:
    world = World()
    peer = world.connect()
    world.now_ms += limits.IDLE_TIMEOUT_MS - 1
    assert peer.session.expire(world.now_ms) == b""
    assert peer.session.closed is None
    world.now_ms += 1
    assert peer.session.expire(world.now_ms) == b""
    assert peer.session.closed == Close.IDLE


def test_pings_keep_a_connection() -> None:
    world = World()
    peer = world.connect()
    for _ in range(30):
        world.advance(limits.PING_MS, step_ms=limits.PING_MS)
        peer.vitals()
        assert peer.session.expire(world.now_ms) == b""


# -- memory --------------------------------------------------------------------------------------------------


def resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from /proc")
def test_lengths_without_content_cost_nothing() -> None:
    """Scenario 47: a count of 2^32-1 with 8 bytes behind it, from 1,000 connections: +10 MB at most."""
    world = World()
    peers = [world.connect() for _ in range(1000)]
    before = resident_bytes()
    for peer in peers:
        body = b"\x93\x01\x00\xc9\xff\xff\xff\xff\x01" + bytes(8)
        assert refusal(peer.deliver(peer.frame(Op.GET, body))[0]).code == ErrorCode.BAD_FRAME
    for peer in (world.connect() for _ in range(1000)):
        frame = bytearray(peer.frame(Op.GET, bytes(8)))
        frame[8:12] = b"\xff" * 4
        assert refusal(peer.deliver(bytes(frame))[0]).code == ErrorCode.FRAME_TOO_LARGE
        peers.append(peer)
    assert resident_bytes() - before < 10 << 20
