"""What a plan says before anything happens: it must be what then does happen."""

import pytest
from support.node_driver import topology_of

from pulsering.ids import SLOTS
from pulsering.topology import Topology, moved
from pulsering_server.reshard import Part, in_order, plan_of

CHANGES = [
    pytest.param(topology_of("abc", replicas=2), topology_of("abcd", replicas=2, epoch=2), id="one joins"),
    pytest.param(topology_of("abcd", replicas=2), topology_of("abc", replicas=2, epoch=2), id="one leaves"),
    pytest.param(topology_of("abc"), topology_of("abc", replicas=2, epoch=2), id="one replica more"),
    pytest.param(topology_of("abc", replicas=3), topology_of("xyz", replicas=3, epoch=2), id="all others"),
    pytest.param(topology_of("abc"), topology_of("abc", epoch=2), id="nothing"),
]


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_a_plan_is_what_the_owner_tables_say(old: Topology, new: Topology) -> None:
    plan = plan_of(old, new)
    assert plan.refusal == ""
    changed = sum(
        {node.name for node in old.owners_of(slot)} != {node.name for node in new.owners_of(slot)}
        for slot in range(SLOTS)
    )
    assert plan.share_moved == changed / SLOTS == moved(old, new)
    for change in plan.nodes:
        before = {s for s in range(SLOTS) if change.node.name in {node.name for node in old.owners_of(s)}}
        after = {s for s in range(SLOTS) if change.node.name in {node.name for node in new.owners_of(s)}}
        assert (change.slots_before, change.slots_after) == (len(before), len(after))
        assert (change.slots_gained, change.slots_lost) == (len(after - before), len(before - after))


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_gains_and_losses_balance(old: Topology, new: Topology) -> None:
    plan = plan_of(old, new)
    gained = sum(change.slots_gained for change in plan.nodes)
    lost = sum(change.slots_lost for change in plan.nodes)
    assert gained - lost == (new.replicas - old.replicas) * SLOTS


def test_a_plan_tells_who_joins_stays_and_leaves_and_in_which_order() -> None:
    """Those that join first, as users are sent there; those that leave last, as they take heartbeats."""
    plan = plan_of(topology_of("bde", replicas=2), topology_of("acd", replicas=2, epoch=2))
    assert [(change.node.name, change.part) for change in plan.nodes] == [
        ("a", Part.JOINS),
        ("b", Part.LEAVES),
        ("c", Part.JOINS),
        ("d", Part.STAYS),
        ("e", Part.LEAVES),
    ]
    assert [change.node.name for change in in_order(plan)] == ["a", "c", "d", "b", "e"]


def test_users_move_by_the_share_of_slots() -> None:
    plan = plan_of(topology_of("ab"), topology_of("a", epoch=2), {"b": 10_000})
    a, b = plan.nodes
    assert (a.users_before, a.users_lost) == (None, None), "nobody said"
    assert (b.users_before, b.users_lost) == (10_000, 10_000)
    assert plan.users_moved(20_000) == round(20_000 * b.slots_before / SLOTS)


def test_a_plan_that_running_nodes_refuse_says_why() -> None:
    old = topology_of("abc", epoch=9)
    older = plan_of(old, topology_of("ab"))
    assert older.refusal == "epoch: 1 is older than 9, which this node follows: raise it"
    same = plan_of(old, topology_of("ab", epoch=9))
    assert same.refusal == "epoch: 9 is taken by another topology: raise it with every change of nodes"
