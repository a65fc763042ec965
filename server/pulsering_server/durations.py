"""How long something took, counted in buckets that double: plain ints, no allocation, nothing to configure.

Bucket ``i`` counts what took at least 2^(i-1) and less than 2^i units, the last one also whatever took
longer, so the bucket is the number's bit length. The unit is a nanosecond for what code takes and a
millisecond for what is told by the node's clock. Coarse, but it costs nothing to keep, adds up over nodes,
and reads as a Prometheus histogram. Invariant: the buckets' sum is how often something was recorded.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

__all__ = ["BUCKETS", "MS", "NS", "Durations", "quantile"]

BUCKETS: Final = 32
"""The last begins at 2^30 ns, about a second: beyond it nobody asks how much longer it was."""

NS: Final = 1_000_000_000
MS: Final = 1_000


class Durations:
    """One histogram, in units of which a second has ``per_second``; written from one thread."""

    __slots__ = ("buckets", "per_second", "total")

    def __init__(self, per_second: int = NS) -> None:
        self.buckets = [0] * BUCKETS
        self.total = 0
        self.per_second = per_second

    @property
    def count(self) -> int:
        """How often something was recorded."""
        return sum(self.buckets)

    def record(self, units: int) -> None:
        """Something took so many units."""
        self.buckets[min(units.bit_length(), BUCKETS - 1)] += 1
        self.total += units


def quantile(buckets: Sequence[int], share: float) -> float | None:
    """Units below which ``share`` (0 to 1) of what ``buckets`` hold was, taking each for evenly filled.

    As Prometheus reckons it, so that a status and a dashboard agree; None of nothing.
    """
    sums = list(accumulate(buckets))
    wanted = share * sums[-1]
    if not sums[-1]:
        return None
    index = min(bisect_left(sums, max(wanted, 1e-9)), len(sums) - 1)
    low, high = (1 << index) >> 1, 1 << index
    before = sums[index] - buckets[index]
    return low + (high - low) * (wanted - before) / buckets[index]
