"""Judges every read of a history against what was said and acknowledged, by true time.

One pass over the records, a few numbers a user. Every rule takes the side of the service where the history
leaves a doubt: a heartbeat of a call that failed may have arrived, a read may have been answered at any time
while it was under way. A wrong answer found here is wrong beyond doubt:

- P1: ``online`` is a **ghost** if the user's last heartbeat, by the time it was said, is older than ttl + one
  tick + ``late_us`` when the read began; or if a leave that all owners took is over, with its grace, and
  every heartbeat was said before it.
- P2: ``offline`` is **false** if a heartbeat, acknowledged before the read began by as many owners as the
  phase asks for, was younger than the ttl when the read ended, and no leave can have followed it.
- P3: an answer that is none of online, offline and unknown.
- P4: an answer of another length than its question.
- P6: in a phase that is ``definite``, more than 0.1 % of answers unknown or errors, as far as it goes.
- An exact **count** beyond what can be online, unless slots have just changed hands; or in a definite phase
  below what must be.

``late_us`` is how much older a heartbeat may be than a node can know: the way of a connection's first frame,
which it takes for no time at all, and a thousandth for clocks that drift. ``early_us`` is the same for the
other side: rounding to milliseconds, and drift.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

from sim.history import BEAT, COUNT, LEAVE, READ, Begin, End, Phase, Record

__all__ = ["Bounds", "Checker", "Verdict", "Violation", "judge"]

OFFLINE, ONLINE, UNKNOWN = range(3)
NEVER: Final = -(1 << 62)
SHARE_MAX: Final = 0.001
"""Unknown answers and errors in definite phases."""

ANY, HELD, ALL = range(3)
"""What ``Phase.definite`` may be."""

DEFINITE_READS_MIN: Final = 100
"""Answers from which on a share means anything."""


class Bounds(NamedTuple):
    """What the judge must know of the cluster, in microseconds."""

    ttl_us: int
    tick_us: int
    late_us: int
    early_us: int
    replicas: int


class Violation(NamedTuple):
    """One broken promise."""

    promise: str
    at_us: int
    what: str

    def __str__(self) -> str:
        """Return it as a line."""
        return f"{self.at_us / 1e6:.6f} s: {self.promise}: {self.what}"


class Verdict(NamedTuple):
    """The violations, in order, and what was counted."""

    violations: list[Violation]
    tally: Counter[str]


class _User:
    """What is known of one user: when things were said, NEVER if not at all."""

    __slots__ = ("beat", "left", "left_over", "said_bye", "taken")

    def __init__(self, replicas: int) -> None:
        self.beat = NEVER
        self.said_bye = NEVER
        self.left = NEVER
        """When the newest leave was said that all owners took."""
        self.left_over = NEVER
        """When its grace is over."""
        self.taken = [NEVER] * (replicas + 1)
        """By number of owners: when the newest heartbeat was said that at least so many took."""


class _Read(NamedTuple):
    taken: list[int]
    left: list[tuple[int, int]]


class Checker:
    """Takes records one after another; ``violations`` and ``tally`` grow meanwhile."""

    def __init__(self, bounds: Bounds) -> None:
        self.violations: list[Violation] = []
        self.tally: Counter[str] = Counter()
        self._bounds = bounds
        self._users: dict[int, _User] = {}
        self._open: dict[int, tuple[Begin, int, _Read | None]] = {}
        self._phase = Phase(NEVER, 0, 0, False)
        self._phases = 0
        self._judged_since = NEVER  # since when acknowledgements count
        self._leaves_since = NEVER
        self._definite_bad = 0
        self._definite_all = 0
        self._first_bad = 0, ""

    def take(self, record: Record) -> None:
        """Note what happened next."""
        if isinstance(record, Begin):
            self._begin(record)
        elif isinstance(record, End):
            begin, phases, read = self._open.pop(record.call)
            self._end(begin, record, phases, read)
        elif isinstance(record, Phase):
            self._enter(record)

    def finish(self) -> Verdict:
        """Judge what only the whole history tells."""
        bad, judged = self._definite_bad, self._definite_all
        if judged >= DEFINITE_READS_MIN and bad > judged * SHARE_MAX:
            what = (
                f"{bad} of {judged} answers unknown or errors without a reason, first: {self._first_bad[1]}"
            )
            self.violations.append(Violation("P6", self._first_bad[0], what))
        self.tally["definite"] = judged
        self.tally["definite_bad"] = bad
        return Verdict(self.violations, self.tally)

    def _enter(self, phase: Phase) -> None:
        self._phases += 1
        if phase.copies != self._phase.copies:
            # What was acknowledged under other conditions does not bind: begin afresh.
            self._judged_since = phase.at_us
        if phase.leaves != self._phase.leaves:
            self._leaves_since = phase.at_us
        self._phase = phase

    def _user(self, user: int) -> _User:
        known = self._users.get(user)
        if known is None:
            known = self._users[user] = _User(self._bounds.replicas)
        return known

    # -- calls -----------------------------------------------------------------------------------------------

    def _begin(self, begin: Begin) -> None:
        read = None
        if begin.kind == BEAT:
            for user in begin.users:
                self._user(user).beat = begin.at_us
        elif begin.kind == LEAVE:
            for user in begin.users:
                self._user(user).said_bye = begin.at_us
        elif begin.kind == READ:
            copies = self._phase.copies
            known = [self._user(user) for user in begin.users]
            read = _Read(
                [user.taken[copies] for user in known], [(user.left, user.left_over) for user in known]
            )
        elif begin.kind == COUNT:
            everybody = self._bounds.replicas if self._phase.copies else 0
            read = _Read([user.taken[everybody] for user in self._users.values()], [])
        self._open[begin.call] = begin, self._phases, read

    def _end(self, begin: Begin, end: End, phases: int, read: _Read | None) -> None:
        self.tally[begin.kind + ("_failed" if end.error else "")] += 1
        definite = self._phase.definite if phases == self._phases else 0
        if begin.kind == BEAT:
            for user in begin.users:
                taken = self._user(user).taken
                for copies in range(1, end.copies + 1):
                    taken[copies] = max(taken[copies], begin.at_us)
        elif begin.kind == LEAVE and end.copies >= self._bounds.replicas:
            for user in begin.users:
                known = self._user(user)
                if begin.at_us > max(known.left, self._leaves_since):
                    known.left, known.left_over = begin.at_us, begin.at_us + begin.grace_us
        if definite:
            self._definite_all += max(1, len(begin.users))
        if end.error:
            if definite == ALL:
                self._note_bad(begin, max(1, len(begin.users)), end.error)
        elif begin.kind == READ:
            assert read is not None
            self._judge_read(begin, end, read, definite=definite)
        elif begin.kind == COUNT and end.total is not None:
            self._judge_count(begin, end, read.taken if read is not None and definite == ALL else [])

    def _note_bad(self, begin: Begin, count: int, what: str) -> None:
        if not self._definite_bad:
            self._first_bad = begin.at_us, f"{begin.kind} by call {begin.call}, {count} times {what}"
        self._definite_bad += count
        self.tally[f"bad: {begin.kind}: {what[:60]}"] += count

    # -- judging ---------------------------------------------------------------------------------------------

    def _judge_read(self, begin: Begin, end: End, read: _Read, *, definite: int) -> None:
        statuses = end.statuses
        if statuses is None or len(statuses) != len(begin.users):
            size = "nothing" if statuses is None else f"{len(statuses)} answers"
            self._broken("P4", end, f"{size} to a question about {len(begin.users)} users")
            return
        unknown = 0
        for index, (user, status) in enumerate(zip(begin.users, statuses, strict=True)):
            if status == ONLINE:
                self.tally["online"] += 1
                self._judge_online(user, begin, end, *read.left[index])
            elif status == OFFLINE:
                self.tally["offline"] += 1
                self._judge_offline(user, begin, end, read.taken[index])
            elif status == UNKNOWN:
                self.tally["unknown"] += 1
                unknown += definite == ALL or (
                    definite == HELD and self._is_alive(user, end, read.taken[index])
                )
            else:
                self._broken("P3", end, f"user {user}: status {status}")
        if unknown:
            self._note_bad(begin, unknown, "unknown")

    def _judge_online(self, user: int, begin: Begin, end: End, left: int, left_over: int) -> None:
        bounds, known = self._bounds, self._users[user]
        slack = bounds.tick_us + bounds.late_us
        if known.beat < begin.at_us - bounds.ttl_us - slack:
            last = "it was never heard of" if known.beat == NEVER else f"last heard {_ago(begin, known.beat)}"
            self._broken("P1", end, f"user {user} called online, {last}")
        elif (
            self._phase.leaves
            and left >= self._leaves_since
            and left_over + slack < begin.at_us
            and known.beat < left - slack
        ):
            what = (
                f"user {user} called online, left {_ago(begin, left)}, last heard {_ago(begin, known.beat)}"
            )
            self._broken("P1", end, what)

    def _judge_offline(self, user: int, begin: Begin, end: End, taken: int) -> None:
        if self._is_alive(user, end, taken):
            what = f"user {user} called offline, {self._phase.copies} owners had it {_ago(begin, taken)}"
            self._broken("P2", end, what)

    def _is_alive(self, user: int, end: End, taken: int) -> bool:
        """Whether a user must have been online all the while, by a heartbeat that so many owners took."""
        bounds = self._bounds
        return bool(
            self._phase.copies
            and taken >= self._judged_since
            and taken > end.at_us - bounds.ttl_us + bounds.early_us
            and self._users[user].said_bye < taken - bounds.tick_us - bounds.late_us
        )

    def _judge_count(self, begin: Begin, end: End, taken: list[int]) -> None:
        bounds, total = self._bounds, end.total
        assert total is not None
        slack = bounds.tick_us + bounds.late_us
        oldest = begin.at_us - bounds.ttl_us - slack
        most = sum(user.beat >= oldest for user in self._users.values())
        if total > most and self._phase.leaves:  # who changes hands may be counted twice for one ttl
            self._broken("P1", end, f"counted {total}, at most {most} can be online")
        young = max(end.at_us - bounds.ttl_us + bounds.early_us, self._judged_since)
        least = sum(
            said > young and known.said_bye < said - slack
            for said, known in zip(taken, self._users.values(), strict=False)
        )
        if total < least:
            self._broken("P2", end, f"counted {total}, at least {least} must be online")

    def _broken(self, promise: str, end: End, what: str) -> None:
        self.violations.append(Violation(promise, end.at_us, what))


def judge(records: Iterable[Record], bounds: Bounds) -> Verdict:
    """The verdict on the calls of a whole history."""
    checker = Checker(bounds)
    for record in records:
        checker.take(record)
    return checker.finish()


def _ago(begin: Begin, at_us: int) -> str:
    return f"{(begin.at_us - at_us) / 1e6:.3f} s before"
