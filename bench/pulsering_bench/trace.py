"""The recorded trace: who came, went and fell silent in one public chat channel over nine years.

``data/irc-channel.csv.gz`` (its source and licence stand in ``data/README.md``) is cut into its busiest
hours, and these are played side by side, each with people of its own, so that a demo of seconds sees the
traffic of days. A real log has holes: joins without a departure, departures without a join, people who
only ever speak. So presence is decided by evidence: who joins or speaks is there until a ``leave`` or
``drop``, or until the log has been silent about them for a day.

Pure: events in, a ``Playback`` of flat arrays out. Invariant: a playback's moves are in time order, and a
person's moves alternate: nobody comes who is there. Who was never seen may still say goodbye.
"""

import csv
import gzip
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from importlib import resources
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

HOUR_S: Final = 3600
FORGOTTEN_AFTER_S: Final = 24 * HOUR_S
"""Silence in the log after which somebody is taken to have left unseen."""

EVENTS: Final = ("join", "leave", "drop", "say")


class Event(NamedTuple):
    """One line of the log: seconds from its first midnight (whole minutes), who, and what happened."""

    t: int
    user: str
    event: str


class Move(IntEnum):
    """What a person does in a playback."""

    COME = 0
    """Starts beating."""
    LEAVE = 1
    """Says goodbye and stops."""
    DROP = 2
    """Falls silent: no goodbye, the link died."""


@dataclass(frozen=True)
class Playback:
    """Hours played side by side. Persons are rows 0..n-1; times are seconds from the hour's start."""

    names: tuple[str, ...]
    """A person's id, unique over all hours: ``<hour>/<user>``."""
    present: NDArray[np.bool_]
    """Who is there when the hour begins."""
    times: NDArray[np.float64]
    """When each move happens, ascending, 0..3600."""
    movers: NDArray[np.int64]
    """The row that moves."""
    moves: NDArray[np.uint8]
    """The ``Move``."""
    hours: tuple[int, ...]
    """Which hours of the log these are, counted from its first midnight."""


def load_trace() -> list[Event]:
    """Read the log that ships with the package."""
    packed = resources.files("pulsering_bench").joinpath("data/irc-channel.csv.gz").read_bytes()
    return parse_trace(gzip.decompress(packed).decode("ascii").splitlines())


def parse_trace(lines: Iterable[str]) -> list[Event]:
    """Read the lines of a log, heading included; ``ValueError`` names the first that is not one."""
    rows = csv.reader(lines)
    if next(rows, None) != ["t", "user", "event"]:
        raise ValueError("line 1: expected the heading 't,user,event'")
    events: list[Event] = []
    for number, row in enumerate(rows, 2):
        if len(row) != 3 or not row[0].isdigit() or row[2] not in EVENTS:
            raise ValueError(
                f"line {number}: expected 'seconds,user,{'|'.join(EVENTS)}', not {','.join(row)!r}"
            )
        if events and int(row[0]) < events[-1].t:
            raise ValueError(f"line {number}: goes back in time")
        events.append(Event(int(row[0]), row[1], row[2]))
    return events


def busiest_hours(events: Iterable[Event], count: int) -> list[int]:
    """Return the hours with the most coming and going, busiest first; talk alone moves nobody."""
    moves = Counter(event.t // HOUR_S for event in events if event.event != "say")
    return [hour for hour, _ in sorted(moves.items(), key=lambda item: (-item[1], item[0]))[:count]]


def playback(events: Sequence[Event], hours: Sequence[int]) -> Playback:
    """Cut ``hours`` out of the log and lay them side by side."""
    names: list[str] = []
    present: list[bool] = []
    moves: list[tuple[float, int, Move]] = []
    for hour in hours:
        first = len(names)
        there, timed = _one_hour(events, hour)
        people = sorted(there | {user for _, user, _ in timed})
        rows = {user: first + index for index, user in enumerate(people)}
        names += [f"{hour}/{user}" for user in people]
        present += [user in there for user in people]
        moves += [(at, rows[user], move) for at, user, move in timed]
    moves.sort(key=lambda item: item[0])
    return Playback(
        names=tuple(names),
        present=np.array(present, dtype=np.bool_),
        times=np.array([at for at, _, _ in moves], dtype=np.float64),
        movers=np.array([row for _, row, _ in moves], dtype=np.int64),
        moves=np.array([move for _, _, move in moves], dtype=np.uint8),
        hours=tuple(hours),
    )


def _one_hour(events: Sequence[Event], hour: int) -> tuple[set[str], list[tuple[float, str, Move]]]:
    """Return who is there at the hour's start, and its moves."""
    start, stop = hour * HOUR_S, (hour + 1) * HOUR_S
    there: set[str] = set()
    first, begin, end = (
        bisect_left(events, at, key=lambda event: event.t) for at in (start - FORGOTTEN_AFTER_S, start, stop)
    )
    for event in events[first:begin]:
        _apply(there, event)
    moves: list[tuple[float, str, Move]] = []
    now = set(there)
    inside = events[begin:end]
    for at, event in zip(_spread([event.t - start for event in inside]), inside, strict=True):
        move = _apply(now, event)
        if move is not None:
            moves.append((at, event.user, move))
    return there, moves


def _apply(there: set[str], event: Event) -> Move | None:
    """Move one person in or out; None if the log says nothing new."""
    if event.event in ("join", "say"):
        if event.user in there:
            return None
        there.add(event.user)
        return Move.COME
    was_there = event.user in there
    there.discard(event.user)
    if event.event == "leave":
        return Move.LEAVE
    return Move.DROP if was_there else None


def _spread(minutes: Sequence[int]) -> list[float]:
    """Spread the events of one minute, which the log holds no finer, evenly over it, in their order."""
    count = Counter(minutes)
    seen: Counter[int] = Counter()
    times = []
    for minute in minutes:
        times.append(minute + 60 * seen[minute] / count[minute])
        seen[minute] += 1
    return times
