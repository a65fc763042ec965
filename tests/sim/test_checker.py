"""The checker is checked: each kind of wrong answer is found, and each doubt counts for the service."""

import io
from collections.abc import Iterable

import pytest
from sim.checker import Bounds, Violation, judge
from sim.history import BEAT, COUNT, LEAVE, READ, Begin, End, Phase, Record, dump, load

from pulsering.status import Status

OFFLINE, ONLINE, UNKNOWN = (bytes([status]) for status in (Status.OFFLINE, Status.ONLINE, Status.UNKNOWN))
S = 1_000_000
BOUNDS = Bounds(ttl_us=20 * S, tick_us=S // 4, late_us=S // 20, early_us=S // 50, replicas=2)
CALM = Phase(0, copies=1, definite=0, leaves=True)
USER = 7


class Story:
    """Records, in the order of their time; times in seconds."""

    def __init__(self, phase: Phase = CALM) -> None:
        self.records: list[Record] = [phase]
        self._calls = 0

    def begin(self, at: float, kind: str, *users: int, grace: float = 0) -> int:
        self._calls += 1
        self.records.append(Begin(round(at * S), self._calls, kind, users or (USER,), round(grace * S)))
        return self._calls

    def end(
        self,
        at: float,
        call: int,
        *,
        copies: int = 0,
        statuses: bytes | None = None,
        total: int | None = None,
        error: str = "",
    ) -> None:
        self.records.append(End(round(at * S), call, copies, statuses, total, error))

    def beat(self, at: float, copies: int = 2, *users: int) -> None:
        self.end(at + 0.001, self.begin(at, BEAT, *users), copies=copies, error="" if copies else "lost")

    def leave(self, at: float, copies: int = 2, grace: float = 0) -> None:
        self.end(at + 0.001, self.begin(at, LEAVE, grace=grace), copies=copies)

    def read(self, at: float, answer: bytes, took: float = 0.001) -> None:
        self.end(at + took, self.begin(at, READ), statuses=answer)

    def phase(self, at: float, copies: int, *, definite: int = 0, leaves: bool = True) -> None:
        self.records.append(Phase(round(at * S), copies, definite, leaves))

    @property
    def broken(self) -> list[str]:
        return [violation.promise for violation in judge(self.records, BOUNDS).violations]


def test_who_was_never_heard_of_is_a_ghost_when_online() -> None:
    story = Story()
    story.read(1, ONLINE)
    story.read(2, OFFLINE)
    story.read(3, UNKNOWN)
    assert story.broken == ["P1"]


def test_online_for_a_ttl_a_tick_and_what_a_node_cannot_know_then_a_ghost() -> None:
    story = Story()
    story.beat(10)
    story.read(10 + 20 + 0.25 + 0.05 - 0.001, ONLINE)
    assert story.broken == []
    story.read(10 + 20 + 0.25 + 0.05 + 0.001, ONLINE)
    assert story.broken == ["P1"]


def test_a_heartbeat_counts_from_when_it_was_said_even_if_its_call_failed_or_never_ended() -> None:
    story = Story()
    story.end(12, story.begin(10, BEAT), error="CallTimeout")
    story.read(25, ONLINE)
    story.begin(26, BEAT)
    story.read(45, ONLINE)
    assert story.broken == []
    story.read(47, ONLINE)
    assert story.broken == ["P1"]


def test_offline_within_a_ttl_of_an_acknowledged_heartbeat_is_false() -> None:
    story = Story()
    story.beat(10)
    story.read(11, OFFLINE)
    story.read(10 + 20 - 0.02 - 0.002, OFFLINE)
    assert story.broken == ["P2", "P2"]
    story.read(10 + 20, OFFLINE)
    assert story.broken == ["P2", "P2"]


def test_a_read_is_judged_by_its_kindest_moment() -> None:
    story = Story()
    story.beat(10)
    story.read(11, OFFLINE, took=19.5)
    story.read(29.9, ONLINE, took=60)
    assert story.broken == []


def test_an_acknowledgement_that_came_after_the_question_binds_nobody() -> None:
    story = Story()
    beat = story.begin(10, BEAT)
    read = story.begin(10.1, READ)
    story.end(10.2, beat, copies=2)
    story.end(10.3, read, statuses=OFFLINE)
    assert story.broken == []


@pytest.mark.parametrize(("copies", "broken"), [(0, []), (1, []), (2, ["P2"])])
def test_in_a_storm_only_what_all_owners_had_binds(copies: int, broken: list[str]) -> None:
    story = Story(Phase(0, copies=2, definite=0, leaves=True))
    story.beat(10, copies)
    story.read(11, OFFLINE)
    assert story.broken == broken


def test_what_was_acknowledged_under_other_conditions_does_not_bind() -> None:
    story = Story(Phase(0, copies=2, definite=0, leaves=True))
    story.beat(10)
    story.phase(11, copies=0)
    story.read(12, OFFLINE)
    story.phase(13, copies=1)
    story.read(14, OFFLINE)
    assert story.broken == []
    story.beat(15, 1)
    story.read(16, OFFLINE)
    assert story.broken == ["P2"]


def test_after_a_leave_that_all_owners_took_online_is_a_ghost() -> None:
    story = Story()
    story.beat(10)
    story.leave(12)
    story.read(12.1, ONLINE)
    assert story.broken == []
    story.read(12.5, ONLINE)
    assert story.broken == ["P1"]


def test_a_leave_that_some_owner_missed_decides_nothing() -> None:
    story = Story()
    story.beat(10)
    story.leave(12, copies=1)
    story.read(13, ONLINE)
    story.read(14, OFFLINE)
    assert story.broken == []


def test_a_leave_with_grace_may_be_online_until_its_end() -> None:
    story = Story()
    story.beat(10)
    story.leave(12, grace=5)
    story.read(16.9, ONLINE)
    assert story.broken == []
    story.read(17.5, ONLINE)
    assert story.broken == ["P1"]


def test_a_heartbeat_after_the_leave_brings_the_user_back_and_one_at_the_same_time_may() -> None:
    story = Story()
    story.beat(10)
    story.leave(12)
    story.beat(13)
    story.read(14, ONLINE)
    story.leave(20)
    story.beat(19.9)
    story.read(21, ONLINE)
    story.read(22, OFFLINE)
    assert story.broken == []


def test_leaves_decide_nothing_while_the_topology_changes() -> None:
    story = Story()
    story.beat(10)
    story.leave(12)
    story.phase(13, copies=1, leaves=False)
    story.read(14, ONLINE)
    story.phase(15, copies=1)
    story.read(16, ONLINE)
    assert story.broken == []


@pytest.mark.parametrize("answer", [None, b"", ONLINE * 2])
def test_an_answer_of_another_length_than_the_question_is_nobodys(answer: bytes | None) -> None:
    story = Story()
    story.beat(10)
    story.end(11, story.begin(10.5, READ), statuses=answer)
    assert story.broken == ["P4"]


def test_a_status_that_does_not_exist_is_dishonest() -> None:
    story = Story()
    story.read(10, b"\x03")
    assert story.broken == ["P3"]


def test_unknown_and_errors_above_a_thousandth_break_the_recovery() -> None:
    story = Story(Phase(0, copies=1, definite=2, leaves=True))
    for second in range(999):
        story.beat(second)
    story.read(999, UNKNOWN)
    assert story.broken == []
    story.end(1000.1, story.begin(1000, BEAT), error="CallTimeout")
    assert story.broken == ["P6"]


def test_while_only_those_who_are_held_are_promised_others_may_be_unknown() -> None:
    story = Story(Phase(0, copies=1, definite=1, leaves=True))
    for second in range(200):
        story.read(second, UNKNOWN)
    assert story.broken == []
    for second in range(200, 400, 2):
        story.beat(second)
        story.read(second + 1, UNKNOWN)
    assert story.broken == ["P6"]


def test_what_begins_or_ends_outside_a_definite_phase_is_not_of_it() -> None:
    story = Story(Phase(0, copies=1, definite=2, leaves=True))
    call = story.begin(10, READ)
    story.phase(11, copies=1)
    story.end(12, call, statuses=UNKNOWN)
    call = story.begin(13, READ)
    story.phase(14, copies=1, definite=2)
    story.end(15, call, statuses=UNKNOWN)
    assert story.broken == []


@pytest.mark.parametrize(("total", "broken"), [(1, ["P2"]), (2, []), (3, []), (4, ["P1"])])
def test_an_exact_count_lies_between_who_must_and_who_can_be_online(total: int, broken: list[str]) -> None:
    story = Story(Phase(0, copies=1, definite=2, leaves=True))
    story.beat(10, 2, 1, 2)
    story.beat(11, 0, 3)
    story.end(12.1, story.begin(12, COUNT), total=total)
    assert story.broken == broken


def test_a_history_survives_being_written_and_read() -> None:
    story = Story()
    story.beat(10)
    story.leave(12, grace=3)
    story.read(20, ONLINE)
    file = io.StringIO()
    dump(story.records, file)
    assert list(load(file.getvalue().splitlines())) == story.records
    assert judge(load(file.getvalue().splitlines()), BOUNDS).violations == _violations(story.records)


def _violations(records: Iterable[Record]) -> list[Violation]:
    return judge(records, BOUNDS).violations
