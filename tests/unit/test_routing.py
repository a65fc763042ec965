"""Whom a read asks, and what the answers add up to: online from anyone, offline only without a doubt."""

import itertools

import pytest

from pulsering.ids import SLOTS
from pulsering.routing import (
    REASONS,
    STATUSES,
    Evidence,
    kept_and_gained,
    read_targets,
    reasons_of,
    retired_targets,
    statuses_of,
)
from pulsering.status import Reason, Status
from pulsering.topology import NO_NODE, Node, Topology


def cluster(names: str, replicas: int = 2, epoch: int = 1, hash_seed: int = 7) -> Topology:
    nodes = tuple(Node(name, f"host-{name}", 7400) for name in names)
    return Topology("test", epoch, 20_000, 80, replicas, hash_seed, nodes)


def verdict(*bits: Evidence) -> tuple[Status, Reason]:
    evidence = bytes([sum(bits)])
    return Status(statuses_of(evidence)[0]), Reason(reasons_of(evidence)[0])


OTHERS = [bit for bit in Evidence if bit is not Evidence.ONLINE]


def test_online_is_believed_from_anyone() -> None:
    for count in range(len(OTHERS) + 1):
        for others in itertools.combinations(OTHERS, count):
            assert verdict(Evidence.ONLINE, *others) == (Status.ONLINE, Reason.NONE)


def test_offline_needs_a_warm_owner_and_no_doubt_from_a_reachable_one() -> None:
    offline = [bits for bits in range(256) if STATUSES[bits] == Status.OFFLINE]
    known = sum(Evidence)
    ignored = Evidence.UNREACHABLE | Evidence.COLD
    assert {bits & known & ~ignored for bits in offline} == {Evidence.OFFLINE}
    assert len({bits & known for bits in offline}) == 4


@pytest.mark.parametrize(
    ("bits", "reason"),
    [
        ((), Reason.UNREACHABLE),
        ((Evidence.UNREACHABLE,), Reason.UNREACHABLE),
        ((Evidence.COLD,), Reason.COLD),
        ((Evidence.COLD, Evidence.UNREACHABLE), Reason.COLD),
        ((Evidence.MOVED, Evidence.OFFLINE), Reason.MOVED),
        ((Evidence.OVERLOADED, Evidence.OFFLINE), Reason.OVERLOADED),
        ((Evidence.OVERLOADED, Evidence.UNREACHABLE), Reason.OVERLOADED),
        ((Evidence.SILENT, Evidence.OFFLINE), Reason.UNREACHABLE),
        ((Evidence.COLD, Evidence.MOVED, Evidence.OVERLOADED), Reason.MOVED),
    ],
)
def test_what_cannot_be_known_is_unknown_with_a_reason(bits: tuple[Evidence, ...], reason: Reason) -> None:
    assert verdict(*bits) == (Status.UNKNOWN, reason)


def test_a_reason_goes_with_unknown_and_only_with_it() -> None:
    assert len(STATUSES) == len(REASONS) == 256
    for status, reason in zip(STATUSES, REASONS, strict=True):
        assert (status == Status.UNKNOWN) == (reason != Reason.NONE)


def test_a_read_asks_the_owners_in_order() -> None:
    topology = cluster("abcd", replicas=3)
    for rank in range(3):
        assert read_targets(topology, rank) == topology.column(rank)


def test_a_read_asks_unavailable_owners_last_but_asks_them() -> None:
    topology = cluster("abcd", replicas=3)
    for unavailable in (frozenset({1}), frozenset({0, 2}), frozenset(range(4))):
        rounds = [read_targets(topology, rank, unavailable) for rank in range(3)]
        for slot in range(SLOTS):
            owners = [topology.index_of(node.name) for node in topology.owners_of(slot)]
            expected = [index for index in owners if index not in unavailable]
            expected += [index for index in owners if index in unavailable]
            assert [targets[slot] for targets in rounds] == expected


def test_targets_are_computed_once() -> None:
    topology = cluster("abc")
    assert read_targets(topology, 0, frozenset({1})) is read_targets(topology, 0, frozenset({1}))


def test_after_an_epoch_change_the_owners_of_old_are_asked_about_what_changed_hands() -> None:
    """Those who are still owners too: of the old question each of them is one."""
    old, new = cluster("abd"), cluster("bcd", epoch=2)
    rounds = [retired_targets(old, new, rank) for rank in range(2)]
    asked = set()
    for slot in range(SLOTS):
        owners = {node.name for node in new.owners_of(slot)}
        changed = owners != {node.name for node in old.owners_of(slot)}
        for rank, node in enumerate(old.owners_of(slot)):
            index = rounds[rank][slot]
            if changed:
                assert old.nodes[index] is node
                asked.add(node.name)
            else:
                assert index == NO_NODE
    assert asked == {"a", "b", "d"}


def test_a_slot_that_only_gained_an_owner_has_changed_hands_too() -> None:
    """Who follows the old topology still tells its one owner alone."""
    old, new = cluster("abc", replicas=1), cluster("abc", replicas=2, epoch=2)
    assert NO_NODE not in set(retired_targets(old, new, 0))


def test_owners_that_gained_a_slot_are_told_apart_from_those_that_kept_it() -> None:
    """Under every old topology that somebody may follow: a node that follows one refuses what it gained."""
    new, retired = cluster("bcde", epoch=3), (cluster("bcd", epoch=2), cluster("abcd"))
    kept, gained = kept_and_gained(new, retired)
    both = set()
    for slot in range(SLOTS):
        for rank, node in enumerate(new.owners_of(slot)):
            always = all(node.name in {each.name for each in old.owners_of(slot)} for old in retired)
            mine, other = (kept, gained) if always else (gained, kept)
            assert new.nodes[mine[2 * slot + rank]] is node
            assert other[2 * slot + rank] == NO_NODE
            both.add(always)
    assert both == {True, False}


def test_nobody_more_is_asked_when_nothing_moved() -> None:
    assert set(retired_targets(cluster("abc"), cluster("abc", epoch=2), 0)) == {NO_NODE}


def test_old_owners_cannot_be_asked_for_keys_of_another_seed() -> None:
    with pytest.raises(ValueError, match="hash seed"):
        retired_targets(cluster("abc"), cluster("abc", epoch=2, hash_seed=8), 0)
