"""What one watch has not read yet: the latest state of each of its users, however slowly it reads.

A reader keeps no changes, only whose state it has not seen; what the state is, it looks up in the table when
it is asked. So a slow reader costs no more than the users it watches, and always gets the truth of now.
First states wait apart from later ones: the caller asked for them, however many they are, while more than
``limit`` users with a later change mean that the caller does not keep up. Pure: no loop, no clock.

Invariant: each user's versions only grow, from 1, and a user that is not watched any more is never told of.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from pulsering.ids import UserId
from pulsering.reports import Change
from pulsering.status import Cause, Reason, Status

if TYPE_CHECKING:
    from pulsering._watch_table import WatchTable
    from pulsering.errors import PresenceError

__all__ = ["Reader"]

_STATUSES, _REASONS, _CAUSES = tuple(Status), tuple(Reason), tuple(Cause)


class Reader:
    """The unread side of one watch."""

    def __init__(self, table: "WatchTable", limit: int) -> None:
        self.ids: dict[int, UserId] = {}
        """The ids of the watched users by key, as the caller gave them."""
        self.limit = limit
        self.overflowed = 0
        """How many users waited when there were too many; the watch is over then."""
        self.error: PresenceError | None = None
        """Why the watch is over."""
        self.on_ready: Callable[[], None] | None = None
        """Called, once, when there is something to read."""
        self._table = table
        self._new: set[int] = set()
        self._first: OrderedDict[int, None] = OrderedDict()
        self._later: OrderedDict[int, None] = OrderedDict()
        self._seen_from: dict[int, int] = {}  # the table's version of what was read first, where it is not 1

    @property
    def waiting(self) -> int:
        """Users whose state has not been read."""
        return len(self._first) + len(self._later)

    def welcome(self, keys: Iterable[int], ids: Iterable[UserId]) -> list[int]:
        """Watch more users; returns the keys of those that were not watched before."""
        known, added = self.ids, []
        for key, user in zip(keys, ids, strict=True):
            if key not in known:
                known[key] = user
                added.append(key)
        self._new.update(added)
        return added

    def dismiss(self, keys: Iterable[int]) -> list[int]:
        """Watch some users no more; returns the keys of those that were watched."""
        gone = []
        for key in keys:
            if key in self.ids:
                del self.ids[key]
                self._new.discard(key)
                self._first.pop(key, None)
                self._later.pop(key, None)
                self._seen_from.pop(key, None)
                gone.append(key)
        return gone

    def note(self, key: int) -> None:
        """A user's state is another one."""
        if key in self._new:
            self._first[key] = None
        else:
            self._later[key] = None
            if len(self._later) > self.limit:
                self.overflowed = len(self._later)
        self.wake()

    def fail(self, error: "PresenceError") -> None:
        """The watch is over; what was not read is forgotten."""
        self.error = error
        self._first.clear()
        self._later.clear()
        self.wake()

    def wake(self) -> None:
        """There is something to read, if only that it is over."""
        if self.on_ready is not None:
            wake, self.on_ready = self.on_ready, None
            wake()

    def take(self) -> Change | None:
        """The next change, None if all was read."""
        if self._first:
            key, _ = self._first.popitem(last=False)
            state = self._table.look(key)
            self._new.discard(key)
            if state.version != 1:
                self._seen_from[key] = state.version
            return Change(self.ids[key], _STATUSES[state.status], _REASONS[state.reason], Cause.NONE, 1)
        if not self._later:
            return None
        key, _ = self._later.popitem(last=False)
        state = self._table.look(key)
        version = state.version + 1 - self._seen_from.get(key, 1)
        return Change(
            self.ids[key], _STATUSES[state.status], _REASONS[state.reason], _CAUSES[state.cause], version
        )
