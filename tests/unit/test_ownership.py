"""A node that changes its topology while it runs: gained slots are cold, lost ones answered for one ttl."""

import random

import pytest
from support.node_driver import (
    MOVED,
    OFFLINE,
    ONLINE,
    TICK_MS,
    TTL_MS,
    UNKNOWN,
    World,
    hello_body,
    topology_of,
)

from pulsering import messages
from pulsering.ids import SLOTS, slot_of
from pulsering.topology import Topology
from pulsering.wire import Op
from pulsering_server.ownership import Ownership, Refused, check_change

RNG = random.Random(7)
KEYS = [RNG.randrange(2**64) for _ in range(400)]


def owned(topology: Topology, name: str) -> set[int]:
    """Those of ``KEYS`` whose slots a node owns."""
    return {key for key in KEYS if name in {node.name for node in topology.owners_of(slot_of(key))}}


def names(world: World) -> list[str]:
    """What the node a has to tell its operator."""
    return [event.name for event in world.cores["a"].take_events()]


def test_scenario_30_a_gained_slot_is_cold_for_one_ttl_and_the_others_stay_warm() -> None:
    world = World("ab")
    world.warm()
    before, after = world.topology, topology_of("a", epoch=2)
    gained = owned(after, "a") - owned(before, "a")
    assert gained
    world.cores["a"].follow(after, world.now_ms)
    peer = world.connect()
    said = dict(zip(KEYS, peer.get(*KEYS), strict=True))
    assert {key for key, state in said.items() if state == UNKNOWN} == gained
    assert {key for key, state in said.items() if state == OFFLINE} == owned(before, "a")
    assert peer.vitals().warming_ms == TTL_MS + TICK_MS
    world.advance(TTL_MS)
    assert peer.is_online(min(gained)) == UNKNOWN
    world.advance(TICK_MS)
    assert set(peer.get(*KEYS)) == {OFFLINE}
    assert peer.vitals().warming_ms == 0
    assert names(world)[-2:] == ["node.topology", "node.warm"]


def test_scenario_30_a_lost_slot_takes_no_heartbeats_and_says_who_was_online_for_one_ttl() -> None:
    world = World("a")
    world.warm()
    peer = world.connect()
    peer.beat(*KEYS)
    after = topology_of("ab", epoch=2)
    lost = sorted(set(KEYS) - owned(after, "a"))
    world.cores["a"].follow(after, world.now_ms)
    assert peer.beat(*lost).moved == len(lost), "their next heartbeat goes to the new owner"
    assert set(peer.get(*lost)) == {ONLINE}
    world.advance(TTL_MS)
    assert set(peer.get(*lost)) == {ONLINE}
    world.advance(TICK_MS)
    assert set(peer.get(*lost)) == {MOVED}, "never offline: somebody else knows"


def test_a_slot_that_comes_back_is_cold_as_it_missed_what_was_said_meanwhile() -> None:
    world = World("a")
    world.warm()
    core, peer = world.cores["a"], world.connect()
    core.follow(topology_of("ab", epoch=2), world.now_ms)
    lost = sorted(set(KEYS) - owned(core.topology, "a"))
    world.advance(5_000)
    core.follow(topology_of("a", epoch=3), world.now_ms)
    assert set(peer.get(*lost)) == {UNKNOWN}
    world.advance(TTL_MS + TICK_MS)
    assert set(peer.get(*lost)) == {OFFLINE}


def test_changes_within_one_ttl_warm_each_slot_in_its_own_time() -> None:
    world = World("abc")
    world.warm()
    core, peer = world.cores["a"], world.connect()
    core.take_events()
    core.follow(topology_of("ab", epoch=2), world.now_ms)
    first = owned(core.topology, "a") - owned(world.topology, "a")
    world.advance(8_000)
    core.follow(topology_of("a", epoch=3), world.now_ms)
    second = set(KEYS) - owned(topology_of("ab"), "a")
    world.advance(TTL_MS + TICK_MS - 8_000)
    assert set(peer.get(*first)) == {OFFLINE}
    assert set(peer.get(*second)) == {UNKNOWN}
    assert peer.vitals().warming_ms == 8_000
    assert "node.warm" not in names(world)
    world.advance(8_000)
    assert set(peer.get(*second)) == {OFFLINE}
    assert "node.warm" in names(world)


def test_a_stall_during_a_change_makes_every_owned_slot_cold() -> None:
    world = World("ab")
    world.warm()
    core, peer = world.cores["a"], world.connect()
    core.follow(topology_of("a", epoch=2), world.now_ms)
    world.advance(TTL_MS)
    world.stand_still(TTL_MS)
    assert set(peer.get(*KEYS)) == {UNKNOWN}
    assert peer.vitals().warming_ms == TTL_MS + TICK_MS


def test_a_removed_node_answers_for_one_ttl_and_then_says_that_it_may_be_stopped() -> None:
    world = World("a")
    world.warm()
    core, peer = world.cores["a"], world.connect()
    peer.beat(1)
    core.take_events()
    core.follow(topology_of("bc", epoch=2), world.now_ms)
    vitals = peer.vitals()
    assert (vitals.removed, vitals.needed_ms, vitals.warming_ms) == (True, TTL_MS + TICK_MS, 0)
    assert peer.is_online(1) == ONLINE
    assert peer.is_online(2) == MOVED
    assert names(world) == ["node.topology", "node.removed"]
    world.advance(TTL_MS)
    assert (peer.vitals().needed_ms, names(world)) == (TICK_MS, [])
    world.advance(TICK_MS)
    assert (peer.vitals().needed_ms, names(world)) == (0, ["node.not_needed"])


def test_a_removed_node_that_comes_back_is_cold_everywhere() -> None:
    world = World("a")
    world.warm()
    core, peer = world.cores["a"], world.connect()
    core.follow(topology_of("b", epoch=2), world.now_ms)
    world.advance(1_000)
    core.follow(topology_of("a", epoch=3), world.now_ms)
    assert set(peer.get(*KEYS)) == {UNKNOWN}
    assert not peer.vitals().removed


def test_a_node_tells_new_clients_of_the_topology_before_for_as_long_as_it_matters() -> None:
    """Scenario 30: who comes after the change has not seen it, and needs the former owners all the same."""
    world = World("ab")
    core = world.cores["a"]
    peer = world.connect(greet=False)
    assert messages.decode_welcome(peer.ask(Op.HELLO, hello_body()).body).former_epoch == 0
    core.follow(topology_of("abc", epoch=2), world.now_ms)
    peer = world.connect(greet=False)
    assert messages.decode_welcome(peer.ask(Op.HELLO, hello_body()).body).former_epoch == 1

    def asked(epoch: int | None) -> Topology:
        body = messages.encode_topology_request(epoch)
        return Topology.from_wire(messages.decode_map(peer.ask(Op.TOPOLOGY, body).body))

    assert asked(1) == world.topology
    assert asked(None) == asked(2) == asked(99) == core.topology
    world.advance(TTL_MS + TICK_MS)
    assert asked(1) == core.topology
    peer = world.connect(greet=False)
    assert messages.decode_welcome(peer.ask(Op.HELLO, hello_body()).body).former_epoch == 0


def test_new_addresses_of_the_same_nodes_are_no_change_of_owners() -> None:
    world = World("a")
    world.warm()
    core, peer = world.cores["a"], world.connect()
    core.take_events()
    fields = world.topology.to_wire()
    fields["nodes"][0]["port"] = 7555
    moved = Topology.from_wire(fields)
    assert moved.hash == world.topology.hash
    core.follow(moved, world.now_ms)
    assert (peer.vitals().warming_ms, names(world)) == (0, [])
    told = messages.decode_map(peer.ask(Op.TOPOLOGY).body)
    assert Topology.from_wire(told).nodes[0].port == 7555


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"epoch": 4}, "epoch: 4 is older than 5, which this node follows: raise it"),
        ({"replicas": 1}, "epoch: 5 is taken by another topology: raise it with every change of nodes"),
        ({"epoch": 6, "ttl_ms": 10_000}, "ttl_ms: from 20000 to 10000 takes a restart of every node"),
        ({"epoch": 6, "ticks_per_ttl": 40}, "ticks_per_ttl: from 80 to 40 takes a restart of every node"),
        ({"epoch": 6, "cluster": "other"}, "cluster: from demo to other takes a restart of every node"),
        ({"epoch": 6, "hash_seed": 1}, "hash_seed: from 0 to 1 takes a restart of every node"),
    ],
)
def test_what_a_running_node_cannot_follow_is_refused_whole(change: dict[str, object], says: str) -> None:
    world = World("abc", replicas=2)
    core = world.cores["a"]
    core.follow(topology_of("abc", replicas=2, epoch=5), world.now_ms)
    before = (core.topology, core.ownership.groups, core.warming_ms(world.now_ms))
    core.take_events()
    wanted = Topology.from_wire({**core.topology.to_wire(), **change})
    with pytest.raises(Refused) as refused:
        core.follow(wanted, world.now_ms)
    assert str(refused.value) == says
    assert (core.topology, core.ownership.groups, core.warming_ms(world.now_ms)) == before
    assert names(world) == []


def test_the_same_topology_again_is_no_change() -> None:
    assert not check_change(topology_of("ab"), topology_of("ab"))
    assert check_change(topology_of("ab"), topology_of("ab", epoch=2))


def test_a_count_is_exact_again_one_ttl_after_a_change() -> None:
    """Nobody is counted twice or left out once every slot is warm; groups keep their users meanwhile."""
    world = World("abc", replicas=2)
    world.warm()
    after = topology_of("abcd", replicas=2, epoch=2)

    def beat(topology: Topology) -> None:
        for name in world.cores:
            mine = owned(topology, name)
            if mine:
                world.connect(name).beat(*mine)

    def count() -> int:
        return sum(world.connect(name).count() for name in world.cores)

    beat(world.topology)
    assert count() == len(KEYS)
    for core in world.cores.values():
        core.follow(after, world.now_ms)
    world.topology = after
    world.cores["d"] = world.boot("d")
    for _ in range(3):
        beat(after)
        world.advance(TTL_MS // 2)
        assert count() >= len(KEYS), "a lower bound at any moment once all have beaten"
    world.advance(TICK_MS)
    beat(after)
    assert count() == len(KEYS)
    assert all(world.connect(name).vitals().warming_ms == 0 for name in world.cores)


def test_group_numbers_are_not_given_away_while_users_are_counted_under_them() -> None:
    ownership = Ownership(topology_of("abcdef", replicas=2), "a", 0)
    known = dict(enumerate(ownership.group_owners))
    now_ms = 0
    for epoch in range(2, 12):
        now_ms += 1_000
        letters = "abcdef" if epoch % 2 else f"a{'ghijklmnop'[epoch % 10]}c"
        ownership.follow(topology_of(letters, replicas=2, epoch=epoch), now_ms)
        for number, owners in enumerate(ownership.group_owners):
            assert known.setdefault(number, owners) == owners
    assert len(set(ownership.groups)) <= len(known)
    ownership.follow(topology_of("ax", replicas=2, epoch=20), now_ms + TTL_MS)
    ownership.follow(topology_of("ax", replicas=2, epoch=21), now_ms + 3 * TTL_MS)
    assert {owners for owners in ownership.group_owners if owners} == {("a", "x"), ("x", "a")}


def test_ownership_covers_every_slot() -> None:
    ownership = Ownership(topology_of("ab", replicas=2), "a", 0)
    assert len(ownership.groups) == len(ownership.absent(0)) == SLOTS
