"""Frames: every sample whole, byte by byte and with a tail; every bound at its edges.

Scenarios 46 and 49 at the layer of the codec; the node's own tests repeat them on live sessions.
"""

import random

import pytest

from pulsering import limits
from pulsering.errors import FrameError
from pulsering.wire import HEADER_BYTES, MAGIC, VERSION, ErrorCode, Frame, FrameReader, Op, encode_frame

SAMPLES = [
    Frame(Op.HEARTBEAT, 0, 1, 0, b""),
    Frame(Op.GET, 1, 0xFFFFFFFF, 0xFFFFFFFF, b"x" * 300),
    Frame(Op.PING, 0, 0, 5, b"\x90"),
    Frame(Op.ERROR, 1, 7, 5, b"\x93\x01\xa0\x00"),
]
STREAM = b"".join(encode_frame(f.op, f.request_id, f.sender_ms, f.body, reply=f.is_reply) for f in SAMPLES)


def reader() -> FrameReader:
    return FrameReader(limits.FRAME_BYTES_MAX)


def drain(frames: FrameReader) -> list[Frame]:
    found = []
    while (frame := frames.next_frame()) is not None:
        found.append(frame)
    return found


def header(
    *, magic: int = MAGIC, version: int = VERSION, op: int = 3, flags: int = 0, size: int = 0
) -> bytes:
    return bytes([magic, version, op, flags]) + bytes(4) + size.to_bytes(4, "little") + bytes(4)


def test_whole() -> None:
    frames = reader()
    frames.feed(STREAM)
    assert drain(frames) == SAMPLES
    assert frames.pending == 0


def test_byte_by_byte() -> None:
    frames = reader()
    found = []
    for byte in STREAM:
        frames.feed(bytes([byte]))
        found += drain(frames)
    assert found == SAMPLES


@pytest.mark.parametrize("seed", range(20))
def test_cut_anywhere_and_glued(seed: int) -> None:
    """Scenario 49."""
    rng = random.Random(seed)
    frames = reader()
    found = []
    rest = STREAM * 3
    while rest:
        cut = rng.randint(1, 40)
        frames.feed(rest[:cut])
        rest = rest[cut:]
        if rng.random() < 0.5:
            found += drain(frames)
    assert found + drain(frames) == SAMPLES * 3


@pytest.mark.parametrize("sample", SAMPLES)
def test_an_incomplete_frame_is_no_frame(sample: Frame) -> None:
    whole = encode_frame(sample.op, sample.request_id, sample.sender_ms, sample.body, reply=sample.is_reply)
    for size in range(len(whole)):
        frames = reader()
        frames.feed(whole[:size])
        assert frames.next_frame() is None
        assert frames.pending == size


def test_the_senders_clock_travels_modulo_2_to_the_32() -> None:
    frames = reader()
    frames.feed(encode_frame(Op.PING, 1, (5 << 32) + 9, b""))
    frame = frames.next_frame()
    assert frame is not None
    assert frame.sender_ms == 9


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"GET / HTTP/1.1\r\n", ErrorCode.BAD_FRAME),
        (b"\x16\x03\x01", ErrorCode.BAD_FRAME),
        (header(version=2), ErrorCode.UNSUPPORTED_VERSION),
        (header(flags=2), ErrorCode.BAD_FRAME),
        (header(flags=0x80), ErrorCode.BAD_FRAME),
        (header(size=0xFFFFFFFF), ErrorCode.FRAME_TOO_LARGE),
    ],
)
def test_what_is_no_frame_is_refused_and_nothing_after_it_is_read(raw: bytes, code: ErrorCode) -> None:
    frames = reader()
    frames.feed(raw + STREAM)
    for _ in range(2):
        with pytest.raises(FrameError) as caught:
            frames.next_frame()
        assert caught.value.code == code


DATA_BOUND = limits.FRAME_BYTES_MAX - HEADER_BYTES
EDGES = (2**31 - 1, 2**31, 2**32 - 1)


@pytest.mark.parametrize("op", list(Op))
def test_a_body_length_is_judged_before_any_byte_of_the_body(op: Op) -> None:
    """Scenario 46 for the length in the header."""
    data = op in (Op.HEARTBEAT, Op.LEAVE, Op.GET, Op.WATCH)
    bound = DATA_BOUND if data else limits.CONTROL_BODY_BYTES_MAX
    for size in (0, 1, bound - 1, bound):
        frames = reader()
        frames.feed(header(op=op, size=size))
        frame = frames.next_frame()
        assert (frame is None) == (size > 0)
    for size in (bound + 1, *EDGES):
        frames = reader()
        frames.feed(header(op=op, size=size))
        with pytest.raises(FrameError, match=f"at most {bound}"):
            frames.next_frame()


def test_a_reply_may_be_larger_than_a_control_request() -> None:
    frames = reader()
    body = bytes(limits.CONTROL_BODY_BYTES_MAX + 1)
    frames.feed(encode_frame(Op.TOPOLOGY, 1, 0, body, reply=True))
    frame = frames.next_frame()
    assert frame is not None
    assert frame.body == body


def test_before_hello_a_frame_is_small() -> None:
    frames = FrameReader()
    frames.feed(header(op=Op.HEARTBEAT, size=limits.HELLO_FRAME_BYTES_MAX - HEADER_BYTES + 1))
    with pytest.raises(FrameError):
        frames.next_frame()
