"""Where a slow machine is a second fault the judge is lenient, and nowhere else."""

from pathlib import Path
from typing import Any

import pytest
from chaos.verdict import Happening, Tour, document_of, judged
from sim.history import BEAT, READ, Begin, End, Phase, Record, dump

from pulsering import Status

SECOND = 1_000_000
USERS = (1, 2)
FAULT = Happening("stall", "b", 10 * SECOND, round(10.2 * SECOND), 12 * SECOND, 14 * SECOND)


def beat(number: int, at_s: float, copies: int, took_s: float = 0.01) -> list[Record]:
    at_us = round(at_s * SECOND)
    return [Begin(at_us, number, BEAT, USERS), End(at_us + round(took_s * SECOND), number, copies=copies)]


def offline(number: int, at_s: float) -> list[Record]:
    at_us = round(at_s * SECOND)
    return [
        Begin(at_us, number, READ, USERS),
        End(at_us + 10_000, number, statuses=bytes([Status.OFFLINE] * len(USERS))),
    ]


def false_offlines(
    records: list[Record], tmp_path: Path, unreached: tuple[tuple[float, float, list[str]], ...] = ()
) -> int:
    """How many are found, of two users each, in a tour with one fault of b from 10 s to 14 s."""
    history = tmp_path / "history.jsonl"
    with history.open("w", encoding="utf-8") as file:
        dump(sorted(records, key=lambda record: record.at_us), file)
    spans = [(round(began * SECOND), round(ended * SECOND), names) for began, ended, names in unreached]
    facts: dict[str, Any] = {"gap_us": 0, "dial_us": 0, "problems": [], "unreached": spans, "lags": []}
    phases = [Phase(0, 1, 2, leaves=True, why="settled"), Phase(FAULT.began_us, 1, 0, leaves=True)]
    tour = Tour(1, 20.0, 2_000, 80, 2, phases, [FAULT], {}, {"web": facts}, [])
    found: int = document_of(tour, *judged(tour, [history]))["false_offlines"]
    return found


@pytest.mark.parametrize("copies", [1, 2])
def test_what_one_owner_took_counts_while_there_is_one_fault(copies: int, tmp_path: Path) -> None:
    calls = [*beat(1, 11, copies), *offline(2, 11.5)]
    assert false_offlines(calls, tmp_path) == 2
    assert false_offlines(calls, tmp_path, ((11.4, 11.6, ["b"]),)) == 2, "it is the fault"


def test_while_another_node_is_out_of_reach_only_what_all_owners_took_does(tmp_path: Path) -> None:
    span = ((10.9, 11.6, ["b", "c"]),)
    assert false_offlines([*beat(1, 11, 1), *offline(2, 11.5)], tmp_path, span) == 0
    assert false_offlines([*beat(1, 11, 2), *offline(2, 11.5)], tmp_path, span) == 2


def test_spans_that_overlap_are_one_and_when_it_is_over_all_is_as_before(tmp_path: Path) -> None:
    spans = ((10.5, 11.0, ["c"]), (10.8, 11.6, ["a"]), (10.9, 11.1, ["c"]))
    assert false_offlines([*beat(1, 10.9, 1), *offline(2, 11.2)], tmp_path, spans) == 0
    assert false_offlines([*beat(1, 11.7, 1), *offline(2, 12.2)], tmp_path, spans) == 2


def test_no_fault_is_no_reason_for_a_node_to_be_out_of_reach(tmp_path: Path) -> None:
    calls = [*beat(1, 15.1, 1), *offline(2, 15.5)]
    assert false_offlines(calls, tmp_path) == 2
    assert false_offlines(calls, tmp_path, ((15.4, 15.6, ["b"]),)) == 0


def test_a_fault_that_began_with_heartbeats_on_one_owner_is_judged_by_those_on_all(tmp_path: Path) -> None:
    missed = beat(1, 9.9, 1)
    assert false_offlines([*missed, *offline(2, 10.5)], tmp_path) == 0
    assert false_offlines([*missed, *beat(3, 11, 2), *offline(4, 11.5)], tmp_path) == 2
    assert false_offlines([*beat(1, 7.8, 1), *beat(2, 9.9, 2), *offline(3, 10.5)], tmp_path) == 2, "long ago"


def test_what_the_victim_alone_took_as_it_fell_does_not_bind(tmp_path: Path) -> None:
    assert false_offlines([*beat(1, 9.99, 1, took_s=0.1), *offline(2, 10.5)], tmp_path) == 0
    assert false_offlines([*beat(1, 10.1, 1), *offline(2, 10.5)], tmp_path) == 0
    assert false_offlines([*beat(1, 10.3, 1), *offline(2, 10.5)], tmp_path) == 2
