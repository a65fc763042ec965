"""Topologies of the past, for as long as somebody may still have acted on them.

A topology does not change everywhere at once. Until the last node has left an old one, writers that have not
heard of the new one are served under it, and what they said lives there for one ttl. So an old topology is
*retired* from the moment a newer one is adopted until one ttl after the last word from a node that follows
it, and reads ask its owners too. An epoch that a node was heard to follow but whose contents are not known
yet makes the cluster *unsettled*: then nobody may be called offline.

Pure: time is an argument, in seconds. Invariant: at most ``RETIRED_MAX`` topologies are kept, whatever nodes
say; with more of them about, the cluster is unsettled.
"""

from typing import Final

from pulsering.topology import Topology

__all__ = ["RETIRED_MAX", "Retired"]

RETIRED_MAX: Final = 4
"""Epochs within one ttl that reads still follow; each costs a round of questions about what it moved."""


class Retired:
    """The old topologies of one client, by epoch."""

    def __init__(self) -> None:
        self._topologies: dict[int, Topology | None] = {}
        self._until: dict[int, float] = {}
        self._crowded_until = 0.0

    def retire(self, old: Topology, now: float, linger_s: float) -> None:
        """A newer topology was adopted; ``linger_s`` is one ttl and one tick."""
        self.heard(old.epoch, now, linger_s)
        self.learn(old)

    def heard(self, epoch: int, now: float, linger_s: float) -> bool:
        """A node was heard to follow an old epoch; whether its topology should be asked for."""
        self._forget(now)
        if epoch not in self._until and len(self._until) >= RETIRED_MAX:
            self._crowded_until = now + linger_s
            return False
        self._until[epoch] = max(now + linger_s, self._until.get(epoch, 0.0))
        return epoch not in self._topologies

    def learn(self, old: Topology) -> None:
        """What an epoch is that was heard of; any other is of no interest."""
        if old.epoch in self._until:
            self._topologies[old.epoch] = old

    def dismiss(self, epoch: int) -> None:
        """An epoch is known, and its owners cannot be asked: keys under another hash seed are other keys."""
        if epoch in self._until:
            self._topologies[epoch] = None

    def active(self, now: float) -> tuple[Topology, ...]:
        """The old topologies whose owners a read asks too, the newest first."""
        if not self._until:
            return ()
        self._forget(now)
        epochs = sorted(self._topologies, reverse=True)
        return tuple(old for epoch in epochs if (old := self._topologies[epoch]) is not None)

    def unsettled(self, now: float) -> bool:
        """Whether some node follows a topology that is not known."""
        if not self._until:
            return False
        self._forget(now)
        return now < self._crowded_until or len(self._topologies) < len(self._until)

    def ends_at(self, now: float) -> float:
        """When all of them are over, if nobody is heard of them any more; ``now`` if they are."""
        return max((now, self._crowded_until, *self._until.values()))

    def _forget(self, now: float) -> None:
        for epoch in [epoch for epoch, until in self._until.items() if until <= now]:
            del self._until[epoch]
            self._topologies.pop(epoch, None)
