"""What an overloaded node refuses: gets that have waited too long, and much later heartbeats and leaves.

A node that is asked for more than it can do must not queue it: everybody would wait longer than callers do,
and all its work would be for nobody. What it does not answer in time it refuses at once, which costs next to
nothing, and so keeps answering at full speed whoever came in time. Heartbeats go first, as without them every
later answer is worse; gets can be asked of another owner.

Two facts decide, both needed. *Pressed*: the node's thread did not wait for work once in ``LOAD_PROBE_MS``.
*Late*: the frame's age (``frame_age``), which counts every queue it stood in, of the sender, the network, the
kernel and ours. Late alone may be a slow link, whose answers somebody may still wait for; pressed alone is a
node well used. After SIGSTOP nothing is refused, as standing still is waiting: what was sent meanwhile is
still worth having. Invariant: a node with time to spare refuses nothing.
"""

from typing import Final, NamedTuple

from pulsering import limits

__all__ = ["Bounds", "Overload"]


class Bounds(NamedTuple):
    """The oldest get, and the oldest heartbeat or leave, that is still done; None for any."""

    get_age_ms: int | None
    write_age_ms: int | None


_AT_EASE: Final = Bounds(None, None)
_PRESSED: Final = Bounds(limits.GET_AGE_MS_MAX, limits.WRITE_AGE_MS_MAX)


class Overload:
    """Whether the node is pressed, and what it refuses; told by ``note``, every ``LOAD_PROBE_MS``."""

    __slots__ = ("_until_ms", "bounds")

    def __init__(self) -> None:
        self.bounds = _AT_EASE
        self._until_ms = 0

    @property
    def pressed(self) -> bool:
        """Whether there is more to do than the node can."""
        return self.bounds is _PRESSED

    def note(self, now_ms: int, *, waited: bool) -> None:
        """Whether the node's thread had to wait for work since the last time this was said."""
        if not waited:
            self.bounds = _PRESSED
            self._until_ms = now_ms + limits.OVERLOAD_MS
        elif self.pressed and now_ms >= self._until_ms:
            self.bounds = _AT_EASE

    def admits_get(self, age_ms: int) -> bool:
        """Whether a get of this age is done, or refused."""
        bound = self.bounds.get_age_ms
        return bound is None or age_ms <= bound

    def admits_write(self, age_ms: int) -> bool:
        """Whether a heartbeat or leave of this age is done, or refused."""
        bound = self.bounds.write_age_ms
        return bound is None or age_ms <= bound
