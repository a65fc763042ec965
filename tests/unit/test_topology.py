"""Every process computes the same owners, shares follow weights, and a removal moves only what it must."""

import json
import os
import random
import struct
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from xxhash import xxh64_intdigest

from pulsering import _kernel_reference
from pulsering.ids import SLOTS
from pulsering.topology import NO_NODE, Node, Topology, moved

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterable

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "topologies.json").read_text())


def cluster(nodes: "Iterable[Node]", replicas: int = 2, hash_seed: int = 7) -> Topology:
    return Topology("test", 1, 20_000, 80, replicas, hash_seed, tuple(nodes))


def numbered(count: int, zones: int = 0) -> list[Node]:
    zone_of = [f"z{zone}" for zone in range(zones)] or [""]
    return [
        Node(f"n{i}", f"10.0.{i // 250}.{i % 250}", 7400, zone=zone_of[i % len(zone_of)])
        for i in range(count)
    ]


def rows(topology: Topology) -> list[tuple[str, ...]]:
    """The names of each slot's owners."""
    names = [node.name for node in topology.nodes]
    columns = (map(names.__getitem__, topology.column(rank)) for rank in range(topology.replicas))
    return list(zip(*columns, strict=True))


def vector(case: dict[str, Any]) -> Topology:
    return Topology.from_wire(case["topology"] | {"hash_seed": int(case["topology"]["hash_seed"], 16)})


def digest(numbers: "array[int]", code: str) -> str:
    return f"{xxh64_intdigest(struct.pack(f'<{len(numbers)}{code}', *numbers)):#018x}"


# --- golden vectors ---


def test_the_logarithm_table_matches_its_golden_vector() -> None:
    table = _kernel_reference.log2_table()
    assert digest(table, "Q") == VECTORS["log2_table"]["digest"]
    assert {str(i): table[i] for i in (0, 1, 2, 512, 1023, 1024)} == VECTORS["log2_table"]["samples"]


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["topology"]["cluster"])
def test_owners_and_hash_match_the_golden_vectors(case: dict[str, Any]) -> None:
    topology = vector(case)
    assert f"{topology.hash:#018x}" == case["hash"]
    assert digest(topology.owners, "H") == case["owners_digest"]
    assert [[node.name for node in topology.owners_of(slot)] for slot in range(8)] == case["first_slots"]


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["topology"]["cluster"])
def test_the_steps_match_the_golden_vectors(case: dict[str, Any]) -> None:
    first = vector(case).nodes[0]
    node_seed = xxh64_intdigest(b"pulsering/node", int(case["topology"]["hash_seed"], 16))
    name = first.name.encode()
    name_seed = xxh64_intdigest(len(name).to_bytes(4, "little") + name, node_seed)
    hashed = xxh64_intdigest(bytes(8), name_seed)
    assert f"{node_seed:#018x}" == case["node_seed"]
    assert f"{name_seed:#018x}" == case["first_node"]["name_seed"]
    assert f"{hashed:#018x}" == case["first_node"]["hash_of_slot_0"]
    cost = _kernel_reference.cost_of(hashed, first.weight)
    assert f"{cost:#018x}" == case["first_node"]["cost_of_slot_0"]


# --- scenario 33: the same table everywhere, fair shares ---


def test_scenario_33_every_process_and_order_computes_the_same_table() -> None:
    program = """
import random, sys
from pulsering.topology import Node, Topology
nodes = [Node(f"n{i}", f"h{i}", 7400, 1 + i % 3, f"z{i % 4}") for i in range(12)]
random.Random(sys.argv[1]).shuffle(nodes)
topology = Topology("test", 1, 20_000, 80, 2, 7, tuple(nodes))
print(topology.hash, topology.owners.tobytes().hex())
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(seed)],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            stdout=subprocess.PIPE,
        )
        for seed in range(20)
    ]
    answers = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 20
    assert len(answers[0]) > 2 * 2 * SLOTS
    assert set(answers) == {answers[0]}


@pytest.mark.parametrize(
    "names",
    [
        ["n1", "n11", "n111", "n2"],
        ["1.2.3.4:5", "1.2.3.4:55", "1.2.3.4:555"],
        ["a", "b"],
        ["x" * 63, "x" * 62, "x" * 61],
    ],
    ids=lambda names: names[0][:9],
)
def test_scenario_33_similar_names_have_fair_shares(names: list[str]) -> None:
    topology = cluster((Node(name, f"h{i}", 7400) for i, name in enumerate(names)), replicas=1)
    for share in topology.shares().values():
        assert share == pytest.approx(1 / len(names), rel=0.1)


def test_scenario_33_joined_texts_do_not_collide() -> None:
    """``1.2.3.4:5`` + ``55`` and ``1.2.3.4:55`` + ``5`` are the same bytes unless each text is delimited."""
    one = cluster([Node("1.2.3.4:5", "55", 1), Node("b", "h", 1)])
    other = cluster([Node("1.2.3.4:55", "5", 1), Node("b", "h", 1)])
    assert one.hash != other.hash
    assert one.owners != other.owners


@pytest.mark.parametrize("hash_seed", [0, 1, 2**64 - 1])
def test_scenario_33_shares_follow_weights(hash_seed: int) -> None:
    weights = {"a": 1, "b": 2, "c": 4}
    topology = cluster([Node(name, name, 1, weight) for name, weight in weights.items()], 2, hash_seed)
    for name, share in topology.shares().items():
        assert share == pytest.approx(weights[name] / 7, rel=0.1)


def test_shares_at_any_rank_add_up_to_the_replicas() -> None:
    topology = cluster(numbered(7), replicas=3)
    assert sum(topology.shares().values()) == pytest.approx(1)
    assert sum(topology.shares(None).values()) == pytest.approx(3)
    assert max(topology.shares(None).values()) <= 1


def test_a_thousand_nodes_share_alike() -> None:
    topology = cluster(numbered(1000, zones=3))
    assert len(topology.owners) == 2 * SLOTS
    shares = topology.shares()
    assert len(shares) == 1000
    assert min(shares.values()) > 0
    assert max(shares.values()) < 3 / 1000


# --- scenario 34: removal moves only what it must ---


@pytest.mark.parametrize(("replicas", "zones"), [(1, 0), (2, 0), (2, 3), (3, 3)])
def test_scenario_34_removing_a_node_moves_only_its_slots(replicas: int, zones: int) -> None:
    for count in range(max(2, replicas + 1), 51):
        nodes = numbered(count, zones)
        gone = random.Random(count).choice(nodes)
        before = rows(cluster(nodes, replicas))
        after = rows(cluster((node for node in nodes if node is not gone), replicas))
        for old, new in zip(before, after, strict=True):
            assert old == new or gone.name in old
        assert not any(gone.name in owners for owners in after)


def test_scenario_34_moved_is_what_the_removed_node_owned() -> None:
    nodes = numbered(10, zones=3)
    before = cluster(nodes)
    for gone in nodes:
        after = cluster(node for node in nodes if node is not gone)
        assert moved(before, after) == moved(after, before) == before.shares(None)[gone.name]


def test_scenario_34_replicas_never_share_a_host() -> None:
    nodes = [Node(f"h{host}-{core}", f"h{host}", 7400 + core) for host in range(4) for core in range(16)]
    topology = cluster(nodes, replicas=3)
    for slot in range(SLOTS):
        assert len({node.host for node in topology.owners_of(slot)}) == 3


def test_replicas_are_in_different_zones_where_there_are_enough() -> None:
    topology = cluster(numbered(9, zones=3), replicas=3)
    for slot in range(SLOTS):
        assert len({node.zone for node in topology.owners_of(slot)}) == 3


def test_one_node_falling_into_two_zones_leaves_hosts_apart() -> None:
    topology = cluster(numbered(6, zones=2), replicas=3)
    for slot in range(SLOTS):
        owners = topology.owners_of(slot)
        assert owners[0].zone != owners[1].zone
        assert len({node.host for node in owners}) == 3


def test_moved_counts_slots_whose_owners_change() -> None:
    before = cluster(numbered(4))
    assert moved(before, before) == 0
    assert moved(before, replace(before, epoch=2, ttl_ms=30_000)) == 0
    assert moved(before, replace(before, hash_seed=8)) == 1
    assert 0 < moved(before, replace(before, replicas=1)) <= 1


# --- the value ---


def test_nodes_are_kept_in_the_order_of_their_names() -> None:
    nodes = [Node("b", "h1", 1), Node("a", "h2", 1), Node("Z", "h3", 1)]
    topology = cluster(nodes)
    assert [node.name for node in topology.nodes] == ["Z", "a", "b"]
    assert topology == cluster(reversed(nodes))
    assert hash(topology) == hash(cluster(reversed(nodes)))
    assert topology.index_of("a") == 1
    with pytest.raises(KeyError):
        topology.index_of("c")


def test_a_topology_cannot_change() -> None:
    topology = cluster(numbered(2))
    with pytest.raises(FrozenInstanceError):
        topology.epoch = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        topology.nodes[0].weight = 2  # type: ignore[misc]


BASE = cluster([Node("a", "h1", 1, 1, "z1"), Node("b", "h2", 2)])


@pytest.mark.parametrize(
    "changed",
    [
        replace(BASE, cluster="other"),
        replace(BASE, epoch=2),
        replace(BASE, ttl_ms=20_001),
        replace(BASE, ticks_per_ttl=79),
        replace(BASE, replicas=1),
        replace(BASE, hash_seed=8),
        replace(BASE, nodes=(*BASE.nodes[:1], Node("c", "h2", 2))),
        replace(BASE, nodes=(*BASE.nodes[:1], Node("b", "h3", 2))),
        replace(BASE, nodes=(*BASE.nodes[:1], Node("b", "h2", 2, 2))),
        replace(BASE, nodes=(*BASE.nodes[:1], Node("b", "h2", 2, 1, "z1"))),
        replace(BASE, nodes=(*BASE.nodes, Node("c", "h3", 2))),
    ],
    ids=[
        *("cluster", "epoch", "ttl", "ticks", "replicas", "seed"),
        *("name", "host", "weight", "zone", "count"),
    ],
)
def test_the_hash_covers_what_affects_answers(changed: Topology) -> None:
    assert changed.hash != BASE.hash


def test_the_hash_leaves_ports_out() -> None:
    other = replace(BASE, nodes=(Node("a", "h1", 9, 1, "z1"), Node("b", "h2", 0)))
    assert other.hash == BASE.hash
    assert other != BASE


def test_owners_are_computed_once_and_read_in_three_ways() -> None:
    topology = cluster(numbered(5), replicas=3)
    assert topology.owners is topology.owners
    columns = [topology.column(rank) for rank in range(3)]
    for slot in (0, 1, 8191, SLOTS - 1):
        row = tuple(topology.owners[slot * 3 : slot * 3 + 3])
        assert tuple(column[slot] for column in columns) == row
        assert topology.owners_of(slot) == tuple(topology.nodes[index] for index in row)


@pytest.mark.parametrize("beyond", [-1, 3])
def test_ranks_beyond_the_replicas_are_refused(beyond: int) -> None:
    with pytest.raises(IndexError, match=r"ranks are 0\.\.2"):
        cluster(numbered(5), replicas=3).column(beyond)


@pytest.mark.parametrize("beyond", [-1, SLOTS])
def test_slots_beyond_the_last_are_refused(beyond: int) -> None:
    with pytest.raises(IndexError, match=r"slots are 0\.\.16383"):
        cluster(numbered(2)).owners_of(beyond)


def test_counting_groups_divide_a_nodes_slots_by_their_ordered_owners() -> None:
    topology = cluster(numbered(4))
    groups, owners = topology.groups_of("n2")
    assert (len(groups), groups.typecode) == (SLOTS, "H")
    assert len(set(owners)) == len(owners) == 6
    for slot in range(SLOTS):
        names = tuple(node.name for node in topology.owners_of(slot))
        if "n2" in names:
            assert owners[groups[slot]] == names
        else:
            assert groups[slot] == NO_NODE
    with pytest.raises(KeyError):
        topology.groups_of("n9")


def test_an_address_with_colons_has_brackets() -> None:
    assert Node("a", "::1", 7400).address == "[::1]:7400"
    assert Node("a", "h1", 7400).address == "h1:7400"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "a node's name has 1 to 63 bytes, not 0"),
        ({"name": "é" * 32}, "a node's name has 1 to 63 bytes, not 64"),
        ({"name": "a\nb"}, "a node's name has characters that do not print"),
        ({"name": "\ud800"}, "a node's name has characters that do not print"),
        ({"name": b"a"}, "a node's name is a text, not bytes"),
        ({"host": ""}, "host of node a has 1 to 253 bytes"),
        ({"port": 65536}, "port of node a is 0 to 65535, not 65536"),
        ({"port": "7400"}, "port of node a is an integer, not str"),
        ({"weight": 0}, "weight of node a is 1 to 1000, not 0"),
        ({"weight": True}, "weight of node a is an integer, not bool"),
        ({"weight": 1.0}, "weight of node a is an integer, not float"),
        ({"weight": 10**5000}, "weight of node a is 1 to 1000, not that large"),
        ({"zone": None}, "zone of node a is a text, not NoneType"),
    ],
)
def test_a_node_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Node(**{"name": "a", "host": "h1", "port": 7400, **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cluster": ""}, "cluster has 1 to 63 bytes"),
        ({"epoch": 0}, "epoch is 1 to 4294967295, not 0"),
        ({"ttl_ms": 20.0}, "ttl_ms is an integer, not float"),
        ({"ticks_per_ttl": 19}, "ticks_per_ttl is 20 to"),
        ({"replicas": 0}, "replicas is 1 to"),
        ({"hash_seed": 2**64}, "hash_seed is 0 to"),
        ({"nodes": ()}, "2 replicas need at least as many nodes, and there are 0"),
        ({"nodes": (Node("a", "h1", 1), Node("a", "h2", 1))}, "two nodes have the name a"),
        ({"nodes": (Node("a", "h1", 1), Node("b", "h1", 1))}, "nodes a and b have the address h1:1"),
        (
            {"nodes": (Node("a", "h1", 1), Node("b", "h1", 2))},
            "2 replicas need as many hosts, and there are 1",
        ),
        ({"nodes": tuple(numbered(4097))}, "4097 nodes are more than 4096"),
    ],
)
def test_a_topology_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(BASE, **fields)


def test_a_loopback_cluster_may_share_its_host_and_leave_ports_open() -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        topology = cluster((Node(name, host, 0) for name in "abc"), replicas=3)
        assert all(len(set(topology.owners_of(slot))) == 3 for slot in range(0, SLOTS, 61))


# --- on the wire ---


def test_a_topology_survives_the_wire() -> None:
    topology = cluster([Node("a", "::1", 1, 1000, "z"), Node("Zoë", "h2", 65535)], hash_seed=2**64 - 1)
    again = Topology.from_wire(msgpack.unpackb(msgpack.packb(topology.to_wire())))
    assert again == topology
    assert again.hash == topology.hash


def test_fields_of_a_later_version_are_ignored() -> None:
    fields = BASE.to_wire()
    fields["colour"] = "red"
    fields["nodes"][0]["rack"] = 7
    assert Topology.from_wire(fields) == BASE


def with_node(**changes: Any) -> dict[str, Any]:
    fields = BASE.to_wire()
    fields["nodes"][0] |= changes
    return fields


@pytest.mark.parametrize(
    "missing", ["cluster", "epoch", "ttl_ms", "ticks_per_ttl", "replicas", "hash_seed", "nodes"]
)
def test_a_missing_field_is_named(missing: str) -> None:
    fields = BASE.to_wire()
    del fields[missing]
    with pytest.raises(ValueError, match=f"{missing} is missing"):
        Topology.from_wire(fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (BASE.to_wire() | {"nodes": "ab"}, "nodes is not a list"),
        (BASE.to_wire() | {"nodes": {"a": 1}}, "nodes is not a list"),
        (BASE.to_wire() | {"nodes": [7]}, "a node is a map, not int"),
        (BASE.to_wire() | {"nodes": [{}]}, "name is missing"),
        (BASE.to_wire() | {"nodes": [{}] * 5000}, "5000 nodes are more than 4096"),
        (BASE.to_wire() | {"epoch": "1"}, "epoch is an integer, not str"),
        (BASE.to_wire() | {"cluster": ["test"]}, "cluster is a text, not list"),
        (with_node(port=0), "port of node a is 0, which nobody can connect to"),
        (with_node(weight=-1), "weight of node a is 1 to 1000, not -1"),
        (with_node(host=7), "host of node a is a text, not int"),
    ],
)
def test_a_wire_map_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Topology.from_wire(fields)
