"""The recorded trace is read as the real log it is: holes included."""

import numpy as np
import pytest

from pulsering_bench.crowd import Crowd
from pulsering_bench.trace import (
    HOUR_S,
    Event,
    Move,
    Playback,
    busiest_hours,
    load_trace,
    parse_trace,
    playback,
)


def moves_of(play: Playback) -> list[tuple[float, str, Move]]:
    return [
        (float(at), play.names[row], Move(move))
        for at, row, move in zip(play.times, play.movers, play.moves, strict=True)
    ]


def test_the_trace_ships_with_the_package_and_its_numbers_are_those_of_its_readme() -> None:
    events = load_trace()
    assert len(events) == 150_847
    assert len({event.user for event in events}) == 935
    kinds = [event.event for event in events]
    assert [kinds.count(kind) for kind in ("join", "leave", "drop", "say")] == [
        32_356,
        15_257,
        13_878,
        89_356,
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "line 1: expected the heading"),
        (["t,user,event", "x,1,join"], "line 2: expected"),
        (["t,user,event", "1,1,join", "2,1,vanish"], "line 3: expected"),
        (["t,user,event", "9,1,join", "8,1,say"], "line 3: goes back in time"),
    ],
)
def test_a_line_that_is_none_is_named(lines: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_trace(lines)


def test_the_busiest_hours_are_those_of_coming_and_going_not_of_talk() -> None:
    talk = [Event(10, "a", "say")] * 9
    events = [
        *talk,
        Event(HOUR_S, "a", "join"),
        Event(HOUR_S + 60, "a", "leave"),
        Event(2 * HOUR_S, "a", "join"),
    ]
    assert busiest_hours(events, 5) == [1, 2]


def test_who_came_before_the_hour_is_there_when_it_begins() -> None:
    hour = 30 * HOUR_S
    events = [
        Event(hour - 60, "speaks", "say"),
        Event(hour - 120, "stays", "join"),
        Event(hour - 120, "went", "join"),
        Event(hour - 60, "went", "leave"),
        Event(hour - 60, "lost", "drop"),
        Event(hour + 60, "comes", "join"),
    ]
    play = playback(sorted([*events, Event(0, "forgotten", "join")]), [30])
    assert {name for name, there in zip(play.names, play.present, strict=True) if there} == {
        "30/speaks",
        "30/stays",
    }
    assert moves_of(play) == [(60.0, "30/comes", Move.COME)]


def test_holes_in_the_log_move_nobody_twice() -> None:
    events = [
        Event(0, "a", "join"),
        Event(60, "a", "join"),
        Event(120, "a", "say"),
        Event(180, "a", "drop"),
        Event(240, "a", "drop"),
        Event(300, "a", "say"),
        Event(360, "stranger", "leave"),
        Event(420, "stranger", "drop"),
    ]
    assert moves_of(playback(events, [0])) == [
        (0.0, "0/a", Move.COME),
        (180.0, "0/a", Move.DROP),
        (300.0, "0/a", Move.COME),
        (360.0, "0/stranger", Move.LEAVE),
    ]


def test_events_of_one_minute_keep_their_order_within_it() -> None:
    events = [
        Event(60, "a", "join"),
        Event(60, "a", "leave"),
        Event(60, "a", "join"),
        Event(120, "a", "leave"),
    ]
    assert [(at, move) for at, _, move in moves_of(playback(events, [0]))] == [
        (60.0, Move.COME),
        (80.0, Move.LEAVE),
        (100.0, Move.COME),
        (120.0, Move.LEAVE),
    ]


def test_hours_side_by_side_share_nobody() -> None:
    events = [Event(0, "a", "join"), Event(HOUR_S, "a", "leave")]
    play = playback(events, [0, 1])
    assert play.names == ("0/a", "1/a")
    assert list(play.present) == [False, True]


def test_the_real_trace_gives_a_busy_lively_playback() -> None:
    events = load_trace()
    play = playback(events, busiest_hours(events, 48))
    assert len(play.names) == len(set(play.names)) > 300
    assert np.all(np.diff(play.times) >= 0)
    assert 0 <= play.times[0] <= play.times[-1] < HOUR_S
    assert min(np.bincount(play.moves, minlength=3)) > 100


def crowd_of(events: list[Event], seconds: float) -> Crowd:
    return Crowd(playback(events, [30]), seconds, np.random.default_rng(7))


HOUR = 30 * HOUR_S


def test_who_is_there_beats_every_ten_seconds_of_the_traces_time() -> None:
    crowd = crowd_of([Event(HOUR - 60, "a", "join")], seconds=HOUR_S / 10)
    beats = sum(len(crowd.step(step / 10).beats) for step in range(1, 101))
    assert (beats, crowd.there, len(crowd)) == (10, 1, 1)


def test_a_leave_says_goodbye_once_and_a_drop_says_nothing() -> None:
    crowd = crowd_of(
        [
            Event(HOUR - 60, "a", "join"),
            Event(HOUR - 60, "b", "join"),
            Event(HOUR + 60, "a", "leave"),
            Event(HOUR + 60, "b", "drop"),
        ],
        seconds=HOUR_S,
    )
    crowd.step(59.0)
    step = crowd.step(90.0)
    assert (list(step.beats), list(step.goodbyes), crowd.there) == ([], [0], 0)
    assert [len(rows) for rows in crowd.step(200.0)] == [0, 0]


def test_who_leaves_and_comes_back_within_a_step_only_beats() -> None:
    events = [Event(HOUR - 60, "a", "join"), Event(HOUR + 60, "a", "leave"), Event(HOUR + 60, "a", "join")]
    step = crowd_of(events, seconds=HOUR_S).step(120.0)
    assert (list(step.beats), list(step.goodbyes)) == ([0], [])


def test_a_late_step_does_not_beat_twice() -> None:
    crowd = crowd_of([Event(HOUR - 60, "a", "join")], seconds=HOUR_S)
    assert [len(crowd.step(now).beats) for now in (500.0, 500.0, 509.0, 511.0)] == [1, 1, 0, 1]
