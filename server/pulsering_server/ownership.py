"""Which slots a node owns, since when it can speak for each, and what it owes to those it has lost.

A node knows a slot's users once it has heard heartbeats for one ttl and one tick: until then it is *cold*
there, and says *unknown* of a user it does not hold. All slots are cold after a start or a stall, and those
that a new topology gives it from that moment on; the others go on as they are. A slot that a new topology
takes away is *moved*: writes are refused, so that they go to the new owners, but whoever is still held reads
*online* until the ttl has passed. Nothing is copied between nodes, so nothing can be copied wrongly.

Counting groups keep their number from one topology to the next, as the users in the table are counted under
it. Pure: time is told in ms. Invariant: no slot is ever called warm sooner than one ttl and one tick after
its first heartbeat could have been missed.
"""

from array import array
from typing import TYPE_CHECKING, Final

from pulsering.ids import SLOTS
from pulsering_server.table import MOVED, NOT_OWNED, OFFLINE, UNKNOWN

if TYPE_CHECKING:
    from pulsering.topology import Topology

__all__ = ["Ownership", "Refused", "check_change"]

_COLD: Final = bytes(UNKNOWN if state == OFFLINE else state for state in range(256))


class Refused(ValueError):
    """A topology that a running node cannot follow; the message says what to do instead."""


def check_change(old: "Topology", new: "Topology") -> bool:
    """Whether ``new`` gives slots other owners or says something else; ``Refused`` if it cannot be followed.

    What the table and the keys in it are made of stays for the life of a process, and two topologies never
    share an epoch: clients tell them apart by it.
    """
    for what in ("cluster", "hash_seed", "ttl_ms", "ticks_per_ttl"):
        before, after = getattr(old, what), getattr(new, what)
        if before != after:
            raise Refused(f"{what}: from {before} to {after} takes a restart of every node")
    if new.epoch < old.epoch:
        raise Refused(f"epoch: {new.epoch} is older than {old.epoch}, which this node follows: raise it")
    if new.epoch == old.epoch and new.hash != old.hash:
        raise Refused(f"epoch: {new.epoch} is taken by another topology: raise it with every change of nodes")
    return new != old


class Ownership:
    """The slots of the node ``name`` under a topology; all cold at ``now_ms``."""

    def __init__(self, topology: "Topology", name: str, now_ms: int) -> None:
        self.topology = topology
        self.name = name
        self.former: Topology | None = None
        """The topology before, for as long as users may be held under it."""
        self._former_until_ms = 0
        self._linger_ms = topology.ttl_ms - (-topology.ttl_ms // topology.ticks_per_ttl)
        self._numbers: dict[tuple[str, ...], int] = {}
        self._idle_since_ms: dict[tuple[str, ...], int] = {}
        self.group_owners: list[tuple[str, ...]] = []
        """By counting group, its owners in order; empty where a number is free."""
        self.groups = self._numbered(topology, now_ms)
        self._warm_at_ms = array("q", [0]) * SLOTS
        self._next_ms = self._last_ms = 0
        self._uniform = True
        self._note_owned()
        self.turn_cold(now_ms)

    def turn_cold(self, now_ms: int) -> None:
        """Heartbeats may have been missed until now, of any slot."""
        self._warm_at_ms = array("q", [now_ms + self._linger_ms]) * SLOTS
        self._uniform = True
        self._next_ms = self._last_ms = now_ms + self._linger_ms if self.slots else 0

    def turn_warm(self, now_ms: int) -> bool:
        """Whether some slot's time has come since the last call, so that ``absent`` says something else."""
        if not self._next_ms or now_ms < self._next_ms:
            return False
        if self._uniform:
            self._next_ms = self._last_ms = 0
        else:
            self._note_times(now_ms)
        return True

    def follow(self, topology: "Topology", now_ms: int) -> tuple[int, int]:
        """Own what a newer topology says; how many slots were gained and lost. ``Refused`` changes nothing.

        Users of slots that are kept while their other owners change stay counted under those until their next
        heartbeat; those of slots that are lost too, until their deadline.
        """
        check_change(self.topology, topology)
        groups = self._numbered(topology, now_ms)
        gained = lost = 0
        for slot, (before, after) in enumerate(zip(self.groups, groups, strict=True)):
            if before == NOT_OWNED and after != NOT_OWNED:
                self._warm_at_ms[slot] = now_ms + self._linger_ms
                gained += 1
            elif before != NOT_OWNED and after == NOT_OWNED:
                lost += 1
        if topology.epoch > self.topology.epoch:
            self.former = self.topology
            self._former_until_ms = now_ms + self._linger_ms
        self.topology, self.groups = topology, groups
        self._uniform = False
        self._note_owned()
        self._note_times(now_ms)
        return gained, lost

    def absent(self, now_ms: int) -> bytes:
        """What a read says of a user who is not held, a state a slot."""
        if now_ms >= self._last_ms:
            return self._moved
        if self._uniform:
            return self._moved.translate(_COLD)
        return bytes(
            state if state == MOVED or now_ms >= warm_at_ms else UNKNOWN
            for state, warm_at_ms in zip(self._moved, self._warm_at_ms, strict=True)
        )

    def warming_ms(self, now_ms: int) -> int:
        """How long some slot may still be cold; 0 when all are warm."""
        return max(1, self._last_ms - now_ms) if self._last_ms else 0

    def needed_ms(self, now_ms: int) -> int:
        """How long somebody may still ask for users held under the former topology; 0 when nobody does."""
        if self.former is not None and now_ms >= self._former_until_ms:
            self.former = None
        return self._former_until_ms - now_ms if self.former is not None else 0

    def _note_owned(self) -> None:
        """What is only known of the topology: the slots of others, and whether all are."""
        self.slots = SLOTS - self.groups.count(NOT_OWNED)
        """How many it owns, at any rank."""
        self._moved = bytes(MOVED if group == NOT_OWNED else OFFLINE for group in self.groups)
        self.removed = all(node.name != self.name for node in self.topology.nodes)
        """Whether the topology has no such node (any more)."""

    def _note_times(self, now_ms: int) -> None:
        """The next slot's time and the last one's; 0 when all are warm."""
        times = {
            warm_at_ms
            for group, warm_at_ms in zip(self.groups, self._warm_at_ms, strict=True)
            if group != NOT_OWNED and warm_at_ms > now_ms
        }
        self._next_ms = min(times, default=0)
        self._last_ms = max(times, default=0)

    def _numbered(self, topology: "Topology", now_ms: int) -> "array[int]":
        """The counting group of each slot; a number is free again once no user can be counted under it."""
        numbers, idle = self._numbers, self._idle_since_ms
        local: array[int] = array("H", [NOT_OWNED]) * SLOTS
        owners: list[tuple[str, ...]] = []
        if any(node.name == self.name for node in topology.nodes):
            local, owners = topology.groups_of(self.name)
        for names in numbers.keys() - set(owners):
            if now_ms - idle.setdefault(names, now_ms) > self._linger_ms:
                del numbers[names], idle[names]
        taken = set(numbers.values())
        free = (number for number in range(NOT_OWNED) if number not in taken)
        for names in owners:
            idle.pop(names, None)
            if names not in numbers:
                numbers[names] = next(free)
        self.group_owners = [()] * (max(numbers.values(), default=-1) + 1)
        for names, number in numbers.items():
            self.group_owners[number] = names
        number_of = [numbers[names] for names in owners]
        if number_of == list(range(len(owners))):
            return local
        return array("H", (group if group == NOT_OWNED else number_of[group] for group in local))
