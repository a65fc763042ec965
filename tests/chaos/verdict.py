"""What a tour has shown: the histories of all loads and what was promised meanwhile, judged as one.

The judge is that of the simulator (``sim.checker``). Real processes do not know to the microsecond when
something was said, so its tolerance is what the loads measured of themselves; a slow machine makes it wider,
never a right answer wrong. Invariant: a tour passes only if it has read, no answer was wrong, and no node
ended by itself.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

from chaos.doubts import binding, doubtful, promises
from chaos.faults import BEYOND
from sim.checker import Bounds, judge
from sim.checker import Verdict as Judgement
from sim.history import READ, Begin, End, Phase, Record, load

from pulsering import Status

__all__ = ["Happening", "Tour", "document_of", "judged"]

ROUNDING_US: Final = 5_000
"""Frames and tables keep whole milliseconds, a few times over."""
BROKEN_SHOWN: Final = 10


class Happening(NamedTuple):
    """A fault as it came and went."""

    fault: str
    node: str
    began_us: int
    felt_us: int
    """What was to be done to it is done."""
    healed_us: int
    """What was done is undone."""
    settled_us: int
    """All nodes are warm and reached by all, and every write of one ttl has reached all its owners."""
    settled: bool = True
    """False: that was waited for too long; then the next fault is judged more leniently."""
    facts: Mapping[str, Any] = {}
    """What else is known of it."""


class Tour(NamedTuple):
    """All that is known of a tour when it is over."""

    seed: int
    seconds: float
    ttl_ms: int
    ticks: int
    replicas: int
    phases: list[Phase]
    happenings: list[Happening]
    skipped: dict[str, str]
    """Faults that this machine cannot make, and why."""
    facts: dict[str, dict[str, Any]]
    """What each load said in the end."""
    problems: list[str]
    """Of nodes: deaths that nobody asked for, tracebacks."""


def judged(tour: Tour, histories: Iterable[Path]) -> tuple[Judgement, list[Record]]:
    """The verdict on all records, and these in order."""
    streams: list[list[Record]] = []
    for path in histories:
        with path.open(encoding="utf-8") as file:
            streams.append(list(load(file)))
    records = list(heapq.merge(*streams, key=attrgetter("at_us")))
    phases = promises(tour, doubtful(tour, records))
    judged_by = heapq.merge(phases, binding(tour, records), key=attrgetter("at_us"))
    return judge(judged_by, bounds_of(tour)), records


def bounds_of(tour: Tour) -> Bounds:
    """How exactly a node can know what was said when."""
    ttl_us = tour.ttl_ms * 1000
    leak_us = ttl_us * 3 // 1000
    dial_us, gap_us = (max(facts[key] for facts in tour.facts.values()) for key in ("dial_us", "gap_us"))
    return Bounds(
        ttl_us=ttl_us,
        tick_us=-(-ttl_us // tour.ticks),
        late_us=dial_us + gap_us + leak_us + ROUNDING_US,
        early_us=leak_us + ROUNDING_US,
        replicas=tour.replicas,
    )


def document_of(tour: Tour, judgement: Judgement, records: Sequence[Record]) -> dict[str, Any]:
    """What the last line says. ``passed`` is what the exit code says."""
    broken = [violation for violation in judgement.violations if violation.promise != "P6"]
    counts = {promise: sum(one.promise == promise for one in broken) for promise in ("P1", "P2", "P3", "P4")}
    problems = [*tour.problems, *(what for facts in tour.facts.values() for what in facts["problems"])]
    answers = _answers(records)
    by_fault = [_figures(tour, happening, answers) for happening in tour.happenings]
    beyond = [happening for happening in tour.happenings if happening.fault in BEYOND]
    tally, bounds = judgement.tally, bounds_of(tour)
    reads = sum(tally[status.name.lower()] for status in Status)
    passed = not broken and not problems and min(tally["online"], tally["offline"]) > 0
    return {
        "passed": passed,
        "seed": tour.seed,
        "seconds": round(tour.seconds, 1),
        "faults": len(tour.happenings),
        "reads_checked": reads,
        "ghosts": counts["P1"],
        "false_offlines": counts["P2"],
        "dishonest": counts["P3"],
        "misattributed": counts["P4"],
        "unknown_share": _share(tally["unknown"], reads),
        "caller_errors": sum(
            bool(answer.error) and not any(_within(answer, fault) for fault in beyond) for answer in answers
        ),
        "kill_9": _kills(by_fault),
        "settled_bad_share": _share(tally["definite_bad"], tally["definite"]),
        "online": tally["online"],
        "offline": tally["offline"],
        "counts_judged": tally["count"],
        "doubted_s": round(sum(ended - began for began, ended in doubtful(tour, records)) / 1e6, 1),
        "tolerance_ms": {"late": bounds.late_us / 1000, "early": bounds.early_us / 1000},
        "load_lag_ms_max": max((us for us, _ in _lags(tour)), default=0) / 1000,
        "skipped": tour.skipped,
        "problems": problems,
        "broken": [str(violation) for violation in broken[:BROKEN_SHOWN]],
        "by_fault": by_fault,
    }


class _Answer(NamedTuple):
    began_us: int
    ended_us: int
    reads: int
    unknown: int
    error: str


def _answers(records: Iterable[Record]) -> list[_Answer]:
    begins: dict[int, Begin] = {}
    answers = []
    for record in records:
        if isinstance(record, Begin):
            begins[record.call] = record
        elif isinstance(record, End):
            begin = begins.pop(record.call)
            statuses = record.statuses or b""
            reads = len(statuses) if begin.kind == READ else 0
            answers.append(
                _Answer(begin.at_us, record.at_us, reads, statuses.count(Status.UNKNOWN), record.error)
            )
    return answers


def _kills(by_fault: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The worst of all kills: one of three nodes dies under load, and comes back."""
    kills = [figures for figures in by_fault if figures["fault"] == "kill_9"]
    if not kills:
        return {}
    worst = {key: max(kill[key] for kill in kills) for key in ("unknown_share", "bad_until_s")}
    return {"kills": len(kills), "caller_errors": sum(kill["caller_errors"] for kill in kills), **worst}


def _within(answer: _Answer, happening: Happening) -> bool:
    return happening.began_us <= answer.ended_us and answer.began_us < happening.settled_us


def _figures(tour: Tour, happening: Happening, answers: Iterable[_Answer]) -> dict[str, Any]:
    """What callers saw of a fault, from its begin until all was whole again."""
    began_us, until_us = happening.began_us, happening.settled_us
    seen = [answer for answer in answers if _within(answer, happening)]
    reads, unknown = sum(answer.reads for answer in seen), sum(answer.unknown for answer in seen)
    bad_us = [answer.ended_us for answer in seen if answer.unknown or answer.error]
    errors = [answer.error for answer in seen if answer.error]
    figures: dict[str, Any] = {
        "fault": happening.fault,
        "node": happening.node,
        **happening.facts,
        "held_s": (happening.healed_us - began_us) / 1e6,
        "settled_s": (until_us - happening.healed_us) / 1e6,
        "reads": reads,
        "unknown": unknown,
        "unknown_share": _share(unknown, reads),
        "bad_until_s": (max(bad_us) - began_us) / 1e6 if bad_us else 0.0,
        "caller_errors": len(errors),
        "call_ms_p99": _p99_ms(seen),
        "load_lag_ms": max((us for us, at in _lags(tour) if began_us <= at < until_us), default=0) / 1000,
    }
    if errors:
        figures["first_error"] = errors[0]
    if not happening.settled:
        figures["settled"] = False
    return figures


def _p99_ms(answers: Sequence[_Answer]) -> float:
    took_us = sorted(answer.ended_us - answer.began_us for answer in answers)
    return took_us[len(took_us) * 99 // 100] / 1000 if took_us else 0.0


def _lags(tour: Tour) -> Iterable[tuple[int, int]]:
    return ((lag_us, at_us) for facts in tour.facts.values() for at_us, lag_us in facts["lags"])


def _share(part: int, whole: int) -> float:
    return round(part / whole, 7) if whole else 0.0
