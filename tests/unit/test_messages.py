"""Bodies: each shape both ways, every msgpack form that another library may choose, and what is refused."""

import math
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsering import limits, messages
from pulsering.errors import FrameError

KEYS = bytes(range(24))
U32 = st.integers(0, 2**32 - 1)


def pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


@given(epoch=U32, argument=U32, keys=st.binary(max_size=4096).map(lambda raw: raw[: len(raw) // 8 * 8]))
def test_keys_request_both_ways(epoch: int, argument: int, keys: bytes) -> None:
    request = messages.decode_keys_request(messages.encode_keys_request(epoch, argument, keys))
    assert (request.epoch, request.argument, bytes(request.keys)) == (epoch, argument, keys)
    assert request.key_count == len(keys) // 8


@pytest.mark.parametrize("array", [b"\x93", b"\xdc\x00\x03", b"\xdd\x00\x00\x00\x03"])
@pytest.mark.parametrize(
    "epoch", [b"\x07", b"\xcc\x07", b"\xcd\x00\x07", b"\xce\x00\x00\x00\x07", b"\xcf" + bytes(7) + b"\x07"]
)
@pytest.mark.parametrize(
    "ext", [b"\xc7\x10\x01", b"\xc8\x00\x10\x01", b"\xc9\x00\x00\x00\x10\x01", b"\xd8\x01"]
)
def test_every_encoding_of_the_same_request_is_the_same_request(
    array: bytes, epoch: bytes, ext: bytes
) -> None:
    request = messages.decode_keys_request(array + epoch + b"\x00" + ext + KEYS[:16])
    assert (request.epoch, request.argument, bytes(request.keys)) == (7, 0, KEYS[:16])


def _ext(size: int, payload: bytes) -> bytes:
    return b"\x93\x01\x00\xc9" + size.to_bytes(4, "big") + b"\x01" + payload


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc0",
        b"\x93",
        b"\x92\x01" + pack(msgpack.ExtType(1, KEYS)),
        pack([1, 0, msgpack.ExtType(1, KEYS), 0]),
        pack([1, 0, msgpack.ExtType(1, KEYS)]) + b"\x00",
        pack([1, 0, msgpack.ExtType(2, KEYS)]),
        pack([1, 0, msgpack.ExtType(1, KEYS[:23])]),
        pack([1, 0, KEYS]),
        pack([1, 0, [1, 2, 3]]),
        pack([-1, 0, msgpack.ExtType(1, KEYS)]),
        pack([1.0, 0, msgpack.ExtType(1, KEYS)]),
        pack([True, 0, msgpack.ExtType(1, KEYS)]),
        pack([None, 0, msgpack.ExtType(1, KEYS)]),
        pack([2**32, 0, msgpack.ExtType(1, KEYS)]),
        pack({"epoch": 1}),
        *(
            _ext(size, KEYS)
            for size in (0, 1, 8, 23, 25, 32, 2**31 - 1, 2**31, 2**31 + 8, 2**32 - 1, 2**32 - 8)
        ),
    ],
)
def test_any_other_keys_request_is_refused(body: bytes) -> None:
    """Scenario 46 for the lengths inside the body: a count is never trusted apart from its bytes."""
    with pytest.raises(FrameError):
        messages.decode_keys_request(body)


@pytest.mark.parametrize(
    "body",
    [
        b"\x80" * limits.FRAME_BYTES_MAX,
        b"\x90" * limits.FRAME_BYTES_MAX,
        b"\x91" * limits.FRAME_BYTES_MAX,
        b"\x93" * limits.FRAME_BYTES_MAX,
        b"\xc1" * limits.FRAME_BYTES_MAX,
        b"\xdf\xff\xff\xff\xff",
    ],
    ids=["empty maps", "empty arrays", "nesting", "triples", "never used", "map of 2^32"],
)
def test_a_bomb_makes_no_objects(body: bytes) -> None:
    """Scenario 48: refused without growth, in the data plane whatever the size."""
    tracemalloc.start()
    try:
        with pytest.raises(FrameError):
            messages.decode_keys_request(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 10


@pytest.mark.parametrize("byte", [0x80, 0x90, 0x91, 0xC1, 0xC7, 0xDF])
def test_a_control_bomb_of_the_largest_size_is_small(byte: int) -> None:
    """Scenario 48: what msgpack itself decodes is at most a page."""
    for decode in (messages.decode_hello, messages.decode_count_request, messages.decode_error):
        tracemalloc.start()
        try:
            with pytest.raises(FrameError):
                decode(bytes([byte]) * limits.CONTROL_BODY_BYTES_MAX)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 1 << 20


def test_write_reply_both_ways() -> None:
    reply = messages.WriteReply(3, 5, 1, 2, 2)
    assert messages.decode_write_reply(messages.encode_write_reply(reply), 10) == reply


@pytest.mark.parametrize(
    "body",
    [
        pack([1, 5, 0, 0]),
        pack([1, 4, 0, 0, 0]),
        pack([1, 6, 0, 0, 0]),
        pack([1, 5, 5, 0, 0]),
        pack([1, -5, 10, 0, 0]),
    ],
)
def test_a_write_reply_accounts_for_every_key(body: bytes) -> None:
    with pytest.raises(FrameError):
        messages.decode_write_reply(body, 5)


@given(count=st.integers(0, 300), want_ages=st.booleans())
def test_get_reply_both_ways(count: int, want_ages: bool) -> None:
    states, ages = bytes((count + 3) // 4), bytes(count if want_ages else 0)
    reply = messages.decode_get_reply(
        messages.encode_get_reply(9, 4, count, states, ages), count, want_ages=want_ages
    )
    assert (reply.epoch, reply.warming_ms, reply.key_count) == (9, 4, count)
    assert (bytes(reply.states), bytes(reply.ages)) == (states, ages)


@pytest.mark.parametrize(
    "body",
    [
        pack([1, 0, 2**32 - 1, b"\x00" * 3, b""]),
        pack([1, 0, 9, b"\x00" * 2, b""]),
        pack([1, 0, 9, b"\x00" * 4, b""]),
        pack([1, 0, 9, b"\x00" * 3, b"\x00" * 9]),
        pack([1, 0, 8, b"\x00" * 2, b""]),
        pack([1, 0, 9, "\x00" * 3, b""]),
        b"\x95\x01\x00\x09\xc6\xff\xff\xff\xff\x00\x00\x00\xc4\x00",
    ],
)
def test_a_get_reply_of_another_shape_than_its_request_is_refused(body: bytes) -> None:
    """Scenario 44: a hostile server's counts are never believed."""
    with pytest.raises(FrameError):
        messages.decode_get_reply(body, 9, want_ages=False)


@given(count=st.integers(0, 300))
def test_watch_reply_both_ways(count: int) -> None:
    states = bytes((count + 3) // 4)
    reply = messages.decode_watch_reply(messages.encode_watch_reply(9, 4, count, states), count)
    assert reply == (9, 4, count, states)


@pytest.mark.parametrize(
    "body",
    [
        pack([1, 0, 8, bytes(2)]),
        pack([1, 0, 9, bytes(2)]),
        pack([1, 0, 9, bytes(4)]),
        pack([1, 0, 2**32 - 1, bytes(3)]),
        pack([1, 0, 9, bytes(3), b""]),
        pack([1, 0, 9, bytes(3)]) + b"\x00",
        pack([1, 0, 9, "\x00" * 3]),
    ],
)
def test_a_watch_reply_of_another_shape_than_its_request_is_refused(body: bytes) -> None:
    with pytest.raises(FrameError):
        messages.decode_watch_reply(body, 9)


@given(count=st.integers(0, 300))
def test_watch_push_both_ways(count: int) -> None:
    keys, states, causes = bytes(8 * count), bytes((count + 3) // 4), bytes(count)
    push = messages.decode_watch_push(messages.encode_watch_push(9, 4, keys, states, causes))
    assert (push.epoch, push.warming_ms, bytes(push.keys)) == (9, 4, keys)
    assert (push.states, push.causes) == (states, causes)


@pytest.mark.parametrize(
    "body",
    [
        pack([1, 0, msgpack.ExtType(1, KEYS), b"\x00", bytes(2)]),
        pack([1, 0, msgpack.ExtType(1, KEYS), b"\x00", bytes(4)]),
        pack([1, 0, msgpack.ExtType(1, KEYS), bytes(2), bytes(3)]),
        pack([1, 0, msgpack.ExtType(1, KEYS), b"", bytes(3)]),
        pack([1, 0, msgpack.ExtType(1, KEYS[:23]), b"\x00", bytes(3)]),
        pack([1, 0, msgpack.ExtType(2, KEYS), b"\x00", bytes(3)]),
        pack([1, 0, KEYS, b"\x00", bytes(3)]),
        pack([1, 0, msgpack.ExtType(1, KEYS), b"\x00", bytes(3), 0]),
    ],
)
def test_a_push_says_one_state_and_one_cause_a_key(body: bytes) -> None:
    with pytest.raises(FrameError):
        messages.decode_watch_push(body)


def test_a_pulse_is_a_quarter_of_the_ttl_within_its_bounds() -> None:
    pulses = [messages.watch_pulse_ms(ttl_ms) for ttl_ms in (1_000, 2_000, 20_000, 3_600_000)]
    assert pulses == [limits.WATCH_PULSE_MS_MIN, 500, limits.WATCH_PULSE_MS_MAX, limits.WATCH_PULSE_MS_MAX]


def test_count_both_ways() -> None:
    assert messages.decode_count_request(messages.encode_count_request(4, ("a", "b"))) == (4, ("a", "b"))
    reply = messages.CountReply(4, 0, 10**12)
    assert messages.decode_count_reply(messages.encode_count_reply(reply)) == reply


@pytest.mark.parametrize("value", [[1], [1, "a"], [1, [1]], [-1, []], [math.nan, []], [1, ["x" * 64]], {}])
def test_another_count_request_is_refused(value: Any) -> None:
    with pytest.raises(FrameError):
        messages.decode_count_request(pack(value))


HELLO = messages.Hello(1, 1, "demo", 0, 2**64 - 1, "test")
WELCOME = messages.Welcome(1, "demo", "a", 2**64 - 1, 1, 5, 20_000, 1 << 20, 8192, 1024, "test")
VITALS = messages.Vitals(1, 10**9, 10**12, 0, False, "test")


def test_maps_both_ways() -> None:
    assert messages.decode_hello(messages.encode_map(HELLO)) == HELLO
    assert messages.decode_welcome(messages.encode_map(WELCOME)) == WELCOME
    assert messages.decode_vitals(messages.encode_map(VITALS)) == VITALS


def test_unknown_fields_are_ignored() -> None:
    """A later version may add fields to control bodies; an older peer must not mind."""
    assert messages.decode_hello(pack({**HELLO._asdict(), "zstd": [1, 2, {"a": None}]})) == HELLO


@pytest.mark.parametrize(
    ("message", "decode"),
    [(HELLO, messages.decode_hello), (WELCOME, messages.decode_welcome), (VITALS, messages.decode_vitals)],
)
def test_each_field_is_needed_and_typed(message: Any, decode: Any) -> None:
    for name in message._fields:
        wrong: Any
        for wrong in (None, -1, 1.5, [], b"x", "x" * 1000, 2**64 - 1 if name.startswith("version") else {}):
            with pytest.raises(FrameError, match=name):
                decode(pack({**message._asdict(), name: wrong}))
        without = pack({k: v for k, v in message._asdict().items() if k != name})
        if name in message._field_defaults:  # came later: an older peer does not send it
            assert getattr(decode(without), name) == message._field_defaults[name]
        else:
            with pytest.raises(FrameError, match=name):
                decode(without)


def test_topology_request_both_ways() -> None:
    assert messages.decode_topology_request(messages.encode_topology_request()) is None
    assert messages.encode_topology_request() == messages.EMPTY_BODY
    assert messages.decode_topology_request(messages.encode_topology_request(7)) == 7
    assert messages.decode_topology_request(pack([7, "later"])) == 7
    refused: list[object] = [{}, 7, [-1], ["7"], [2**32], [None], [True]]
    for wrong in refused:
        with pytest.raises(FrameError):
            messages.decode_topology_request(pack(wrong))


def test_error_both_ways_and_cut_to_its_limit() -> None:
    reply = messages.decode_error(messages.encode_error(18, "é" * 1000, 250))
    assert (reply.code, reply.after_ms) == (18, 250)
    assert reply.message == "é" * (limits.ERROR_MESSAGE_BYTES_MAX // 2)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_frame_error(body: bytes) -> None:
    def get_reply(body: bytes) -> object:
        return messages.decode_get_reply(body, 3, want_ages=True)

    for decode in (
        messages.decode_keys_request,
        messages.decode_count_request,
        messages.decode_count_reply,
        messages.decode_error,
        messages.decode_hello,
        messages.decode_welcome,
        messages.decode_vitals,
        messages.decode_map,
        get_reply,
        lambda body: messages.decode_write_reply(body, 3),
        lambda body: messages.decode_watch_reply(body, 3),
        messages.decode_watch_push,
    ):
        try:
            decode(body)
        except FrameError:
            continue
