"""Where a slow machine was a second fault, and less is promised.

Two things are not promised once more than ``replicas`` - 1 owners of a user are in trouble: that a heartbeat
which one owner took outlives that owner, and that a reader who reaches only an owner without it hears of it.
A machine that has too little time makes such trouble by itself, beside the fault of the tour. From what the
loads noted it is known when:

- a node other than the victim was out of a load's reach during a read (not connected, or set apart by its
  circuit): *offline* is judged then by heartbeats that all owners took;
- a write just before a fault reached fewer than all owners: that fault is judged so throughout;
- a write was under way as a fault began, and one owner took it: it may have been the victim. It does not
  bind.

Invariant: nothing here can make an answer wrong that the checker would have called right.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from sim.history import BEAT, Begin, End, Phase, Record

if TYPE_CHECKING:
    from chaos.verdict import Happening, Tour

__all__ = ["binding", "doubtful", "promises"]

REDUCED_TTLS: Final = 1.05
"""A heartbeat that one owner has is of no use any more after so long."""


def doubtful(tour: "Tour", records: Iterable[Record]) -> list[tuple[int, int]]:
    """When there was more than the fault of the tour: disjoint spans in order, both ends included."""
    spans = [
        (began_us, ended_us)
        for facts in tour.facts.values()
        for began_us, ended_us, names in facts["unreached"]
        if not set(names) <= _victims(tour.happenings, began_us, ended_us)
    ]
    beats = list(_beats(records))
    spans += [
        (_phase_at(tour.phases, happening.began_us).at_us, happening.settled_us)
        for happening in tour.happenings
        if _is_strained(tour, happening, beats)
    ]
    merged: list[tuple[int, int]] = []
    for began_us, ended_us in sorted(spans):
        if merged and began_us <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], ended_us)
        else:
            merged.append((began_us, ended_us))
    return merged


def promises(tour: "Tour", spans: Sequence[tuple[int, int]]) -> list[Phase]:
    """The tour's phases, and where there is doubt only what all owners took."""
    times_us = {phase.at_us for phase in tour.phases}
    times_us |= {began_us for began_us, _ in spans} | {ended_us + 1 for _, ended_us in spans}
    phases = []
    for at_us in sorted(times_us):
        phase = _phase_at(tour.phases, at_us)._replace(at_us=at_us)
        if phase.copies and any(began_us <= at_us <= ended_us for began_us, ended_us in spans):
            phase = phase._replace(copies=tour.replicas, definite=0)
        phases.append(phase)
    return phases


def _victims(happenings: Iterable["Happening"], began_us: int, ended_us: int) -> set[str]:
    """The node that may be out of reach all the while."""
    return {
        happening.node
        for happening in happenings
        if happening.began_us <= began_us and ended_us < happening.settled_us
    }


def _phase_at(phases: Iterable[Phase], at_us: int) -> Phase:
    return max((phase for phase in phases if phase.at_us <= at_us), key=lambda phase: phase.at_us)


def _is_strained(tour: "Tour", happening: "Happening", beats: Iterable[tuple[Begin, End]]) -> bool:
    """Whether a heartbeat that may still count had reached fewer than all owners when a fault began."""
    since_us = happening.began_us - round(REDUCED_TTLS * tour.ttl_ms * 1000)
    return any(
        since_us <= begin.at_us and end.at_us < happening.began_us and end.copies < tour.replicas
        for begin, end in beats
    )


def _beats(records: Iterable[Record]) -> Iterator[tuple[Begin, End]]:
    """Heartbeats of many and how they ended; of those for one nobody is told how many owners took them."""
    begins: dict[int, Begin] = {}
    for record in records:
        if isinstance(record, Begin) and record.kind == BEAT and len(record.users) > 1:
            begins[record.call] = record
        elif isinstance(record, End) and record.call in begins:
            yield begins.pop(record.call), record


def binding(tour: "Tour", records: Iterable[Record]) -> Iterator[Record]:
    """The records, with no acknowledgement by a single owner that was dying as it gave it."""
    begins: dict[int, int] = {}
    for record in records:
        if isinstance(record, Begin) and record.kind == BEAT:
            begins[record.call] = record.at_us
        elif isinstance(record, End) and record.call in begins:
            began_us = begins.pop(record.call)
            if record.copies < tour.replicas and any(
                began_us <= one.felt_us and record.at_us >= one.began_us for one in tour.happenings
            ):
                yield record._replace(copies=0)
                continue
        yield record
