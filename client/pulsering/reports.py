"""What the client's methods return besides a ``Snapshot``: small values, each a plain fact.

Invariant: nothing here holds a connection or changes after it was returned.
"""

from typing import NamedTuple

from pulsering.ids import UserId
from pulsering.status import Cause, Reason, Status
from pulsering.topology import Node

__all__ = ["Change", "Count", "HeartbeatReport", "Location", "NodeStatus"]


class HeartbeatReport(NamedTuple):
    """What became of a batch of heartbeats or leaves. Keys are counted as they came, duplicates included.

    ``accepted`` of ``total`` are acknowledged: at least one owner has them. A frame that a node took only in
    part counts as not taken, since its reply does not say which part. ``stale``, ``refused`` and ``moved``
    add up what nodes said, over all owners.
    """

    total: int
    accepted: int
    reduced: int
    """Acknowledged, but by fewer than all owners of their slot (within the time the call could wait)."""
    stale: int
    """Said longer than a ttl before they arrived."""
    refused: int
    """New users beyond a node's limit."""
    moved: int
    """Sent to a node that no longer owns them, and not taken elsewhere either."""

    @property
    def unacknowledged(self) -> int:
        """Keys that no owner is known to have."""
        return self.total - self.accepted

    @property
    def degraded(self) -> float:
        """The share, 0..1, of acknowledged keys that fewer than all replicas have."""
        return self.reduced / self.accepted if self.accepted else 0.0


class Change(NamedTuple):
    """A user's status is another one now, or it is the first that a watch tells of the user."""

    id: UserId
    """As the caller gave it."""
    status: Status
    reason: Reason
    """Why it is ``UNKNOWN``; ``NONE`` beside the two definite answers."""
    cause: Cause
    """What has happened; ``NONE`` for a first state, and where it is only known that it is so."""
    version: int
    """Counts the states that the user had on this watch, from 1. One that jumps: the watch read too slowly
    for those between."""


class Count(NamedTuple):
    """Users online in the whole cluster, each once, whatever the replicas."""

    online: int
    exact: bool
    """Whether every slot was counted by a warm owner; else ``online`` is a lower bound, except that for one
    ttl after a change of topology users of slots that changed hands may count twice."""
    missing: tuple[str, ...]
    """Nodes that did not answer."""
    warming: tuple[str, ...]
    """Nodes that answered but may not know all of their users yet."""


class NodeStatus(NamedTuple):
    """One node as this client sees it; what only the node can tell is None while it is down."""

    name: str
    address: str
    up: bool
    circuit: str
    error: str
    """Why it is down; empty while it is up."""
    epoch: int | None = None
    users: int | None = None
    uptime: float | None = None
    """Seconds."""
    warming: float | None = None
    """Seconds until it knows all of its users; 0 when warm."""
    draining: bool | None = None
    agent: str | None = None
    removed: bool | None = None
    """Whether its own topology does not name it."""
    needed: float | None = None
    """Seconds for which clients may still ask it for users held under the topology before."""


class Location(NamedTuple):
    """Where a user lives."""

    key: int
    slot: int
    owners: tuple[Node, ...]
