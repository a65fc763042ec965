"""What is true about every user, known from what the generator sent and never from what the service
answered.

For each user (a row) two instants bound what any heartbeat could have told the service, and two what any
goodbye could: the latest moment at which one may still have been sent, and the latest start of one that
was acknowledged. A read that ran in [start, end] is then judged:

- ONLINE is a **ghost** if whatever was sent, was sent before ``start - ttl - tick - ROUNDING_S``; or if a
  goodbye was acknowledged before ``start`` and every heartbeat was over before that goodbye began.
- OFFLINE is a **false offline** if a heartbeat, acknowledged before ``start``, was sent after ``end - ttl
  + ROUNDING_S`` and no goodbye can have been sent after it.
- UNKNOWN is counted and never wrong.

Each instant is taken on the side that favours the service: a call that failed may have been sent until it
ended, a call in flight may be sent at any time. So a wrong answer found here is wrong beyond doubt.
Between the two rules lies what the generator cannot decide (a call in flight, the tick in which somebody
expires); it is counted too, so that a verdict shows how much it rests on.

Numpy throughout: six arrays, 34 bytes a user, a few array operations a call. Pure: the caller passes the
time, seconds of one monotonic clock.
"""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Seconds = NDArray[np.float64]

OFFLINE: Final = 0
ONLINE: Final = 1
UNKNOWN: Final = 2

ROUNDING_S: Final = 0.002
"""Frames carry whole milliseconds and nodes keep whole milliseconds: each may move a heartbeat by one."""

EXAMPLES_MAX: Final = 10
"""Wrong answers kept in full, for whoever has to find out why."""

_NEVER: Final = -np.inf


class Wrong(NamedTuple):
    """One wrong answer: times in seconds relative to the read's start (None: there was none)."""

    kind: str
    row: int
    took_s: float
    last_heartbeat_s: float | None
    acknowledged_s: float | None
    goodbye_s: float | None

    def __str__(self) -> str:
        """Return the answer and what was known, for the log."""

        def ago(seconds: float | None) -> str:
            return "never" if seconds is None else f"{-seconds:.3f} s before"

        return (
            f"{self.kind}: row {self.row}, read took {self.took_s * 1000:.1f} ms; last heartbeat ended "
            f"{ago(self.last_heartbeat_s)}, last acknowledged one began {ago(self.acknowledged_s)}, "
            f"last acknowledged goodbye began {ago(self.goodbye_s)}"
        )


@dataclass
class Tally:
    """What all reads so far add up to; one count a key, not a call."""

    reads_checked: int = 0
    online: int = 0
    offline: int = 0
    unknown: int = 0
    ghosts: int = 0
    false_offlines: int = 0
    undecided: int = 0
    """Definite answers of which either would have been right."""
    examples: list[Wrong] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        """Ghosts and false offlines."""
        return self.ghosts + self.false_offlines


@dataclass(frozen=True)
class Read:
    """A read under way, with what was acknowledged before it began."""

    rows: Rows
    start: float
    confirmed: Seconds
    goodbye: Seconds


class Truth:
    """The record of what was sent for each of ``rows`` users."""

    def __init__(self, rows: int, *, ttl: float, tick: float) -> None:
        """Know nothing yet: nobody was ever heard of. ``ttl`` and ``tick`` are the service's, in seconds."""
        self.ttl = ttl
        self.tick = tick
        self.tally = Tally()
        self._beating = np.zeros(rows, dtype=np.uint8)
        self._beat_over = np.full(rows, _NEVER)
        self._beat_confirmed = np.full(rows, _NEVER)
        self._leaving = np.zeros(rows, dtype=np.uint8)
        self._leave_over = np.full(rows, _NEVER)
        self._leave_confirmed = np.full(rows, _NEVER)

    def __len__(self) -> int:
        """Return the number of users."""
        return len(self._beat_over)

    def heartbeat_begins(self, rows: Rows) -> None:
        """Note that a heartbeat call for ``rows`` (each once) is about to be made."""
        self._beating[rows] += 1

    def heartbeat_ends(
        self, rows: Rows, began: float, now: float, acknowledged: bool | NDArray[np.bool_]
    ) -> None:
        """Note that the call begun at ``began`` is over, for which rows with an acknowledgement."""
        self._beating[rows] -= 1
        self._beat_over[rows] = np.maximum(self._beat_over[rows], now)
        confirmed = _those(rows, acknowledged)
        self._beat_confirmed[confirmed] = np.maximum(self._beat_confirmed[confirmed], began)

    def leave_begins(self, rows: Rows) -> None:
        """Note that a goodbye for ``rows`` (each once) is about to be said."""
        self._leaving[rows] += 1

    def leave_ends(
        self, rows: Rows, began: float, now: float, acknowledged: bool | NDArray[np.bool_]
    ) -> None:
        """Note that the goodbye begun at ``began`` is over, for which rows with an acknowledgement."""
        self._leaving[rows] -= 1
        self._leave_over[rows] = np.maximum(self._leave_over[rows], now)
        confirmed = _those(rows, acknowledged)
        self._leave_confirmed[confirmed] = np.maximum(self._leave_confirmed[confirmed], began)

    def read_begins(self, rows: Rows, now: float) -> Read:
        """Remember what was acknowledged before this read; hand the result to ``read_ends``."""
        return Read(rows, now, self._beat_confirmed[rows], self._leave_confirmed[rows])

    def read_ends(self, read: Read, now: float, statuses: NDArray[np.uint8]) -> int:
        """Judge the answers, one of ``Status`` a row; return how many were wrong."""
        if len(statuses) != len(read.rows):
            raise ValueError(f"{len(read.rows)} rows were read, {len(statuses)} answers came")
        must_be_offline, must_be_online = self._decided(read, now)
        ghosts = (statuses == ONLINE) & must_be_offline
        false_offlines = (statuses == OFFLINE) & must_be_online
        tally = self.tally
        online, offline = (int(np.count_nonzero(statuses == status)) for status in (ONLINE, OFFLINE))
        tally.reads_checked += len(statuses)
        tally.online += online
        tally.offline += offline
        tally.unknown += len(statuses) - online - offline
        tally.undecided += int(np.count_nonzero(~(must_be_offline | must_be_online) & (statuses != UNKNOWN)))
        wrong = 0
        for kind, found in (("ghost", ghosts), ("false offline", false_offlines)):
            count = int(np.count_nonzero(found))
            if count:
                self._keep_examples(kind, read, now, np.flatnonzero(found))
                wrong += count
        tally.ghosts += int(np.count_nonzero(ghosts))
        tally.false_offlines += int(np.count_nonzero(false_offlines))
        return wrong

    def online_between(self, now: float, rows: slice = slice(None)) -> tuple[int, int]:
        """Return the least and the most users of ``rows`` who can be online now."""
        over = np.where(self._beating[rows] > 0, np.inf, self._beat_over[rows])
        last_goodbye = np.where(self._leaving[rows] > 0, np.inf, self._leave_over[rows])
        confirmed = self._beat_confirmed[rows]
        surely = (confirmed > now - self.ttl + ROUNDING_S) & (last_goodbye < confirmed)
        gone = (over < now - self.ttl - self.tick - ROUNDING_S) | (over < self._leave_confirmed[rows])
        return int(np.count_nonzero(surely)), int(np.count_nonzero(~gone))

    def _decided(self, read: Read, now: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which of the read's rows must not have been online, and which not offline."""
        rows = read.rows
        over = np.where(self._beating[rows] > 0, np.inf, self._beat_over[rows])
        last_goodbye = np.where(self._leaving[rows] > 0, np.inf, self._leave_over[rows])
        expired = over < read.start - self.ttl - self.tick - ROUNDING_S
        said_goodbye = over < read.goodbye
        alive = (read.confirmed > now - self.ttl + ROUNDING_S) & (last_goodbye < read.confirmed)
        return expired | said_goodbye, alive

    def _keep_examples(self, kind: str, read: Read, now: float, places: Rows) -> None:
        def since_start(value: float) -> float | None:
            return float(value - read.start) if np.isfinite(value) else None

        for place in places[: EXAMPLES_MAX - len(self.tally.examples)]:
            row = int(read.rows[place])
            self.tally.examples.append(
                Wrong(
                    kind,
                    row,
                    now - read.start,
                    since_start(self._beat_over[row]),
                    since_start(read.confirmed[place]),
                    since_start(read.goodbye[place]),
                )
            )


def _those(rows: Rows, acknowledged: bool | NDArray[np.bool_]) -> Rows:
    if isinstance(acknowledged, np.ndarray):
        return rows[acknowledged]
    return rows if acknowledged else rows[:0]
