"""The checker is checked: each kind of wrong answer is planted and found, each doubt counts as none."""

import numpy as np
import pytest

from pulsering.status import Status
from pulsering_bench import truth as truth_module
from pulsering_bench.truth import OFFLINE, ONLINE, ROUNDING_S, UNKNOWN, Truth

TTL, TICK = 10.0, 0.125
USER = np.array([3])


def answer(truth: Truth, start: float, status: int, end: float | None = None) -> tuple[int, int]:
    """Read one user and return how many (ghosts, false offlines) that added."""
    before = truth.tally.ghosts, truth.tally.false_offlines
    read = truth.read_begins(USER, start)
    truth.read_ends(read, start if end is None else end, np.array([status], dtype=np.uint8))
    return truth.tally.ghosts - before[0], truth.tally.false_offlines - before[1]


def beat(truth: Truth, began: float, ended: float, *, acknowledged: bool = True) -> None:
    truth.heartbeat_begins(USER)
    truth.heartbeat_ends(USER, began, ended, acknowledged)


def leave(truth: Truth, began: float, ended: float, *, acknowledged: bool = True) -> None:
    truth.leave_begins(USER)
    truth.leave_ends(USER, began, ended, acknowledged)


@pytest.fixture
def truth() -> Truth:
    return Truth(8, ttl=TTL, tick=TICK)


def test_its_statuses_are_the_librarys() -> None:
    assert (OFFLINE, ONLINE, UNKNOWN) == (Status.OFFLINE, Status.ONLINE, Status.UNKNOWN)


def test_who_never_beat_is_a_ghost_when_online(truth: Truth) -> None:
    assert answer(truth, 100.0, ONLINE) == (1, 0)
    assert answer(truth, 100.0, OFFLINE) == (0, 0)


def test_online_until_ttl_and_a_tick_after_the_last_send_then_a_ghost(truth: Truth) -> None:
    beat(truth, 100.0, 100.5)
    latest = 100.5 + TTL + TICK + ROUNDING_S
    assert answer(truth, latest - 0.001, ONLINE) == (0, 0)
    assert answer(truth, latest + 0.001, ONLINE) == (1, 0)


def test_a_read_is_judged_as_if_answered_at_its_kindest_moment(truth: Truth) -> None:
    beat(truth, 100.0, 100.0)
    assert answer(truth, 105.0, ONLINE, end=200.0) == (0, 0)
    assert answer(truth, 105.0, OFFLINE, end=200.0) == (0, 0)
    assert answer(truth, 105.0, OFFLINE, end=109.0) == (0, 1)


def test_offline_within_ttl_of_an_acknowledged_send_is_false(truth: Truth) -> None:
    beat(truth, 100.0, 100.5)
    assert answer(truth, 101.0, OFFLINE) == (0, 1)
    assert answer(truth, 100.0 + TTL - ROUNDING_S - 0.001, OFFLINE) == (0, 1)
    assert answer(truth, 100.0 + TTL, OFFLINE) == (0, 0)


def test_offline_is_right_when_the_acknowledgement_came_after_the_question(truth: Truth) -> None:
    truth.heartbeat_begins(USER)
    read = truth.read_begins(USER, 100.1)
    truth.heartbeat_ends(USER, 100.0, 100.2, True)
    assert truth.read_ends(read, 100.3, np.array([OFFLINE], dtype=np.uint8)) == 0


def test_a_heartbeat_that_failed_may_have_arrived_or_not(truth: Truth) -> None:
    beat(truth, 100.0, 101.0, acknowledged=False)
    assert answer(truth, 102.0, OFFLINE) == (0, 0)
    assert answer(truth, 102.0, ONLINE) == (0, 0)
    assert answer(truth, 101.0 + TTL + TICK + 0.01, ONLINE) == (1, 0)


def test_a_heartbeat_in_flight_may_make_anyone_online(truth: Truth) -> None:
    truth.heartbeat_begins(USER)
    assert answer(truth, 1000.0, ONLINE) == (0, 0)
    assert answer(truth, 1000.0, OFFLINE) == (0, 0)


def test_online_after_an_acknowledged_goodbye_is_a_ghost(truth: Truth) -> None:
    beat(truth, 100.0, 100.1)
    leave(truth, 101.0, 101.1)
    assert answer(truth, 101.2, ONLINE) == (1, 0)
    assert answer(truth, 101.2, OFFLINE) == (0, 0)


def test_a_read_during_the_goodbye_may_say_either(truth: Truth) -> None:
    beat(truth, 100.0, 100.1)
    truth.leave_begins(USER)
    assert answer(truth, 101.05, ONLINE) == (0, 0)
    assert answer(truth, 101.05, OFFLINE) == (0, 0)
    truth.leave_ends(USER, 101.0, 101.1, True)
    assert answer(truth, 101.2, ONLINE) == (1, 0)


def test_a_goodbye_that_failed_may_have_arrived_or_not(truth: Truth) -> None:
    beat(truth, 100.0, 100.1)
    leave(truth, 101.0, 101.1, acknowledged=False)
    assert answer(truth, 101.2, ONLINE) == (0, 0)
    assert answer(truth, 101.2, OFFLINE) == (0, 0)


def test_a_heartbeat_after_the_goodbye_brings_the_user_back(truth: Truth) -> None:
    beat(truth, 100.0, 100.1)
    leave(truth, 101.0, 101.1)
    beat(truth, 102.0, 102.1)
    assert answer(truth, 102.2, ONLINE) == (0, 0)
    assert answer(truth, 102.2, OFFLINE) == (0, 1)


def test_a_heartbeat_that_crossed_the_goodbye_leaves_both_possible(truth: Truth) -> None:
    beat(truth, 100.0, 101.05)
    leave(truth, 101.0, 101.1)
    assert answer(truth, 101.2, ONLINE) == (0, 0)
    assert answer(truth, 101.2, OFFLINE) == (0, 0)
    assert truth.tally.undecided == 2


def test_unknown_is_counted_and_never_wrong(truth: Truth) -> None:
    beat(truth, 100.0, 100.1)
    assert answer(truth, 101.0, UNKNOWN) == (0, 0)
    assert (truth.tally.unknown, truth.tally.undecided, truth.tally.reads_checked) == (1, 0, 1)


def test_many_rows_are_judged_each_by_its_own_past(truth: Truth) -> None:
    rows = np.array([0, 1, 2])
    truth.heartbeat_begins(rows)
    truth.heartbeat_ends(rows, 100.0, 100.1, np.array([True, False, True]))
    asked = np.array([2, 0, 1, 7, 0])
    read = truth.read_begins(asked, 101.0)
    wrong = truth.read_ends(
        read, 101.1, np.array([OFFLINE, ONLINE, OFFLINE, ONLINE, UNKNOWN], dtype=np.uint8)
    )
    tally = truth.tally
    assert (wrong, tally.ghosts, tally.false_offlines, tally.unknown, tally.reads_checked) == (2, 1, 1, 1, 5)
    assert (tally.online, tally.offline, tally.wrong) == (2, 2, 2)


def test_wrong_answers_are_kept_with_what_was_known_and_not_without_end(truth: Truth) -> None:
    beat(truth, 100.0, 100.5)
    for _ in range(truth_module.EXAMPLES_MAX + 5):
        answer(truth, 102.0, OFFLINE)
    assert len(truth.tally.examples) == truth_module.EXAMPLES_MAX
    assert str(truth.tally.examples[0]) == (
        "false offline: row 3, read took 0.0 ms; last heartbeat ended 1.500 s before, "
        "last acknowledged one began 2.000 s before, last acknowledged goodbye began never"
    )


def test_answers_of_another_number_than_asked_are_refused(truth: Truth) -> None:
    with pytest.raises(ValueError, match="1 rows were read, 2 answers came"):
        truth.read_ends(truth.read_begins(USER, 1.0), 1.0, np.zeros(2, dtype=np.uint8))


def test_the_online_count_has_a_least_and_a_most(truth: Truth) -> None:
    rows = np.arange(4)
    truth.heartbeat_begins(rows)
    truth.heartbeat_ends(rows, 100.0, 100.1, True)
    assert truth.online_between(101.0) == (4, 4)
    truth.heartbeat_begins(np.array([5]))
    truth.leave_begins(np.array([0]))
    assert truth.online_between(101.0) == (3, 5)
    truth.leave_ends(np.array([0]), 101.0, 101.1, True)
    assert truth.online_between(101.2, slice(0, 4)) == (3, 3)
    assert truth.online_between(100.0 + TTL + 1) == (0, 1)


def test_a_million_users_are_judged_in_modest_time_and_memory() -> None:
    truth = Truth(1_000_000, ttl=TTL, tick=TICK)
    bytes_held = sum(array.nbytes for array in vars(truth).values() if isinstance(array, np.ndarray))
    assert bytes_held == 34 * len(truth)
    rows = np.random.default_rng(1).integers(0, len(truth), 100_000)
    truth.read_ends(truth.read_begins(rows, 5.0), 5.1, np.zeros(len(rows), dtype=np.uint8))
    assert truth.tally.reads_checked == 100_000
