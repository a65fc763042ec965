"""The client's decisions about reads, pure: whom to ask, and what the answers add up to.

A read keeps one byte of evidence a key. Each answer, or the lack of one, sets bits in it; a translate table
turns the byte into a status and a reason when nobody is left to ask. Sockets, retries and time are elsewhere.
Invariant: online is believed from anyone; offline only when every owner that is reachable and warm says so,
and one does; everything else is unknown. A cold owner has no say: what it missed, a warm one has heard.
"""

from array import array
from enum import IntFlag
from functools import lru_cache

from pulsering import kernel
from pulsering.ids import SLOTS
from pulsering.status import Reason, Status
from pulsering.topology import NO_NODE, Topology

__all__ = ["REASONS", "STATUSES", "Evidence", "read_targets", "reasons_of", "retired_targets", "statuses_of"]


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
    """Return the owners at ``rank`` under the old topology that are none under the new one.

    For one ttl after an epoch change a read asks these too, as a user's last heartbeat may only be there.
    ``array('H')`` of 16384 indices into ``old.nodes``, 0xFFFF where nobody more needs asking. Nodes are the
    same if their names are. Not to be changed.
    """
    if old.hash_seed != new.hash_seed:
        raise ValueError("keys under another hash seed are other keys: old owners cannot be asked for them")
    index_in_new = {node.name: index for index, node in enumerate(new.nodes)}
    renumbered = [index_in_new.get(node.name, NO_NODE) for node in old.nodes]
    current = zip(*map(new.column, range(new.replicas)), strict=True)
    targets = array("H", [NO_NODE]) * SLOTS
    for slot, (index, owners) in enumerate(zip(old.column(rank), current, strict=True)):
        if renumbered[index] not in owners:
            targets[slot] = index
    return targets


@lru_cache(maxsize=64)
def _reordered(topology: Topology, unavailable: frozenset[int]) -> "array[int]":
    avoided = bytes(index in unavailable for index in range(len(topology.nodes)))
    return kernel.reorder_owners(topology.owners, topology.replicas, avoided)
