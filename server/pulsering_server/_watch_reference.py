"""The watch set's specification: the slow twin of the compiled kernel, dicts that say what it must answer.

Who watches is a *subscriber*, a small int; what it is owed is *news*: of each user that it watches the latest
state and its cause, until taken. Strategy: the table tells when it turns a user online and when a leave takes
effect; that a user's time ran out is found by ``turn``, which looks only at users that were online. A refresh
is not told and costs nothing. Invariants: of each watched user the set remembers the one state that it told
last; a change of it is news for each of the user's subscribers; no news is lost, a newer one takes its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pulsering_server._table_reference import (
    LEAVES,
    ONLINE,
    STAYS,
    Table,
)
from pulsering_server.checked import checked_count, checked_keys, checked_ms

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined,unused-ignore]

NONE, HEARTBEAT, EXPIRED, LEFT = range(4)
CAUSES = ("none", "heartbeat", "expired", "left")
"""Names of the causes; the index is the number on the wire."""

WATCHES_MAX = 2**31
USER_BYTES = 300  # what the twin calls the memory of one watched user: dict slots, key, objects


class _Watched:
    """A user that somebody watches."""

    __slots__ = ("left", "readers", "state")

    def __init__(self, state: int) -> None:
        self.state = state
        self.left = False  # whether its deadline is that of a leave with a grace
        self.readers: dict[int, None] = {}


class _Reader:
    """A subscriber: the keys that it watches, and the news that it has not taken."""

    __slots__ = ("keys", "news")

    def __init__(self) -> None:
        self.keys: dict[int, None] = {}
        self.news: dict[int, tuple[int, int]] = {}


class WatchSet:
    """Who watches whom, and what they have not been told yet, of the users of one table.

    ``watches_max`` limits the users watched, each counted once for each subscriber, and ``per_subscriber``
    those of one of them. A table has one watch set at most, and tells it of changes for as long as somebody
    is watched.
    """

    def __init__(self, table: Table, *, watches_max: int, per_subscriber: int) -> None:
        self._watches_max = checked_count(watches_max, "watches_max", 1, WATCHES_MAX)
        self._per_subscriber = checked_count(per_subscriber, "per_subscriber", 1, WATCHES_MAX)
        self._users: dict[int, _Watched] = {}
        self._readers: dict[int, _Reader] = {}
        self._ready: dict[int, None] = {}
        self._renewed = False
        self._again = False
        self._changes = [0] * len(CAUSES)
        self._coalesced = 0
        self._table = table

    def attach(self, table: Table) -> None:
        """Go on with another table. What the users are there is looked up by ``turn``, with no cause told."""
        self._table.tell(None)
        self._table = table
        self._table.tell(self._turned if self._users else None)
        self._again = self._renewed = True

    # -- who watches -----------------------------------------------------------------------------------------

    def open(self) -> int:
        """A new subscriber: a number that is not in use."""
        subscriber = next(number for number in range(len(self._readers) + 1) if number not in self._readers)
        self._readers[subscriber] = _Reader()
        return subscriber

    def close(self, subscriber: int) -> None:
        """A subscriber is gone, with all that it watched.

        Of one that watched very many, ``turn`` forgets the users, in slices; they count until then.
        """
        reader = self._reader(subscriber)
        for key in list(reader.keys):
            self._unsubscribe(subscriber, key)
        self._ready.pop(subscriber, None)
        del self._readers[subscriber]

    def watch(self, subscriber: int, keys: Buffer, now_ms: int) -> bytes | None:
        """Watch these keys too; the state of each now, as ``Table.get`` has it. None, and nothing is changed,
        if that were more than may be watched (a key that comes twice in one call then counts twice).

        What it says of a key takes the place of older news about it.
        """
        reader, parsed, now = self._reader(subscriber), checked_keys(keys), checked_ms(now_ms, "now_ms")
        more = sum(key not in reader.keys for key in parsed)
        if len(reader.keys) + more > self._per_subscriber or self.watches + more > self._watches_max:
            return None
        self._table.advance(now)
        for key in parsed:
            state = self._state_of(key)
            if key not in self._users:
                self._users[key] = _Watched(state)
            elif self._users[key].state != state:
                self._look(key)
            self._users[key].readers[subscriber] = None
            reader.keys[key] = None
            reader.news.pop(key, None)
        self._table.tell(self._turned if self._users else None)
        return self._table.get(keys, now)

    def stop(self, subscriber: int, keys: Buffer) -> None:
        """Watch these keys no more; those that it does not watch are passed over."""
        reader = self._reader(subscriber)
        for key in checked_keys(keys):
            if key in reader.keys:
                self._unsubscribe(subscriber, key)

    def _reader(self, subscriber: int) -> _Reader:
        if subscriber not in self._readers:
            raise ValueError(f"there is no subscriber {subscriber}")
        return self._readers[subscriber]

    def _unsubscribe(self, subscriber: int, key: int) -> None:
        reader, user = self._readers[subscriber], self._users[key]
        del reader.keys[key], user.readers[subscriber]
        reader.news.pop(key, None)
        if not user.readers:
            del self._users[key]
        if not self._users:
            self._table.tell(None)

    # -- what changes ----------------------------------------------------------------------------------------

    def _state_of(self, key: int) -> int:
        return self._table.get(key.to_bytes(8, "little"), 0)[0]

    def _turned(self, key: int, what: int) -> None:
        """Called by the table, after it has done what it tells of."""
        user = self._users.get(key)
        if user is None:
            return
        state = self._state_of(key)
        if what == LEAVES:
            user.left = True
            if state != ONLINE:
                self._change(user, key, state, LEFT)
        elif what == STAYS:
            user.left = False
        else:
            if user.state == ONLINE:  # its time had run out, and nobody had looked
                self._changes[self._why_gone(user)] += 1
            self._change(user, key, state, HEARTBEAT)

    def _why_gone(self, user: _Watched) -> int:
        if self._renewed:
            return NONE
        return LEFT if user.left else EXPIRED

    def _change(self, user: _Watched, key: int, state: int, cause: int) -> None:
        user.state, user.left = state, False
        self._changes[cause] += 1
        for subscriber in user.readers:
            news = self._readers[subscriber].news
            self._coalesced += key in news
            news[key] = state, cause
            self._ready[subscriber] = None

    def _look(self, key: int) -> None:
        """Compare a user with the table."""
        user, state = self._users[key], self._state_of(key)
        if state == user.state:
            return
        cause = self._why_gone(user) if user.state == ONLINE else HEARTBEAT if state == ONLINE else NONE
        self._change(user, key, state, cause)

    def turn(self, now_ms: int, budget: int) -> bool:
        """Find whose time ran out by ``now_ms``, and after ``look_again`` what else changed.

        Looks at about ``budget`` users; whether more are due.
        """
        checked_count(budget, "budget", 0, 2**62)
        self._table.advance(checked_ms(now_ms, "now_ms"))
        for key, user in self._users.items():
            if self._again or user.state == ONLINE:
                self._look(key)
        self._again = self._renewed = False
        return False

    def look_again(self) -> None:
        """What a read says of users who are not online may have changed: have ``turn`` look at all."""
        self._again = True

    # -- what is told ----------------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether some subscriber is ready."""
        return bool(self._ready)

    def ready(self, most: int) -> list[int]:
        """Up to ``most`` subscribers that have news, in the order in which they had. Each is named once, and
        again when it has more news, or by ``wake``."""
        taken = list(self._ready)[: checked_count(most, "most", 0, 2**31)]
        for subscriber in taken:
            del self._ready[subscriber]
        return taken

    def wake(self, subscriber: int) -> None:
        """Name a subscriber as ready again if it has news."""
        if self._reader(subscriber).news:
            self._ready[subscriber] = None

    def take(self, subscriber: int, most: int) -> tuple[bytes, bytes, bytes]:
        """Up to ``most`` news, in no order: keys, states (2 bits a key, as ``Table.get``), causes (1 byte a
        key). If there are more, the subscriber is ready again."""
        news = self._reader(subscriber).news
        keys = list(news)[: checked_count(most, "most", 0, 2**31)]
        taken = [news.pop(key) for key in keys]
        if news:
            self._ready[subscriber] = None
        states = bytearray((len(keys) + 3) // 4)
        for i, (state, _) in enumerate(taken):
            states[i // 4] |= state << (i % 4 * 2)
        packed = b"".join(key.to_bytes(8, "little") for key in keys)
        return packed, bytes(states), bytes(cause for _, cause in taken)

    # -- facts -----------------------------------------------------------------------------------------------

    @property
    def users(self) -> int:
        """Users watched, each counted once."""
        return len(self._users)

    @property
    def watches(self) -> int:
        """Users watched, each counted once for each subscriber."""
        return sum(len(reader.keys) for reader in self._readers.values())

    @property
    def subscribers(self) -> int:
        """Those there are."""
        return len(self._readers)

    @property
    def memory_bytes(self) -> int:
        """Bytes held (an estimate in the twin)."""
        return self.watches * USER_BYTES

    @property
    def changes(self) -> tuple[int, int, int, int]:
        """Changes of watched users since the start, by cause."""
        return tuple(self._changes)  # type: ignore[return-value]

    @property
    def coalesced(self) -> int:
        """News that a newer one took the place of before it was taken."""
        return self._coalesced
