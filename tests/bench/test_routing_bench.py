"""What routing costs, tiny: the numbers to watch when the kernel changes. Each also checks its result."""

from array import array
from typing import Any

import pytest

from pulsering import kernel
from pulsering.ids import keys_of
from pulsering.topology import Node, Topology, _ranked

KEYS = 8192


def cluster(count: int) -> Topology:
    nodes = tuple(Node(f"n{i}", f"host-{i}", 7400, i % 4 + 1, f"z{i % 3}") for i in range(count))
    return Topology("bench", 1, 20_000, 80, 2, 7, nodes)


@pytest.mark.parametrize("count", [3, 1000])
def test_rank_owners(benchmark: Any, count: int) -> None:
    table = benchmark.pedantic(_ranked, (cluster(count),), rounds=1)
    assert len(table) == 2 * 16384


def test_hash_integers(benchmark: Any) -> None:
    ids = array("Q", range(KEYS))
    assert len(benchmark.pedantic(keys_of, (ids, 7), rounds=5)) == 8 * KEYS


def test_hash_ids(benchmark: Any) -> None:
    ids = [str(number) for number in range(KEYS)]
    assert len(benchmark.pedantic(keys_of, (ids, 7), rounds=5)) == 8 * KEYS


@pytest.mark.parametrize("count", [3, 1000])
def test_partition(benchmark: Any, count: int) -> None:
    keys = keys_of(array("Q", range(KEYS)), 7)
    pieces = benchmark.pedantic(kernel.partition, (keys, cluster(count).column(0), None, KEYS), rounds=5)
    assert sum(len(positions) for _, _, positions in pieces) == KEYS
