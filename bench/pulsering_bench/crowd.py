"""The people of the recorded trace, played faster than life: who beats, comes and goes at each step.

A ``Playback`` says when somebody comes, leaves or drops; between those moments whoever is there beats
once an interval of the trace's own time. Its hour is pressed into as many seconds as the player has.
Nothing here sends. Pure: time is passed in, seconds since the playback began. Invariant: no row is in
both lists of one ``Step``.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from pulsering_bench.population import Rows, Step
from pulsering_bench.trace import HOUR_S, Move, Playback

BEAT_S: Final = 10.0
"""A device's heartbeat interval, in the trace's time."""


@dataclass
class Crowd:
    """Rows 0..len(names)-1 of a playback, its hour pressed into ``seconds``."""

    playback: Playback
    seconds: float
    rng: np.random.Generator

    def __post_init__(self) -> None:
        """Begin with those present, at phases spread over one interval."""
        self.speed = HOUR_S / self.seconds
        self._interval = BEAT_S / self.speed
        self._times = self.playback.times / self.speed
        self._next_move = 0
        phases = self.rng.random(len(self.playback.names)) * self._interval
        self._due = np.where(self.playback.present, phases, np.inf)

    def __len__(self) -> int:
        """Return how many people the playback has, there or not."""
        return len(self.playback.names)

    @property
    def there(self) -> int:
        """How many are there now."""
        return int(np.count_nonzero(np.isfinite(self._due)))

    def step(self, now: float) -> Step:
        """Play everything up to ``now``: the moves, then the beats that are due."""
        last = int(np.searchsorted(self._times, now, side="right"))
        goodbyes: dict[int, None] = {}
        for place in range(self._next_move, last):
            row, move = int(self.playback.movers[place]), self.playback.moves[place]
            self._due[row] = now if move == Move.COME else np.inf
            if move == Move.LEAVE:
                goodbyes[row] = None
            else:
                goodbyes.pop(row, None)
        self._next_move = last
        beats: Rows = np.flatnonzero(self._due <= now)
        # Whoever is late skips what it missed: a device that slept does not beat twice on waking.
        self._due[beats] = np.maximum(self._due[beats] + self._interval, now)
        return Step(beats, np.array(list(goodbyes), dtype=np.int64))
