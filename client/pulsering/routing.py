"""The client's decisions about reads, pure: whom to ask, and what the answers add up to.

A read keeps one byte of evidence a key. Each answer, or the lack of one, sets bits in it; a translate table
turns the byte into a status and a reason when nobody is left to ask. Sockets, retries and time are elsewhere.
Invariant: online is believed from anyone; offline only when every owner that is reachable and warm says so,
and one does; everything else is unknown. A cold owner has no say: what it missed, a warm one has heard.

After a change of topology the same is asked of a slot's former owners, as a question of its own with its own
evidence: somebody may have told only them. Then offline needs both answers.
"""

from array import array
from enum import IntFlag
from functools import lru_cache

from pulsering import kernel
from pulsering.status import Reason, Status
from pulsering.topology import NO_NODE, Topology

__all__ = [
    "DISOWNED_IS_ABSENT",
    "DISOWNED_IS_COLD",
    "ONLINE_ONLY",
    "REASONS",
    "STATUSES",
    "STRICT",
    "UNSETTLED",
    "Evidence",
    "both",
    "gone_owners",
    "kept_and_gained",
    "read_targets",
    "reasons_of",
    "retired_targets",
    "statuses_of",
]


class Evidence(IntFlag):
    """What is known about one key. The low four bits are ``1 << state`` of a node's 2-bit answer."""

    OFFLINE = 1
    ONLINE = 2
    COLD = 4
    MOVED = 8
    UNREACHABLE = 16
    OVERLOADED = 32
    SILENT = 128
    """Asked on a working connection, and no answer in time: it may know better than those who answered."""


def _verdict(evidence: int) -> tuple[Status, Reason]:
    if evidence & Evidence.ONLINE:
        return Status.ONLINE, Reason.NONE
    if evidence & Evidence.MOVED:
        return Status.UNKNOWN, Reason.MOVED
    if evidence & Evidence.OVERLOADED:
        return Status.UNKNOWN, Reason.OVERLOADED
    if evidence & Evidence.SILENT:
        return Status.UNKNOWN, Reason.UNREACHABLE
    if evidence & Evidence.OFFLINE:
        return Status.OFFLINE, Reason.NONE
    if evidence & Evidence.COLD:
        return Status.UNKNOWN, Reason.COLD
    return Status.UNKNOWN, Reason.UNREACHABLE


STATUSES = bytes(_verdict(evidence)[0] for evidence in range(256))
"""Evidence byte to ``Status``, for ``bytes.translate``."""
REASONS = bytes(_verdict(evidence)[1] for evidence in range(256))
"""Evidence byte to ``Reason``, for ``bytes.translate``."""


STRICT = bytes(
    bits & 0xFE if bits & int(Evidence.UNREACHABLE | Evidence.COLD) else bits for bits in range(256)
)
"""Evidence byte to the evidence of a reader to whom offline is only what every single owner says."""
UNSETTLED = bytes(
    bits | int(Evidence.MOVED) if _verdict(bits)[0] is Status.OFFLINE else bits for bits in range(256)
)
"""Evidence byte to that of a reader who does not know all who may have been told."""
ONLINE_ONLY = bytes(bits & int(Evidence.ONLINE) for bits in range(256))
"""Evidence byte to the one bit that counts whatever else was asked."""


def _with_disowned_as(state: int) -> bytes:
    """For four packed states of 2 bits: 3, which is moved, becomes ``state``."""
    return bytes(
        sum((state if byte >> shift & 3 == 3 else byte >> shift & 3) << shift for shift in (0, 2, 4, 6))
        for byte in range(256)
    )


DISOWNED_IS_ABSENT = _with_disowned_as(0)
"""Packed states of a former owner: that it owns the slot no more, it only says of users it does not hold."""
DISOWNED_IS_COLD = _with_disowned_as(2)
"""Packed states of a node with an older topology: it cannot know of slots that it is about to gain."""

_BEFORE = {
    (Status.ONLINE, Reason.NONE): Evidence.ONLINE,
    (Status.OFFLINE, Reason.NONE): Evidence.OFFLINE,
    (Status.UNKNOWN, Reason.OVERLOADED): Evidence.OVERLOADED,
    (Status.UNKNOWN, Reason.UNREACHABLE): Evidence.SILENT,
    (Status.UNKNOWN, Reason.COLD): Evidence.COLD,
    (Status.UNKNOWN, Reason.MOVED): Evidence.MOVED,
}
"""What stands for a verdict when two are put together."""
_NIBBLE = {bit: index for index, bit in enumerate(_BEFORE.values())}
_NOW_NIBBLE = bytes(_NIBBLE[_BEFORE[_verdict(bits)]] for bits in range(256))
_THEN_NIBBLE = bytes(
    (_NIBBLE[_BEFORE[_verdict(bits)]] if bits & 64 else _NIBBLE[Evidence.OFFLINE]) << 4 for bits in range(256)
)


def _together(pair: int) -> int:
    bits = list(_NIBBLE)
    now, then = bits[(pair & 15) % len(bits)], bits[(pair >> 4) % len(bits)]
    if Evidence.ONLINE in (now, then):
        return int(Evidence.ONLINE)
    return int(then if now is Evidence.OFFLINE else now)


_TOGETHER = bytes(_together(pair) for pair in range(256))


def both(now: bytes | bytearray, then: bytes | bytearray) -> bytes:
    """Return the evidence of present and former owners, a byte a key each, in one: offline if both say so.

    Where bit 64 of ``then`` is not set, former owners were not asked, and ``now`` decides.
    """
    pairs = int.from_bytes(now.translate(_NOW_NIBBLE), "little") | int.from_bytes(
        then.translate(_THEN_NIBBLE), "little"
    )
    return pairs.to_bytes(len(now), "little").translate(_TOGETHER)


def statuses_of(evidence: bytes | bytearray) -> bytes:
    """Return the ``Status`` of each key, a byte each, once all owners that can be asked were asked."""
    return bytes(evidence.translate(STATUSES))


def reasons_of(evidence: bytes | bytearray) -> bytes:
    """Return the ``Reason`` of each key, a byte each."""
    return bytes(evidence.translate(REASONS))


@lru_cache(maxsize=64)
def read_targets(topology: Topology, rank: int, unavailable: frozenset[int] = frozenset()) -> "array[int]":
    """Return the node each slot is asked at in round ``rank`` (0..replicas-1) of a read.

    ``unavailable`` are indices of nodes that are known not to answer: their turn comes after a slot's other
    owners, but it comes, so over all rounds each owner is named exactly once. ``array('H')`` of 16384 indices
    into ``topology.nodes``, shared with other callers: not to be changed.
    """
    if not unavailable:
        return topology.column(rank)
    return _reordered(topology, unavailable)[rank :: topology.replicas]


@lru_cache(maxsize=64)
def retired_targets(old: Topology, new: Topology, rank: int) -> "array[int]":
    """Return the owners at ``rank`` under an old topology, of slots whose set of owners changed since.

    For one ttl after the last node has left the old topology a read asks these too, as a user's last
    heartbeat may only be there. ``array('H')`` of 16384 indices into ``old.nodes``, 0xFFFF where nobody more
    needs asking. Nodes are the same if their names are. Not to be changed.
    """
    if old.hash_seed != new.hash_seed:
        raise ValueError("keys under another hash seed are other keys: old owners cannot be asked for them")
    changed = _changed(old, new)
    column = zip(old.column(rank), changed, strict=True)
    return array("H", (index if moved else NO_NODE for index, moved in column))


@lru_cache(maxsize=16)
def kept_and_gained(topology: Topology, retired: tuple[Topology, ...]) -> "tuple[array[int], array[int]]":
    """Return the owner table in two: who owned its slot under all of the old topologies, and who did not.

    A node that still follows one of those refuses what it has only gained, and its reply cannot say which of
    the keys in a frame that was; so these travel in frames of their own. 0xFFFF where the owner is in the
    other table. Not to be changed.
    """
    owners, replicas = topology.owners, topology.replicas
    kept, gained = array("H", owners), array("H", [NO_NODE]) * len(owners)
    for old in retired:
        before = _owners_in(old, topology)
        for slot, changed in enumerate(_changed(old, topology)):
            if changed:
                for place in range(slot * replicas, slot * replicas + replicas):
                    if owners[place] not in before[slot]:
                        kept[place], gained[place] = NO_NODE, owners[place]
    return kept, gained


@lru_cache(maxsize=16)
def gone_owners(old: Topology, new: Topology) -> "array[int]":
    """Return the owner table of an old topology without those who own their slot still.

    ``array('H')``, ``old.replicas`` a slot, of indices into ``old.nodes``; 0xFFFF where nobody more needs
    asking. Not to be changed.
    """
    after = list(zip(*map(new.column, range(new.replicas)), strict=True))
    renumbered = _owners_in(old, new)
    gone = array("H", old.owners)
    for slot, owners in enumerate(renumbered):
        for rank, owner in enumerate(owners):
            if owner in after[slot]:
                gone[slot * old.replicas + rank] = NO_NODE
    return gone


@lru_cache(maxsize=16)
def _changed(old: Topology, new: Topology) -> bytes:
    """Return 1 for each slot whose set of owners is another one."""
    after = zip(*map(new.column, range(new.replicas)), strict=True)
    return bytes(set(then) != set(now) for then, now in zip(_owners_in(old, new), after, strict=True))


def _owners_in(old: Topology, new: Topology) -> list[tuple[int, ...]]:
    """Return the owners of each slot under an old topology by their indices in the new one."""
    index_in_new = {node.name: index for index, node in enumerate(new.nodes)}
    renumbered = [index_in_new.get(node.name, NO_NODE) for node in old.nodes]
    columns = [[renumbered[index] for index in old.column(rank)] for rank in range(old.replicas)]
    return list(zip(*columns, strict=True))


@lru_cache(maxsize=64)
def _reordered(topology: Topology, unavailable: frozenset[int]) -> "array[int]":
    avoided = bytes(index in unavailable for index in range(len(topology.nodes)))
    return kernel.reorder_owners(topology.owners, topology.replicas, avoided)
