"""What a new topology moves, told before anything happens, and the order in which nodes should learn of it.

A slot *changes hands* when its set of owners is another one; its users move with their next heartbeat, within
one ttl, and nothing is copied. A node *joins*, *stays* or *leaves*. Those that join learn of the new topology
first, as everybody else sends users there; those that leave learn of it last, as until then they take
heartbeats of writers that have not heard of it. Pure. Invariant: the slots gained and lost over all nodes
differ by exactly what the number of replicas changed.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from pulsering.ids import SLOTS
from pulsering.topology import Node, Topology, moved
from pulsering_server.ownership import Refused, check_change

__all__ = ["NodeChange", "Part", "Plan", "in_order", "plan_of"]


class Part(StrEnum):
    """What becomes of a node."""

    JOINS = "joins"
    STAYS = "stays"
    LEAVES = "leaves"


class NodeChange(NamedTuple):
    """One node, before and after. Slots are counted in any rank; users likewise, None where nobody said."""

    node: Node
    part: Part
    slots_before: int
    slots_after: int
    slots_gained: int
    slots_lost: int
    users_before: int | None = None
    users_lost: int | None = None
    """About how many of them move away: by the share of its slots that it loses."""


class Plan(NamedTuple):
    """The whole change."""

    old: Topology
    new: Topology
    share_moved: float
    """Of all slots, 0..1."""
    nodes: tuple[NodeChange, ...]
    refusal: str
    """Why running nodes will not follow it; empty if they will."""

    def users_moved(self, online: int) -> int:
        """About how many of the users online change owners."""
        return round(online * self.share_moved)


def plan_of(old: Topology, new: Topology, users: Mapping[str, int] | None = None) -> Plan:
    """Compare two topologies; ``users`` are those that each node holds now, by its name."""
    refusal = ""
    try:
        check_change(old, new)
    except Refused as error:
        refusal = str(error)
    before, after = _slots_of(old), _slots_of(new)
    nodes = {node.name: node for node in (*old.nodes, *new.nodes)}
    changes = []
    for name, node in sorted(nodes.items()):
        had, has = before.get(name, set()), after.get(name, set())
        part = Part.JOINS if name not in before else Part.LEAVES if name not in after else Part.STAYS
        held = None if users is None else users.get(name)
        lost = None if held is None else round(held * len(had - has) / len(had)) if had else 0
        changes.append(NodeChange(node, part, len(had), len(has), len(has - had), len(had - has), held, lost))
    return Plan(old, new, moved(old, new), tuple(changes), refusal)


def in_order(plan: Plan) -> tuple[NodeChange, ...]:
    """The nodes in the order in which they should load the new topology."""
    order = list(Part)
    return tuple(sorted(plan.nodes, key=lambda change: (order.index(change.part), change.node.name)))


def _slots_of(topology: Topology) -> dict[str, set[int]]:
    """The slots of each node, in any rank."""
    slots: dict[str, set[int]] = {node.name: set() for node in topology.nodes}
    names = [node.name for node in topology.nodes]
    for rank in range(topology.replicas):
        for slot, index in enumerate(topology.column(rank)):
            slots[names[index]].add(slot)
    assert sum(map(len, slots.values())) == SLOTS * topology.replicas
    return slots
