"""Judges what watches have told, and what a page shows that follows them, by true time.

As ``checker`` does for reads, and with the same doubts for the service; only that what is shown may be as old
as a node may be silent before it counts as unreachable, ``Wait``:

- P1: ``online`` is shown of nobody who was last heard a ttl, a tick and that long ago, or who has left.
- P2: ``offline`` is neither told nor shown of somebody whose heartbeat was acknowledged, that long ago or
  longer, and is still younger than the ttl.
- P4: the versions of a user's changes go up on each watch, from 1; and of two in a row the second is another
  state than the first. So each change is told once.
- P6: in a phase in which nothing may be unknown, and which is that old, next to nothing is shown as unknown.
- P3: after a gap, with one copy, comes what a snapshot says and no change: a change is the sequel of
  something, and there is nothing any more that it could be the sequel of. After a change of topology that is
  not judged: a former owner that cannot be heard is a gap too, while the present one goes on telling.
"""

from collections import Counter, deque
from collections.abc import Iterable
from typing import Final

from sim.checker import ALL, NEVER, OFFLINE, ONLINE, SHARE_MAX, UNKNOWN, Bounds, Verdict, Violation
from sim.history import BEAT, LEAVE, Begin, End, Phase, Record, Shown, Told

from pulsering.messages import watch_pulse_ms
from pulsering.status import Reason

__all__ = ["judge_watches", "wait_us"]

PULSES: Final = 5
"""Three of silence, one in which an answer may still come, and one for sweeps, turns and ways."""

ACKS_KEPT: Final = 64

CHANGE: Final = "change of topology"
"""What phases say that begin with one."""


def wait_us(bounds: Bounds) -> int:
    """How long after something is so a watch may say otherwise."""
    return PULSES * watch_pulse_ms(bounds.ttl_us // 1000) * 1000


class _User:
    def __init__(self) -> None:
        self.beat = NEVER
        self.said_bye = NEVER
        self.left = NEVER
        self.left_over = NEVER
        self.acks: deque[tuple[int, int, int]] = deque(maxlen=ACKS_KEPT)
        """When a heartbeat was acknowledged, when it was said, and by how many owners it was taken."""


class _WatchChecker:
    def __init__(self, bounds: Bounds) -> None:
        self.violations: list[Violation] = []
        self.tally: Counter[str] = Counter()
        self._bounds = bounds
        self._wait_us = wait_us(bounds)
        self._users: dict[int, _User] = {}
        self._open: dict[int, Begin] = {}
        self._told: dict[tuple[int, int], Told] = {}
        self._phase = Phase(NEVER, 0, 0, False)
        self._changed = False
        self._judged_since = NEVER
        self._leaves_since = NEVER
        self._definite = self._definite_unknown = 0
        self._first_unknown = 0, ""

    def take(self, record: Record) -> None:
        match record:
            case Begin():
                self._begin(record)
            case End():
                self._end(self._open.pop(record.call), record)
            case Phase():
                if record.copies != self._phase.copies:
                    self._judged_since = record.at_us
                if record.leaves != self._phase.leaves:
                    self._leaves_since = record.at_us
                self._phase = record
                self._changed |= CHANGE in record.why
            case Told():
                self._take_told(record)
            case Shown():
                self._take_shown(record)

    def finish(self) -> Verdict:
        if self._definite_unknown > self._definite * SHARE_MAX:
            what = f"{self._definite_unknown} of {self._definite} shown as unknown: {self._first_unknown[1]}"
            self.violations.append(Violation("P6", self._first_unknown[0], what))
        return Verdict(self.violations, self.tally)

    def _user(self, user: int) -> _User:
        return self._users.setdefault(user, _User())

    def _begin(self, begin: Begin) -> None:
        self._open[begin.call] = begin
        for user in begin.users:
            if begin.kind == BEAT:
                self._user(user).beat = begin.at_us
            elif begin.kind == LEAVE:
                self._user(user).said_bye = begin.at_us

    def _end(self, begin: Begin, end: End) -> None:
        for user in begin.users:
            known = self._user(user)
            if begin.kind == BEAT and end.copies:
                known.acks.append((end.at_us, begin.at_us, end.copies))
            elif (
                begin.kind == LEAVE
                and end.copies >= self._bounds.replicas
                and begin.at_us > max(known.left, self._leaves_since)
            ):
                known.left, known.left_over = begin.at_us, begin.at_us + begin.grace_us

    def _take_told(self, told: Told) -> None:
        place = told.watch, told.user
        if not told.version:  # taken off the page, to be put back
            self._told.pop(place, None)
            return
        self.tally["told"] += 1
        before = self._told.get(place)
        self._told[place] = told
        if before is None:
            if told.version != 1:
                self._broken("P4", told.at_us, f"user {told.user} has version {told.version} at first")
        elif told.version <= before.version:
            what = f"user {told.user}: version {told.version} after {before.version}"
            self._broken("P4", told.at_us, what)
        elif told.version == before.version + 1 and told[3:5] == before[3:5]:
            self._broken("P4", told.at_us, f"user {told.user}: told twice of status {told.status}")
        elif (
            self._bounds.replicas == 1
            and not self._changed
            and before.reason == Reason.UNREACHABLE
            and told.version == before.version + 1
        ):
            self.tally["gaps"] += 1
            if told.cause:
                what = f"user {told.user}: a change (cause {told.cause}) after a gap, and no snapshot"
                self._broken("P3", told.at_us, what)
        self._judge(told.at_us, told.user, told.status, told.watch)

    def _take_shown(self, shown: Shown) -> None:
        definite = self._phase.definite == ALL and self._phase.at_us <= shown.at_us - self._wait_us
        for user, status in zip(shown.users, shown.statuses, strict=True):
            self.tally["shown"] += 1
            self._judge(shown.at_us, user, status, shown.watch)
            if definite:
                told = self._told.get((shown.watch, user))
                self._definite += 1
                if status == UNKNOWN and told is not None and told.at_us <= shown.at_us - self._wait_us:
                    if not self._definite_unknown:
                        self._first_unknown = shown.at_us, f"user {user}, reason {told.reason}"
                    self._definite_unknown += 1

    def _judge(self, at_us: int, user: int, status: int, watch: int) -> None:
        bounds, known = self._bounds, self._user(user)
        slack_us = bounds.tick_us + bounds.late_us
        if status == ONLINE:
            over_us = at_us - slack_us - self._wait_us
            if known.beat < over_us - bounds.ttl_us:
                last = "never heard of" if known.beat == NEVER else f"last heard {_ago(at_us, known.beat)}"
                self._broken("P1", at_us, f"watch {watch}: user {user} online, {last}")
            elif (
                self._phase.leaves
                and known.left >= self._leaves_since
                and known.left_over < over_us
                and known.beat < known.left - slack_us
            ):
                self._broken(
                    "P1", at_us, f"watch {watch}: user {user} online, left {_ago(at_us, known.left)}"
                )
        elif status == OFFLINE:
            taken = self._taken(known, at_us)
            if taken is not None and known.said_bye < taken - slack_us:
                what = f"watch {watch}: user {user} offline, acknowledged {_ago(at_us, taken)}"
                self._broken("P2", at_us, what)

    def _taken(self, known: _User, at_us: int) -> int | None:
        """When the newest heartbeat was said that must have kept a user online all the while."""
        copies = self._phase.copies
        if not copies:
            return None
        young_us = max(at_us - self._bounds.ttl_us + self._bounds.early_us, self._judged_since)
        for acknowledged_us, said_us, taken in reversed(known.acks):
            if acknowledged_us <= at_us - self._wait_us and taken >= copies:
                return said_us if said_us > young_us else None
        return None

    def _broken(self, promise: str, at_us: int, what: str) -> None:
        self.violations.append(Violation(promise, at_us, what))


def judge_watches(records: Iterable[Record], bounds: Bounds) -> Verdict:
    """The verdict on the watches of a whole history."""
    checker = _WatchChecker(bounds)
    for record in records:
        checker.take(record)
    return checker.finish()


def _ago(at_us: int, then_us: int) -> str:
    return f"{(at_us - then_us) / 1e6:.3f} s before"
