"""A population of synthetic users, each beating once an interval, some of them coming and going.

Rows are cut into slices, one for each step of the interval, so that beats are spread evenly and a step
touches one contiguous range. In its turn a user who is there beats, or falls silent for good; a quarter
of an interval after its beat it may say goodbye, while most of its ttl is still ahead; who is away may
come back in its turn. The rates are such that the share of those who are there stays what it is at the
start.

``sample`` draws what readers ask: anybody, strangers who never were, and with preference those whose
answer is about to change: just gone, just back, and silent for almost exactly one ttl. Nothing here sends
or knows what was answered. Pure: time is passed in, randomness comes from a seed. Invariant: no row is in
two lists of one ``Step``.
"""

from collections import deque
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]

SILENT_SHARE: Final = 0.02
"""Of those whose turn it is: how many fall silent instead."""
LEAVE_SHARE: Final = 0.02
"""Of those who beat: how many say goodbye a quarter of an interval later."""
RETURN_SHARE: Final = 0.2
"""Of those who are away: how many come back in their turn."""
_STAY: Final = 1 - LEAVE_SHARE
PRESENT_SHARE: Final = RETURN_SHARE / (1 - _STAY * (1 - SILENT_SHARE) + RETURN_SHARE * _STAY)
"""Who beats in an interval where the rates balance: x = x*stay*(1 - silent) + (1 - x*stay)*return."""
STRANGER_SHARE: Final = 0.02
"""Rows beyond the people: ids that readers ask for and nobody ever had."""

_RECENT_STEPS: Final = 64
_EDGE_S: Final = 0.5


class Step(NamedTuple):
    """What one step of the generator sends: rows that beat, and rows that say goodbye."""

    beats: Rows
    goodbyes: Rows


class Population:
    """``users`` beating users on average, from row ``first`` on, and the strangers after them."""

    def __init__(self, users: int, steps: int, *, first: int, rng: np.random.Generator) -> None:
        """Spread the people over ``steps`` steps an interval; ``rng`` is used by nobody else."""
        self.people = round(users / PRESENT_SHARE)
        self.strangers = max(1, round(users * STRANGER_SHARE))
        self.first = first
        self.steps = steps
        self._rng = rng
        self._there = rng.random(self.people) < PRESENT_SHARE
        self._bounds = np.linspace(0, self.people, steps + 1).astype(np.int64)
        self._changed: deque[Rows] = deque(maxlen=_RECENT_STEPS)
        self._silent: deque[tuple[float, Rows]] = deque()

    @property
    def rows(self) -> int:
        """Rows in all, strangers included."""
        return self.people + self.strangers

    def step(self, index: int, last_turn: float) -> Step:
        """Play step ``index``, counted on without end; ``last_turn`` is when its slice last had its turn."""
        low, high = self._slice(index)
        there = self._there[low:high]
        draw = self._rng.random(high - low)
        settled = index >= self.steps  # in the first interval everybody who is there beats a first time
        silent = there & (draw < SILENT_SHARE) & settled
        back = ~there & (draw < RETURN_SHARE) & settled
        there ^= silent | back
        beats = np.flatnonzero(there) + low
        self._remember(np.flatnonzero(back) + low)
        if silent.any():
            self._silent.append((last_turn, np.flatnonzero(silent) + low))
        goodbyes = self._goodbyes(index - self.steps // 4)
        return Step(beats + self.first, goodbyes + self.first)

    def sample(self, count: int, now: float, ttl: float) -> Rows:
        """Draw ``count`` rows to read, duplicates allowed, as a page of users would have them."""
        edge = self._take(self._at_the_edge(now - ttl), count // 10)
        changed = self._take(list(self._changed), count // 10)
        strangers = self._rng.integers(self.people, self.rows, count // 20)
        anybody = self._rng.integers(0, self.people, count - len(edge) - len(changed) - len(strangers))
        rows: Rows = np.concatenate([edge, changed, strangers, anybody]) + self.first
        self._rng.shuffle(rows)
        return rows

    def _slice(self, index: int) -> tuple[int, int]:
        turn = index % self.steps
        return int(self._bounds[turn]), int(self._bounds[turn + 1])

    def _goodbyes(self, index: int) -> Rows:
        if index < 0:
            return np.empty(0, dtype=np.int64)
        low, high = self._slice(index)
        leaving = self._there[low:high] & (self._rng.random(high - low) < LEAVE_SHARE)
        self._there[low:high] &= ~leaving
        goodbyes: Rows = np.flatnonzero(leaving) + low
        self._remember(goodbyes)
        return goodbyes

    def _remember(self, rows: Rows) -> None:
        if len(rows):
            self._changed.append(rows)

    def _at_the_edge(self, expiring: float) -> list[Rows]:
        """Return those whose last beat was sent within half a second of ``expiring``."""
        while self._silent and self._silent[0][0] < expiring - _EDGE_S:
            self._silent.popleft()
        return [rows for at, rows in self._silent if at < expiring + _EDGE_S]

    def _take(self, chunks: list[Rows], count: int) -> Rows:
        if not chunks or not count:
            return np.empty(0, dtype=np.int64)
        pool = np.concatenate(chunks)
        return pool[self._rng.integers(0, len(pool), count)]
