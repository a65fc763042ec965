"""The checker of watches is checked: each wrong word is found, and each doubt counts for the service."""

import io

from sim.checker import ALL, Bounds
from sim.history import BEAT, LEAVE, Begin, End, Phase, Record, Shown, Told, dump, load
from sim.watch_checker import judge_watches, wait_us

from pulsering.status import Cause, Reason, Status

OFFLINE, ONLINE, UNKNOWN = map(int, (Status.OFFLINE, Status.ONLINE, Status.UNKNOWN))
S = 1_000_000
BOUNDS = Bounds(ttl_us=20 * S, tick_us=S // 4, late_us=S // 20, early_us=S // 50, replicas=2)
WAIT = wait_us(BOUNDS) / S
USER = 7


class Story:
    """Records, in the order of their time; times in seconds."""

    def __init__(self, bounds: Bounds = BOUNDS) -> None:
        self.bounds = bounds
        self.records: list[Record] = [Phase(0, copies=1, definite=0, leaves=True)]
        self._versions = self._calls = 0

    def say(self, at: float, kind: str = BEAT, copies: int = 2) -> None:
        self._calls += 1
        self.records.append(Begin(round(at * S), self._calls, kind, (USER,)))
        self.records.append(End(round(at * S) + 1000, self._calls, copies))

    def told(
        self,
        at: float,
        status: int,
        version: int = 0,
        *,
        reason: Reason = Reason.NONE,
        cause: Cause = Cause.NONE,
    ) -> None:
        self._versions = version or self._versions + 1
        self.records.append(Told(round(at * S), 1, USER, status, reason, cause, self._versions))

    def shown(self, at: float, status: int) -> None:
        self.records.append(Shown(round(at * S), 1, (USER,), bytes([status])))

    @property
    def broken(self) -> list[str]:
        return [violation.promise for violation in judge_watches(self.records, self.bounds).violations]


def test_online_may_be_shown_for_a_ttl_a_tick_and_as_long_as_silence_takes() -> None:
    story = Story()
    story.say(10)
    story.told(10.1, ONLINE)
    story.shown(10 + 20 + 0.25 + 0.05 + WAIT - 0.01, ONLINE)
    assert story.broken == []
    story.shown(10 + 20 + 0.25 + 0.05 + WAIT + 0.01, ONLINE)
    assert story.broken == ["P1"]


def test_nobody_is_told_to_be_online_who_was_never_heard_of_or_has_left() -> None:
    story = Story()
    story.told(1, ONLINE)
    assert story.broken == ["P1"]
    story = Story()
    story.say(10)
    story.say(12, LEAVE)
    story.told(12.5, ONLINE)
    story.shown(12 + WAIT + 1, ONLINE)
    assert story.broken == ["P1"]


def test_offline_is_false_once_an_acknowledgement_had_time_to_be_told() -> None:
    story = Story()
    story.say(10)
    story.told(10.1, OFFLINE)
    story.shown(10 + WAIT - 0.1, OFFLINE)
    assert story.broken == []
    story.shown(10 + WAIT + 0.1, OFFLINE)
    assert story.broken == ["P2"]


def test_offline_after_a_leave_or_a_ttl_is_right() -> None:
    story = Story()
    story.say(10)
    story.say(11, LEAVE)
    story.shown(20, OFFLINE)
    story.say(30)
    story.shown(50.1, OFFLINE)
    assert story.broken == []


def test_versions_go_up_and_two_changes_in_a_row_differ() -> None:
    story = Story()
    story.told(1, UNKNOWN)
    story.told(2, OFFLINE)
    story.told(3, OFFLINE, 4)  # one between was not read
    assert story.broken == []
    story.told(4, OFFLINE, 5)
    story.told(5, UNKNOWN, 5)
    assert story.broken == ["P4", "P4"]
    story = Story()
    story.told(1, OFFLINE, 2)
    assert story.broken == ["P4"]


def test_who_was_taken_off_the_page_begins_anew() -> None:
    story = Story()
    story.told(1, OFFLINE)
    story.records.append(Told(2 * S, 1, USER, 0, 0, 0, 0))
    story.told(3, OFFLINE, 1)
    assert story.broken == []


def test_with_one_copy_a_change_after_a_gap_is_the_sequel_of_nothing() -> None:
    for cause, broken in ((Cause.NONE, []), (Cause.HEARTBEAT, ["P3"])):
        story = Story(BOUNDS._replace(replicas=1))
        story.say(1)
        story.told(1.1, UNKNOWN, reason=Reason.UNREACHABLE)
        story.told(1.2, ONLINE, cause=cause)
        assert story.broken == broken


def test_a_former_owner_that_is_gone_is_no_gap_of_the_present_one() -> None:
    story = Story(BOUNDS._replace(replicas=1))
    story.records.append(Phase(0, copies=1, definite=0, leaves=True, why="change of topology"))
    story.say(1)
    story.told(1.1, UNKNOWN, reason=Reason.UNREACHABLE)
    story.told(1.2, ONLINE, cause=Cause.HEARTBEAT)
    assert story.broken == []


def test_unknown_is_wrong_in_a_phase_that_is_definite_for_long_enough() -> None:
    story = Story()
    story.told(1, UNKNOWN, reason=Reason.UNREACHABLE)
    story.records.append(Phase(10 * S, copies=1, definite=ALL, leaves=True))
    story.shown(10 + WAIT - 1, UNKNOWN)
    assert story.broken == []
    story.shown(10 + WAIT + 1, UNKNOWN)
    assert story.broken == ["P6"]


def test_records_of_watches_are_kept_as_json() -> None:
    story = Story()
    story.told(1, ONLINE, cause=Cause.HEARTBEAT)
    story.shown(2, ONLINE)
    file = io.StringIO()
    dump(story.records, file)
    file.seek(0)
    assert list(load(file)) == story.records
