"""Ids become keys as the protocol says, or are refused with their place: golden vectors and every refusal."""

import json
import struct
import uuid
from array import array
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from xxhash import xxh64_intdigest

from pulsering.ids import SLOTS, UserId, key_of, keys_of, slot_of, string_seed_of

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "keys.json").read_text())
SEED = 0x70756C7365


def read_id(kind: str, text: str) -> UserId:
    readers: dict[str, Any] = {"int": int, "str": str, "bytes": bytes.fromhex, "uuid": uuid.UUID}
    user_id: UserId = readers[kind](text)
    return user_id


def unpacked(keys: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(keys) // 8}Q", keys))


@pytest.mark.parametrize("case", VECTORS["seeds"], ids=lambda case: case["hash_seed"])
def test_keys_match_the_golden_vectors(case: dict[str, Any]) -> None:
    seed = int(case["hash_seed"], 16)
    assert string_seed_of(seed) == int(case["string_seed"], 16)
    ids = [read_id(entry["kind"], entry["id"]) for entry in case["ids"]]
    expected = [int(entry["key"], 16) for entry in case["ids"]]
    assert [key_of(user_id, seed) for user_id in ids] == expected
    assert unpacked(keys_of(ids, seed)) == expected
    assert [slot_of(key) for key in expected] == [entry["slot"] for entry in case["ids"]]


@pytest.mark.parametrize("case", VECTORS["seeds"], ids=lambda case: case["hash_seed"])
def test_golden_vectors_match_the_xxhash_package(case: dict[str, Any]) -> None:
    seed = int(case["hash_seed"], 16)
    string_seed = xxh64_intdigest(b"pulsering/string", seed)
    for entry in case["ids"]:
        match read_id(entry["kind"], entry["id"]):
            case int() as number:
                key = xxh64_intdigest(number.to_bytes(8, "little"), seed)
            case str() as text:
                key = xxh64_intdigest(text.encode(), string_seed)
            case bytes() as octets:
                key = xxh64_intdigest(octets, string_seed)
            case user_id:
                key = xxh64_intdigest(user_id.bytes, string_seed)
        assert key == int(entry["key"], 16)


def test_a_text_is_its_utf8_bytes_a_uuid_its_bytes_and_neither_is_an_int() -> None:
    some_uuid = uuid.UUID("12345678-1234-5678-1234-567812345678")
    assert key_of("Zoë", SEED) == key_of("Zoë".encode(), SEED)
    assert key_of(some_uuid, SEED) == key_of(some_uuid.bytes, SEED) != key_of(str(some_uuid), SEED)
    assert key_of(1, SEED) != key_of("1", SEED)
    assert key_of(1, SEED) != key_of((1).to_bytes(8, "little"), SEED)


def test_subclasses_count_as_what_they_are() -> None:
    class Number(IntEnum):
        ONE = 1

    class Text(StrEnum):
        ONE = "one"

    assert key_of(Number.ONE, SEED) == key_of(1, SEED)
    assert key_of(Text.ONE, SEED) == key_of("one", SEED)
    assert keys_of(np.array(["one", "two"]).tolist(), SEED) == keys_of(["one", "two"], SEED)


def test_slots_span_the_key_range() -> None:
    assert slot_of(0) == 0
    assert slot_of(2**50 - 1) == 0
    assert slot_of(2**50) == 1
    assert slot_of(2**64 - 1) == SLOTS - 1


@pytest.mark.parametrize(
    "refused", [True, False, None, 1.0, bytearray(b"a"), memoryview(b"a"), object(), ("a",)]
)
def test_other_types_are_refused(refused: Any) -> None:
    with pytest.raises(
        TypeError, match=rf"user id is of type {type(refused).__name__}, accepted is an int in 0"
    ):
        key_of(refused, SEED)
    with pytest.raises(TypeError, match=rf"at index 2 is of type {type(refused).__name__}"):
        keys_of([1, "a", refused, 3], SEED)


@pytest.mark.parametrize("refused", [-1, -(2**63), 2**64, 10**40])
def test_ints_out_of_range_are_refused(refused: int) -> None:
    with pytest.raises(ValueError, match=r"user id is .*, accepted is an int in 0\.\.2\*\*64-1"):
        key_of(refused, SEED)
    with pytest.raises(ValueError, match="at index 1 is"):
        keys_of([1, refused], SEED)


def test_a_huge_int_makes_a_short_message() -> None:
    with pytest.raises(ValueError, match="an int of 40001 bits"):
        key_of(1 << 40000, SEED)


def test_a_text_without_utf8_form_is_refused() -> None:
    with pytest.raises(ValueError, match="lone surrogate"):
        key_of("\ud800", SEED)
    with pytest.raises(ValueError, match="at index 0 is a str with a lone surrogate"):
        keys_of(["\ud800"], SEED)


@pytest.mark.parametrize("single", ["alice", b"alice", bytearray(b"alice")])
def test_a_single_string_is_no_batch(single: Any) -> None:
    with pytest.raises(TypeError, match=rf"a single {type(single).__name__} is one id: put it in a list"):
        keys_of(single, SEED)


@pytest.mark.parametrize("single", [42, None, uuid.UUID(int=1)])
def test_what_cannot_be_iterated_is_no_batch(single: Any) -> None:
    with pytest.raises(TypeError, match="an iterable of ids or a buffer of 64-bit integers is needed"):
        keys_of(single, SEED)


def test_an_error_inside_a_callers_iterable_is_the_callers() -> None:
    class Broken:
        def __iter__(self) -> Any:
            raise TypeError("mine")

    with pytest.raises(TypeError, match=r"^mine$"):
        keys_of(Broken(), SEED)


def test_any_iterable_is_a_batch() -> None:
    expected = keys_of([3, 1, 2], SEED)
    assert keys_of((3, 1, 2), SEED) == expected
    assert keys_of(iter([3, 1, 2]), SEED) == expected
    assert keys_of((number for number in (3, 1, 2)), SEED) == expected
    assert keys_of({3: "c", 1: "a", 2: "b"}, SEED) == expected
    assert keys_of([], SEED) == keys_of(iter(()), SEED) == b""


@pytest.mark.parametrize(
    "buffer",
    [
        array("Q", [0, 1, 42, 2**63 - 1]),
        array("q", [0, 1, 42, 2**63 - 1]),
        array("L", [0, 1, 42, 2**63 - 1]),
        np.array([0, 1, 42, 2**63 - 1], dtype=np.uint64),
        np.array([0, 1, 42, 2**63 - 1], dtype=np.int64),
        memoryview(array("Q", [0, 1, 42, 2**63 - 1])),
        np.array([0, 9, 1, 9, 42, 9, 2**63 - 1, 9], dtype=np.uint64)[::2],
        np.array([2**63 - 1, 42, 1, 0], dtype=np.uint64)[::-1],
    ],
    ids=["Q", "q", "L", "uint64", "int64", "memoryview", "strided", "reversed"],
)
def test_buffers_of_64_bit_integers_are_batches(buffer: Any) -> None:
    assert keys_of(buffer, SEED) == keys_of([0, 1, 42, 2**63 - 1], SEED)


@pytest.mark.parametrize(
    "buffer",
    [
        array("I", [1]),
        array("d", [1.0]),
        np.array([1], dtype=np.int32),
        np.array([1.0]),
        np.array([1], dtype=">u8"),
        np.array([[1]], dtype=np.uint64),
        np.array(1, dtype=np.uint64),
        np.array([1], dtype=object),
        np.array(["one"]),
        np.array(["2020-01-01"], dtype="datetime64[s]"),
        memoryview(b"12345678"),
    ],
    ids=[
        "I",
        "d",
        "int32",
        "float64",
        "big-endian",
        "matrix",
        "scalar",
        "object",
        "text",
        "datetime",
        "bytes",
    ],
)
def test_other_buffers_are_refused(buffer: Any) -> None:
    with pytest.raises(TypeError, match=r"64-bit integers is needed"):
        keys_of(buffer, SEED)


def test_negative_integers_in_a_buffer_are_refused_by_index() -> None:
    with pytest.raises(ValueError, match="user id at index 1 is -7"):
        keys_of(array("q", [5, -7]), SEED)


def test_empty_buffers_are_empty_batches() -> None:
    assert keys_of(array("Q"), SEED) == keys_of(np.array([], dtype=np.uint64), SEED) == b""


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(OverflowError, match=r"hash seed is an int in 0\.\.2\*\*64-1"):
        key_of(1, seed)
