"""What a read may say about a user, why it may not know, and why what it says has changed.

These enums are the whole vocabulary of an answer. Their numbers are stored a byte a key in snapshots and
travel on the wire and in JSON output, so a number, once given, keeps its meaning. ``Status`` has three
values, not two: what cannot be known is never dressed up as offline.
"""

from enum import IntEnum

__all__ = ["Cause", "Reason", "Status"]


class Status(IntEnum):
    """The answer for one user. Not a truth value: ``UNKNOWN`` is neither, so compare with ``is``."""

    OFFLINE = 0
    ONLINE = 1
    UNKNOWN = 2


class Reason(IntEnum):
    """Why a status is ``UNKNOWN``; ``NONE`` beside the two definite answers."""

    NONE = 0
    UNREACHABLE = 1
    """No owner of the user's slot answered in time."""
    COLD = 2
    """An owner cannot know yet: it started, gained the slot or stood still less than one ttl ago."""
    MOVED = 3
    """A node answered that it does not own the slot: client and node follow different topologies."""
    OVERLOADED = 4
    """An owner shed the question."""


class Cause(IntEnum):
    """Why the status of a watched user changed; the numbers are those on the wire."""

    NONE = 0
    """It is the first one, or nobody can know."""
    HEARTBEAT = 1
    """The user was heard."""
    EXPIRED = 2
    """No heartbeat for one ttl."""
    LEFT = 3
    """The user left."""
