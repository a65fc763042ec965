"""The verdict on histories made by hand: what passes, what does not, and what a slow machine is allowed."""

from pathlib import Path
from typing import Any

import pytest
from chaos.verdict import Happening, Tour, document_of, judged
from sim.history import BEAT, READ, Begin, End, Phase, Record, dump

from pulsering import Status

SECOND = 1_000_000
TTL_MS = 2_000
OFFLINE, ONLINE, UNKNOWN = (bytes([status]) for status in (Status.OFFLINE, Status.ONLINE, Status.UNKNOWN))


def call(number: int, kind: str, at_s: float, answer: bytes = b"", *, error: str = "") -> list[Record]:
    """A call about user 1 that takes a tenth of a second."""
    begin = Begin(round(at_s * SECOND), number, kind, (1,))
    ended_us = begin.at_us + SECOND // 10
    if error:
        return [begin, End(ended_us, number, error=error)]
    return [begin, End(ended_us, number, copies=2 if kind == BEAT else 0, statuses=answer or None)]


RIGHT = [
    *call(1, BEAT, 10),
    *call(2, READ, 11, ONLINE),
    *call(3, READ, 15, OFFLINE),
]


def verdict_on(records: list[Record], tmp_path: Path, **of_load: Any) -> dict[str, Any]:
    """What is said of a tour with one load, and a fault from 10 to 12 that was settled at 14."""
    history = tmp_path / "history.jsonl"
    with history.open("w", encoding="utf-8") as file:
        dump(sorted(records, key=lambda record: record.at_us), file)
    facts = {
        "gap_us": 100,
        "dial_us": 2_000,
        "problems": [],
        "unreached": [],
        "lags": [(11 * SECOND, 30_000)],
        **of_load,
    }
    happening = Happening("stall", "b", 10 * SECOND, 10 * SECOND, 12 * SECOND, 14 * SECOND)
    phases = [Phase(0, 1, 0, leaves=True)]
    tour = Tour(5, 20.0, TTL_MS, 80, 2, phases, [happening], {}, {"web": facts}, [])
    return document_of(tour, *judged(tour, [history]))


def test_right_answers_pass(tmp_path: Path) -> None:
    verdict = verdict_on(RIGHT, tmp_path)
    assert verdict["passed"]
    assert (verdict["reads_checked"], verdict["faults"], verdict["seed"]) == (2, 1, 5)
    assert (verdict["ghosts"], verdict["false_offlines"], verdict["caller_errors"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (call(9, READ, 13, ONLINE), "ghosts"),
        (call(9, READ, 11, OFFLINE), "false_offlines"),
        (call(9, READ, 11, b"\x07"), "dishonest"),
        (call(9, READ, 11, ONLINE * 2), "misattributed"),
    ],
)
def test_one_wrong_answer_does_not(wrong: list[Record], what: str, tmp_path: Path) -> None:
    verdict = verdict_on(RIGHT + wrong, tmp_path)
    assert not verdict["passed"]
    assert verdict[what] == 1
    assert len(verdict["broken"]) == 1


def test_a_tour_that_saw_nothing_proves_nothing(tmp_path: Path) -> None:
    assert not verdict_on([], tmp_path)["passed"]
    assert not verdict_on(call(1, READ, 10, OFFLINE), tmp_path)["passed"]


def test_what_a_load_says_went_wrong_is_a_failure(tmp_path: Path) -> None:
    verdict = verdict_on(RIGHT, tmp_path, problems=["a call raised KeyError(3)"])
    assert not verdict["passed"]
    assert verdict["problems"] == ["a call raised KeyError(3)"]


@pytest.mark.parametrize("slow", [{"gap_us": 700_000}, {"dial_us": 700_000}])
def test_a_slow_machine_widens_the_tolerance(slow: dict[str, int], tmp_path: Path) -> None:
    late = RIGHT + call(9, READ, 12.6, ONLINE)
    assert verdict_on(late, tmp_path)["ghosts"] == 1
    verdict = verdict_on(late, tmp_path, **slow)
    assert verdict["passed"]
    assert verdict["tolerance_ms"]["late"] > 700


def test_a_fault_is_charged_with_what_callers_saw_until_all_was_whole(tmp_path: Path) -> None:
    calls = [
        *call(4, READ, 9, UNKNOWN),
        *call(5, READ, 11.5, UNKNOWN),
        *call(6, BEAT, 13, error="CallTimeout: 0.25 s"),
        *call(7, READ, 14.5, UNKNOWN),
    ]
    (figures,) = verdict_on(RIGHT + calls, tmp_path)["by_fault"]
    assert (figures["held_s"], figures["settled_s"]) == (2, 2)
    assert (figures["reads"], figures["unknown"], figures["unknown_share"]) == (2, 1, 0.5)
    assert (figures["caller_errors"], figures["first_error"]) == (1, "CallTimeout: 0.25 s")
    assert figures["bad_until_s"] == pytest.approx(3.1)
    assert figures["load_lag_ms"] == 30
