"""How long nineteen of twenty answers take: the moment from which a read is slow enough to hedge.

Keeps the last answers' times in a ring and looks at their order once in a while, so an answer costs one
store. Pure: times are passed in. Invariant: the estimate is a time that an answer among the last ``KEPT``
took.
"""

from typing import Final

__all__ = ["Percentile95"]

KEPT: Final = 200
"""Answers looked back on: ten above the 95th percentile."""

RENEWED_EVERY: Final = 50
"""Answers between two looks, and before the first."""


class Percentile95:
    """The 95th percentile of recent times, in seconds; ``value`` is None until there are enough."""

    def __init__(self) -> None:
        self.value: float | None = None
        self._times: list[float] = []
        self._next = 0

    def record(self, seconds: float) -> None:
        """An answer took so long."""
        if len(self._times) < KEPT:
            self._times.append(seconds)
        else:
            self._times[self._next % KEPT] = seconds
        self._next += 1
        if self._next % RENEWED_EVERY == 0:
            self.value = sorted(self._times)[len(self._times) * 95 // 100]
