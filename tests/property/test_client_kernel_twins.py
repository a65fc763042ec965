"""Whatever goes in, the compiled client kernel and its plain-Python twin answer alike: value or exception."""

import struct
import uuid
from array import array
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh64_intdigest

from pulsering import _kernel, _kernel_reference, messages
from pulsering.errors import FrameError

SLOTS = 16384
SEEDS = struct.pack("<QQ", 1, 2)

u64 = st.integers(0, 2**64 - 1)
user_ids = st.one_of(u64, st.text(max_size=80), st.binary(max_size=80), st.uuids())
anything = st.one_of(
    user_ids,
    st.integers(-(2**70), 2**70),
    st.booleans(),
    st.none(),
    st.floats(),
    st.text(st.characters(categories=["Cs", "L"]), max_size=3),
    st.binary().map(bytearray),
)


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call returns, or the type and text of what it raises."""
    try:
        return call(*arguments)
    except (TypeError, ValueError, OverflowError, FrameError) as error:
        return type(error), str(error)


@given(st.binary(max_size=300), u64)
def test_xxh64_is_xxh64(data: bytes, seed: int) -> None:
    assert _kernel.xxh64(data, seed) == xxh64_intdigest(data, seed)


@given(st.lists(user_ids), st.binary(min_size=16, max_size=16))
def test_ids_hash_alike_and_one_by_one(ids: list[int | str | bytes | uuid.UUID], seeds: bytes) -> None:
    keys = _kernel.hash_ids(ids, seeds)
    assert keys == _kernel_reference.hash_ids(ids, seeds)
    assert keys == b"".join(struct.pack("<Q", _kernel.hash_id(user_id, seeds)) for user_id in ids)


@given(st.lists(anything, max_size=5))
def test_refusals_are_alike_to_the_letter(ids: list[Any]) -> None:
    assert outcome(_kernel.hash_ids, ids, SEEDS) == outcome(_kernel_reference.hash_ids, ids, SEEDS)
    for user_id in ids:
        assert outcome(_kernel.hash_id, user_id, SEEDS) == outcome(_kernel_reference.hash_id, user_id, SEEDS)


@given(st.lists(st.integers(-(2**63), 2**63 - 1)), st.sampled_from("qQ"), u64, st.integers(1, 3))
def test_integer_buffers_hash_alike(numbers: list[int], code: str, seed: int, step: int) -> None:
    buffer = memoryview(array(code, [abs(n) if code == "Q" else n for n in numbers]))[::step]
    assert outcome(_kernel.hash_integers, buffer, seed) == outcome(
        _kernel_reference.hash_integers, buffer, seed
    )


@settings(max_examples=12)
@given(st.data(), st.integers(1, 6))
def test_owners_rank_alike(data: st.DataObject, nodes: int) -> None:
    def column(code: str, values: st.SearchStrategy[int]) -> "array[int]":
        return array(code, data.draw(st.lists(values, min_size=nodes, max_size=nodes)))

    arguments = (
        column("Q", u64),
        column("I", st.sampled_from([1, 2, 7, 999, 1000])),
        column("H", st.integers(0, nodes)),
        column("H", st.integers(0, 3)),
        data.draw(st.integers(1, nodes)),
    )
    assert _kernel.rank_owners(*arguments) == _kernel_reference.rank_owners(*arguments)


@given(st.integers(1, 5).flatmap(lambda r: st.tuples(st.just(r), st.lists(st.integers(0, 9), max_size=40))))
def test_owners_are_reordered_alike(case: tuple[int, list[int]]) -> None:
    replicas, numbers = case
    arguments = (array("H", numbers), replicas, bytes([0, 1, 0, 0, 1, 1, 0, 1, 0]))
    assert outcome(_kernel.reorder_owners, *arguments) == outcome(
        _kernel_reference.reorder_owners, *arguments
    )


@given(
    keys=st.lists(u64),
    nodes=st.lists(st.sampled_from([0, 1, 2, 1000, 65534, 65535]), min_size=1, max_size=20),
    ranks=st.integers(1, 3),
    chunk=st.integers(1, 8),
    placed=st.booleans(),
)
def test_batches_split_alike_and_lose_nothing(
    keys: list[int], nodes: list[int], ranks: int, chunk: int, placed: bool
) -> None:
    packed = struct.pack(f"<{len(keys)}Q", *keys)
    targets = array("H", [nodes[entry % len(nodes)] for entry in range(SLOTS * ranks)])
    positions = array("I", [3 * index for index in range(len(keys))]) if placed else None
    pieces = _kernel.partition(packed, targets, positions, chunk)
    assert pieces == _kernel_reference.partition(packed, targets, positions, chunk)
    found = []
    for node, piece, places in pieces:
        assert 1 <= len(places) <= chunk
        assert len(piece) == 8 * len(places)
        for place, (key,) in zip(places, struct.iter_unpack("<Q", piece), strict=True):
            found.append((node, place, key))
    factor = 3 if placed else 1
    owed = [
        (node, index * factor, key)
        for index, key in enumerate(keys)
        for node in targets[(key >> 50) * ranks :][:ranks]
        if node != 65535
    ]
    assert sorted(found) == sorted(owed)


def uint_forms(value: int) -> st.SearchStrategy[bytes]:
    """Every msgpack form of an unsigned integer."""
    forms = [
        bytes([0xCC + size]) + value.to_bytes(1 << size, "big")
        for size in range(4)
        if value < 256 ** (1 << size)
    ]
    return st.sampled_from([*forms, bytes([value])] if value < 128 else forms)


def bin_forms(value: bytes) -> st.SearchStrategy[bytes]:
    """Every msgpack form of short binary data."""
    return st.sampled_from(
        [bytes([0xC4 + size]) + len(value).to_bytes(1 << size, "big") + value for size in range(3)]
    )


def body_of(data: st.DataObject, parts: list[st.SearchStrategy[bytes]]) -> bytes:
    """An array of these, then perhaps a byte changed, cut off or added."""
    body = b"\x95" + b"".join(data.draw(part) for part in parts)
    at = data.draw(st.integers(0, len(body)))
    damage = data.draw(st.sampled_from(["none", "changed", "cut", "added"]))
    if damage == "cut":
        return body[:at]
    if damage == "none":
        return body
    return body[:at] + data.draw(st.binary(min_size=1, max_size=1)) + body[at + (damage == "changed") :]


u32 = st.integers(0, 2**32 - 1)


@given(st.data(), st.lists(st.integers(0, 200), min_size=4, max_size=4), u32)
def test_a_write_reply_is_read_as_the_reader_does_or_left_to_it(
    data: st.DataObject, outcomes: list[int], epoch: int
) -> None:
    body = body_of(data, [uint_forms(number) for number in (epoch, *outcomes)])
    for count in {sum(outcomes), data.draw(st.integers(0, 800))}:
        fields = _kernel.read_write_reply(body, count)
        expected = outcome(messages.read_write_reply, body, count)
        assert fields == (None if expected[0] is FrameError else expected)


@given(st.data(), st.integers(0, 40), st.booleans(), u32, u32)
def test_a_get_reply_is_read_as_the_reader_does_or_left_to_it(
    data: st.DataObject, count: int, ages: bool, epoch: int, warming_ms: int
) -> None:
    states = data.draw(st.binary(min_size=(count + 3) // 4, max_size=(count + 3) // 4))
    age_bytes = data.draw(st.binary(min_size=count, max_size=count)) if ages else b""
    numbers = [uint_forms(number) for number in (epoch, warming_ms, count)]
    body = body_of(data, [*numbers, bin_forms(states), bin_forms(age_bytes)])

    def expected() -> messages.GetReply:
        return messages.read_get_reply(body, count, want_ages=ages)

    read = outcome(expected)
    if read[0] is FrameError:
        assert _kernel.read_get_reply(body, count, ages) is None
    assert outcome(lambda: messages.decode_get_reply(body, count, want_ages=ages)) == read


def test_the_kernel_reads_what_nodes_write() -> None:
    assert _kernel.read_write_reply(b"\x95\x07\xcd\x20\x00\x00\x00\x00", 8192) == (7, 8192, 0, 0, 0)
    body = messages.encode_get_reply(7, 3, 5, b"\x55\x01", b"12345")
    assert _kernel.read_get_reply(body, 5, True) == (7, 3, 5, b"\x55\x01", b"12345")


@given(
    size=st.integers(0, 12),
    positions=st.lists(st.integers(0, 13), max_size=12),
    reply=st.binary(max_size=13),
    bits=st.integers(-1, 256),
    start=st.binary(min_size=12, max_size=12),
)
def test_evidence_grows_alike_or_not_at_all(
    size: int, positions: list[int], reply: bytes, bits: int, start: bytes
) -> None:
    places = array("I", positions)
    fitting = reply[: (len(positions) + 3) // 4]
    for name, arguments in [
        ("merge_states", (places, reply)),
        ("merge_states", (places, fitting)),
        ("merge_ages", (places, reply)),
        ("merge_ages", (places, reply[: len(positions)])),
        ("merge_seconds", (places, reply)),
        ("merge_seconds", (places, reply[: 4 * len(positions)])),
        ("mark", (places, bits)),
        ("tally", (places,)),
    ]:
        native, twin = bytearray(start[:size]), bytearray(start[:size])
        result = outcome(getattr(_kernel, name), native, *arguments)
        assert result == outcome(getattr(_kernel_reference, name), twin, *arguments)
        assert native == twin
        assert result is None or native == start[:size]


@given(st.lists(u64, max_size=20), st.binary(max_size=20), st.integers(-1, 256))
def test_keys_are_selected_alike(keys: list[int], evidence: bytes, mask: int) -> None:
    packed = struct.pack(f"<{len(keys)}Q", *keys)
    for known in (evidence, evidence.ljust(len(keys), b"\x02")[: len(keys)]):
        assert outcome(_kernel.select, packed, known, mask) == outcome(
            _kernel_reference.select, packed, known, mask
        )
