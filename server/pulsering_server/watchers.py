"""Connections that watch: what each is told unasked, when, and how much at a time.

``Watchers`` stands between the watch set, which knows who has to be told what, and the shells, which have the
sockets. A shell gives each of its sessions a way to ``deliver`` bytes, and is asked by ``on_due`` to call
``push`` soon: that makes the frames, at most one a connection, and for some connections at a time, so that
ten thousand that watch one user do not hold the loop. Whoever does not read gets nothing, and later the
latest state of each user. Whoever has nothing to hear gets a pulse. Pure: time is told. A shell must not
``push`` before it has sent what a session answered. Invariant: a snapshot is never followed by older news.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pulsering import limits
from pulsering.messages import encode_watch_push, watch_pulse_ms
from pulsering.wire import HEADER_BYTES, Op, encode_frame
from pulsering_server.watch_set import WatchSet

if TYPE_CHECKING:
    from pulsering_server.config_schema import LimitsConfig
    from pulsering_server.table import Table

__all__ = ["Watcher", "Watchers"]

_KEY_BYTES: Final = 10
"""Of a push, a user: key, cause, two bits of state, rounded up."""

_PUSH_BYTES: Final = HEADER_BYTES + 64
"""Of a push, the rest."""


class Watcher:
    """One connection that watches."""

    __slots__ = ("_watchers", "deliver", "number", "paused", "said_ms")

    def __init__(self, watchers: "Watchers", deliver: Callable[[bytes], None] | None, now_ms: int) -> None:
        self.number = watchers.set.open()
        self.deliver = deliver
        """Where its bytes go."""
        self.said_ms = now_ms
        """When it last heard something unasked."""
        self.paused = False
        """Whether it does not read what it was sent."""
        self._watchers = watchers

    def resume(self) -> None:
        """It reads again: what it has missed is due."""
        self.paused = False
        self._watchers.set.wake(self.number)
        self._watchers.call()


class Watchers:
    """All connections of a node that watch, and the users that they watch; ``tick_ms`` is between turns."""

    def __init__(self, table: "Table", limits_config: "LimitsConfig", ttl_ms: int, tick_ms: int) -> None:
        most = limits_config.watched_users
        self.set = WatchSet(
            table, watches_max=most, per_subscriber=min(limits.WATCHED_USERS_PER_CONNECTION, most)
        )
        self.on_due: Callable[[], None] | None = None
        """Asks the shell to call ``push`` soon, however often it is called meanwhile."""
        self.pulse_ms = watch_pulse_ms(ttl_ms)
        self._tick_ms = tick_ms
        self._keys = min(
            limits_config.keys_per_frame, (limits_config.frame_bytes - _PUSH_BYTES) // _KEY_BYTES
        )
        self._by_number: dict[int, Watcher] = {}
        self._by_age: dict[Watcher, None] = {}
        """Whoever heard something longest ago comes first."""

    def __len__(self) -> int:
        return len(self._by_number)

    def add(self, deliver: Callable[[bytes], None] | None, now_ms: int) -> Watcher:
        """A connection begins to watch."""
        watcher = Watcher(self, deliver, now_ms)
        self._by_number[watcher.number] = watcher
        self._by_age[watcher] = None
        return watcher

    def remove(self, watcher: Watcher) -> None:
        """A connection is gone."""
        del self._by_number[watcher.number], self._by_age[watcher]
        self.set.close(watcher.number)

    # -- time ------------------------------------------------------------------------------------------------

    def turn(self, now_ms: int, users: int = limits.WATCHED_USERS_PER_TURN) -> bool:
        """Find what time has changed, looking at about so many users; whether there is more."""
        if not self.set.watches and not self._by_number:
            return False
        more = self.set.turn(now_ms, users)
        if self.set.waiting or self._pulse_due(now_ms):
            self.call()
        return more

    def call(self) -> None:
        """Have what is due pushed soon, if anything is."""
        if self.on_due is not None:
            self.on_due()

    def _pulse_due(self, now_ms: int) -> bool:
        """Whether somebody would hear nothing for too long if it were not until the next tick."""
        oldest = next(iter(self._by_age), None)
        return oldest is not None and now_ms + self._tick_ms > oldest.said_ms + self.pulse_ms

    # -- pushing ---------------------------------------------------------------------------------------------

    def push(self, now_ms: int, epoch: int, warming_ms: int) -> bool:
        """Tell some connections what is due, and the node's epoch and warmth; whether there is more."""
        numbers = self.set.ready(limits.WATCH_PUSHES_PER_TURN)
        for number in numbers:
            watcher = self._by_number[number]
            if not watcher.paused:
                body = encode_watch_push(epoch, warming_ms, *self.set.take(number, self._keys))
                self._say(watcher, encode_frame(Op.WATCH, 0, now_ms, body, reply=True), now_ms)
        pulse = b""
        for _ in range(limits.WATCH_PUSHES_PER_TURN - len(numbers)):
            if not self._pulse_due(now_ms):
                break
            if not pulse:
                body = encode_watch_push(epoch, warming_ms, b"", b"", b"")
                pulse = encode_frame(Op.WATCH, 0, now_ms, body, reply=True)
            self._say(next(iter(self._by_age)), pulse, now_ms)
        return self.set.waiting or self._pulse_due(now_ms)

    def _say(self, watcher: Watcher, frame: bytes, now_ms: int) -> None:
        """Deliver a frame, unless nobody reads it."""
        watcher.said_ms = now_ms
        del self._by_age[watcher]
        self._by_age[watcher] = None
        if watcher.deliver is not None and not watcher.paused:
            watcher.deliver(frame)
