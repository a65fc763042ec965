"""The client's kernel and its plain-Python twin keep the same promises: each test runs on both."""

import importlib
import math
import os
import struct
import subprocess
import sys
import uuid
from array import array
from decimal import Decimal
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from xxhash import xxh64_intdigest

from pulsering import _kernel_reference

if TYPE_CHECKING:
    from collections.abc import Callable

SLOTS = 16384
NONE = 0xFFFF


@pytest.fixture(params=["_kernel", "_kernel_reference"])
def kernel(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"pulsering.{request.param}")


def packed(*keys: int) -> bytes:
    return struct.pack(f"<{len(keys)}Q", *keys)


def in_slot(slot: int, rest: int = 0) -> int:
    return slot << 50 | rest


def rank(
    kernel: ModuleType,
    weights: list[int],
    replicas: int,
    hosts: list[int] | None = None,
    zones: list[int] | None = None,
    seeds: list[int] | None = None,
) -> list[tuple[int, ...]]:
    nodes = len(weights)
    table = kernel.rank_owners(
        array("Q", seeds or [xxh64_intdigest(bytes([node])) for node in range(nodes)]),
        array("I", weights),
        array("H", hosts or range(nodes)),
        array("H", zones or [0] * nodes),
        replicas,
    )
    assert isinstance(table, array)
    assert table.typecode == "H"
    return [tuple(table[start : start + replicas]) for start in range(0, len(table), replicas)]


# --- hashing ---


@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1])
def test_xxh64_equals_the_xxhash_package_at_every_length(kernel: ModuleType, seed: int) -> None:
    data = bytes((index * 167 + 13) % 256 for index in range(200))
    for size in range(200):
        assert kernel.xxh64(data[:size], seed) == xxh64_intdigest(data[:size], seed)
        assert kernel.xxh64(memoryview(data)[200 - size :], seed) == xxh64_intdigest(data[200 - size :], seed)


def test_integers_in_a_buffer_hash_as_integers_in_a_list(kernel: ModuleType) -> None:
    numbers = [0, 1, 2**32, 2**63, 2**64 - 1]
    assert kernel.hash_integers(array("Q", numbers), 5) == kernel.hash_ids(numbers, packed(5, 6))
    assert kernel.hash_integers(array("Q", numbers), 5) == packed(
        *(xxh64_intdigest(number.to_bytes(8, "little"), 5) for number in numbers)
    )


def test_an_id_that_changes_its_batch_while_it_is_hashed_does_no_harm(kernel: ModuleType) -> None:
    batch: list[Any] = [1, None, 2]

    class Emptying(uuid.UUID):
        @property
        def bytes(self) -> bytes:
            batch.clear()
            return b"x" * 16

    batch[1] = Emptying(int=7)
    expected = kernel.hash_ids([1, b"x" * 16, 2], packed(5, 6))
    assert kernel.hash_ids(batch, packed(5, 6)) == expected
    assert batch == []


@pytest.mark.parametrize("seeds", [b"", bytes(15), bytes(17)])
def test_seeds_are_two(kernel: ModuleType, seeds: bytes) -> None:
    for hashing in (kernel.hash_id, kernel.hash_ids):
        with pytest.raises(ValueError, match=f"16 bytes, not {len(seeds)}"):
            hashing((1,), seeds)


@pytest.mark.parametrize("value", [b"", bytearray(), array("H"), memoryview(b"")])
def test_buffers_are_known(kernel: ModuleType, value: Any) -> None:
    assert kernel.is_buffer(value) is True


@pytest.mark.parametrize("value", [1, "text", [], None, iter(())])
def test_other_values_are_no_buffers(kernel: ModuleType, value: Any) -> None:
    assert kernel.is_buffer(value) is False
    with pytest.raises(TypeError):
        kernel.hash_integers(value, 0)


# --- owners ---


def test_the_logarithm_table_is_exact() -> None:
    table = _kernel_reference.log2_table()
    assert len(table) == 1025
    assert (table[0], table[1024]) == (0, 1 << 40)
    assert list(table) == sorted(set(table))
    # log2(1.5) to 60 digits, and the platform's floating point for the rest.
    assert table[512] == int(
        2**40 * Decimal("0.584962500721156181453738943947816508759814407692481060455753")
    )
    assert all(abs(entry / 2**40 - math.log2(1 + i / 1024)) < 2**-39 for i, entry in enumerate(table))


def test_every_slot_has_its_replicas_on_different_nodes(kernel: ModuleType) -> None:
    owners = rank(kernel, [1, 2, 3], 3)
    assert len(owners) == SLOTS
    assert all(sorted(row) == [0, 1, 2] for row in owners)
    assert len(set(owners)) == 6


def test_owners_do_not_share_a_host_while_there_is_another(kernel: ModuleType) -> None:
    hosts = [0, 0, 0, 1, 2]
    for row in rank(kernel, [1000, 1000, 1000, 1, 1], 3, hosts=hosts):
        assert sorted(hosts[node] for node in row) == [0, 1, 2]


def test_owners_do_not_share_a_zone_while_there_is_another(kernel: ModuleType) -> None:
    zones = [1, 1, 1, 2, 2]
    for row in rank(kernel, [1000, 1000, 1000, 1, 1], 3, zones=zones):
        assert {zones[node] for node in row[:2]} == {1, 2}


def test_zones_yield_to_hosts_and_hosts_to_the_count_of_replicas(kernel: ModuleType) -> None:
    for row in rank(kernel, [1, 1, 1], 3, hosts=[0, 0, 1], zones=[1, 2, 1]):
        first, second, _ = row
        assert (first == 2) != (second == 2)
        assert sorted(row) == [0, 1, 2]


def test_no_zone_does_not_constrain(kernel: ModuleType) -> None:
    weights = [1, 2, 3, 4]
    assert rank(kernel, weights, 2, zones=[0, 0, 0, 0]) == rank(kernel, weights, 2, zones=[1, 2, 3, 4])


def test_equal_costs_go_to_the_first_node(kernel: ModuleType) -> None:
    assert set(rank(kernel, [1, 1, 1], 2, seeds=[9, 9, 9])) == {(0, 1)}


@pytest.mark.parametrize(
    ("weights", "replicas", "hosts"),
    [([], 1, None), ([1], 2, None), ([1], 0, None), ([0], 1, None), ([1001], 1, None), ([1, 1], 1, [1])],
    ids=["no-node", "too-few-nodes", "no-replica", "weight-0", "weight-1001", "sizes-differ"],
)
def test_impossible_rankings_are_refused(
    kernel: ModuleType, weights: list[int], replicas: int, hosts: list[int] | None
) -> None:
    with pytest.raises(ValueError, match=r"replicas|weight"):
        rank(kernel, weights, replicas, hosts=hosts)


def test_arrays_of_another_type_are_refused(kernel: ModuleType) -> None:
    with pytest.raises(TypeError, match="typecode 'Q'"):
        kernel.rank_owners(array("I", [1]), array("I", [1]), array("H", [1]), array("H", [1]), 1)
    with pytest.raises(TypeError, match="typecode 'H'"):
        kernel.partition(b"", array("I", [0] * SLOTS), None, 1)
    with pytest.raises(TypeError, match="typecode 'I'"):
        kernel.tally(bytearray(1), array("H", [0]))
    with pytest.raises(TypeError):
        kernel.tally(b"\x00", array("I", [0]))


def test_avoided_owners_come_last_and_keep_their_order(kernel: ModuleType) -> None:
    owners = array("H", [0, 1, 2, 2, 1, 0, 1, 0, 2])
    assert list(kernel.reorder_owners(owners, 3, bytes([1, 0, 0]))) == [1, 2, 0, 2, 1, 0, 1, 2, 0]
    assert list(kernel.reorder_owners(owners, 3, bytes([1, 0, 1]))) == [1, 0, 2, 1, 2, 0, 1, 0, 2]
    assert kernel.reorder_owners(owners, 3, bytes([1, 1, 1])) == owners


def test_owner_tables_that_do_not_fit_are_refused(kernel: ModuleType) -> None:
    for owners, replicas, avoided in [([0, 1, 2], 2, bytes(3)), ([0], 0, bytes(1)), ([0, 3], 2, bytes(3))]:
        with pytest.raises(ValueError, match="owner table"):
            kernel.reorder_owners(array("H", owners), replicas, avoided)


# --- batches ---


def targets(**bound: int) -> "array[int]":
    table = array("H", [NONE]) * SLOTS
    for slot, node in bound.items():
        table[int(slot[1:])] = node
    return table


def test_keys_are_split_by_node_in_order(kernel: ModuleType) -> None:
    keys = [in_slot(1, 5), in_slot(0, 1), in_slot(16383, 2), in_slot(1, 4), in_slot(7, 9)]
    pieces = kernel.partition(packed(*keys), targets(s0=3, s1=2, s16383=3), None, 100)
    assert pieces == [
        (2, packed(keys[0], keys[3]), array("I", [0, 3])),
        (3, packed(keys[1], keys[2]), array("I", [1, 2])),
    ]


def test_pieces_hold_at_most_a_chunk_and_carry_the_callers_positions(kernel: ModuleType) -> None:
    keys = [in_slot(1, rest) for rest in range(5)]
    places = array("I", [50, 40, 30, 20, 2**32 - 1])
    pieces = kernel.partition(packed(*keys), targets(s1=0), places, 2)
    assert [(node, list(positions)) for node, _, positions in pieces] == [
        (0, [50, 40]),
        (0, [30, 20]),
        (0, [2**32 - 1]),
    ]
    assert b"".join(piece for _, piece, _ in pieces) == packed(*keys)
    assert kernel.partition(packed(*keys), targets(s1=0), places, 5) == [(0, packed(*keys), places)]


def test_nothing_splits_into_nothing(kernel: ModuleType) -> None:
    assert kernel.partition(b"", targets(s1=0), None, 1) == []
    assert kernel.partition(packed(in_slot(2)), targets(s1=0), array("I", [4]), 1) == []


def test_splits_leave_no_trace_for_the_next_one(kernel: ModuleType) -> None:
    keys = packed(in_slot(1), in_slot(2), in_slot(3))
    for _ in range(3):
        assert len(kernel.partition(keys, targets(s1=0, s2=1), None, 1)) == 2


@pytest.mark.parametrize(
    ("keys", "entries", "positions", "chunk"),
    [
        (b"1234567", SLOTS, None, 1),
        (b"12345678", SLOTS - 1, None, 1),
        (b"12345678", SLOTS, array("I"), 1),
        (b"12345678", SLOTS, array("I", [1, 2]), 1),
        (b"12345678", SLOTS, None, 0),
    ],
)
def test_splits_that_do_not_fit_are_refused(
    kernel: ModuleType, keys: bytes, entries: int, positions: "array[int] | None", chunk: int
) -> None:
    with pytest.raises(ValueError, match=r"keys|entries|positions|chunk"):
        kernel.partition(keys, array("H", [0]) * entries, positions, chunk)


def test_states_become_evidence_bits(kernel: ModuleType) -> None:
    evidence = bytearray([0, 16, 0, 0, 0, 0])
    kernel.merge_states(evidence, array("I", [5, 1, 3, 2, 0]), bytes([0b11_10_01_00, 0b11111101]))
    assert list(evidence) == [2, 16 | 2, 8, 4, 0, 1]
    kernel.merge_states(evidence, array("I", [5, 5]), bytes([0b10_01]))
    assert evidence[5] == 1 | 2 | 4


@pytest.mark.parametrize(("count", "size"), [(0, 1), (1, 0), (4, 2), (5, 1), (5, 3)])
def test_a_reply_of_the_wrong_length_changes_nothing(kernel: ModuleType, count: int, size: int) -> None:
    evidence = bytearray(8)
    with pytest.raises(ValueError, match=f"{count} states of 2 bits do not fill {size} bytes"):
        kernel.merge_states(evidence, array("I", range(count)), b"\xff" * size)
    assert evidence == bytearray(8)


def test_positions_beyond_the_batch_change_nothing(kernel: ModuleType) -> None:
    evidence, beyond = bytearray(2), array("I", [0, 1, 2])
    calls: tuple[Callable[[], None], ...] = (
        lambda: kernel.merge_states(evidence, beyond, b"\xff"),
        lambda: kernel.merge_ages(evidence, beyond, b"abc"),
        lambda: kernel.mark(evidence, beyond, 1),
        lambda: kernel.tally(evidence, beyond),
        lambda: kernel.tally(bytearray(), array("I", [2**32 - 1])),
    )
    for refused in calls:
        with pytest.raises(ValueError, match="is beyond a batch of"):
            refused()
    assert evidence == bytearray(2)


def test_marks_add_to_the_evidence(kernel: ModuleType) -> None:
    evidence = bytearray([1, 1, 1])
    kernel.mark(evidence, array("I", [0, 2]), 16)
    assert list(evidence) == [17, 1, 17]
    for bits in (-1, 256):
        with pytest.raises(ValueError, match=r"evidence bits are 0\.\.255"):
            kernel.mark(evidence, array("I", [0]), bits)


def test_the_least_age_is_kept(kernel: ModuleType) -> None:
    ages = bytearray([255, 7, 255])
    kernel.merge_ages(ages, array("I", [2, 1, 1]), bytes([0, 9, 8]))
    assert list(ages) == [255, 7, 0]
    kernel.merge_ages(ages, array("I", [0, 1]), bytes([80, 3]))
    assert list(ages) == [80, 3, 0]
    with pytest.raises(ValueError, match="2 ages for 1 keys"):
        kernel.merge_ages(ages, array("I", [0]), b"ab")


def test_the_least_seconds_are_kept(kernel: ModuleType) -> None:
    seconds = bytearray(b"\xff" * 12)
    kernel.merge_seconds(seconds, array("I", [2, 1]), struct.pack("<II", 300, 70_000))
    kernel.merge_seconds(seconds, array("I", [2, 1, 1]), struct.pack("<III", 2**32 - 1, 65_536, 65_537))
    assert struct.unpack("<III", seconds) == (2**32 - 1, 65_536, 300)
    with pytest.raises(ValueError, match="8 bytes of seconds for 1 keys"):
        kernel.merge_seconds(seconds, array("I", [0]), bytes(8))
    with pytest.raises(ValueError, match="position 3 is beyond a batch of 3"):
        kernel.merge_seconds(seconds, array("I", [3]), bytes(4))


def test_acknowledgements_are_counted_to_255(kernel: ModuleType) -> None:
    acks = bytearray([0, 254, 255])
    kernel.tally(acks, array("I", [0, 1, 2, 1]))
    assert list(acks) == [1, 255, 255]


def test_selection_keeps_keys_without_the_masked_evidence(kernel: ModuleType) -> None:
    keys = packed(10, 11, 12, 13)
    assert kernel.select(keys, bytearray([1, 2, 3, 0]), 2) == (packed(10, 13), array("I", [0, 3]))
    assert kernel.select(keys, bytes(4), 0) == (keys, array("I", range(4)))
    assert kernel.select(b"", b"", 255) == (b"", array("I"))
    with pytest.raises(ValueError, match="3 bytes of evidence for 32 bytes of keys"):
        kernel.select(keys, bytes(3), 0)


# --- which of the two ---


def test_both_kernels_have_the_same_names() -> None:
    compiled = importlib.import_module("pulsering._kernel")
    offered = importlib.import_module("pulsering.kernel").__all__
    for name in set(offered) - {"COMPILED"}:
        assert callable(getattr(compiled, name))
        assert callable(getattr(_kernel_reference, name))


@pytest.mark.parametrize(("variable", "compiled"), [("1", False), ("0", True)])
def test_an_environment_variable_forces_the_twin(variable: str, compiled: bool) -> None:
    program = "from pulsering import kernel; print(kernel.COMPILED, kernel.rank_owners.__module__)"
    environment = {**os.environ, "PULSERING_PURE_PYTHON": variable}
    answer = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    assert answer == [str(compiled), "pulsering._kernel" if compiled else "pulsering._kernel_reference"]
