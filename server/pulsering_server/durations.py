"""How long something took, counted in buckets that double: plain ints, no allocation, nothing to configure.

Bucket ``i`` counts what took at least 2^(i-1) and less than 2^i nanoseconds, the last one also whatever took
longer, so the bucket is the number's bit length. Coarse, but it costs nothing to keep, adds up over nodes,
and reads as a Prometheus histogram. Invariant: the buckets' sum is how often something was recorded.
"""

from bisect import bisect_left
from itertools import accumulate
from typing import Final

__all__ = ["BUCKETS", "Durations"]

BUCKETS: Final = 32
"""The last begins at 2^30 ns, about a second: beyond it nobody asks how much longer it was."""


class Durations:
    """One histogram; written from one thread."""

    __slots__ = ("buckets", "total_ns")

    def __init__(self) -> None:
        self.buckets = [0] * BUCKETS
        self.total_ns = 0

    @property
    def count(self) -> int:
        """How often something was recorded."""
        return sum(self.buckets)

    def record(self, ns: int) -> None:
        """Something took so many nanoseconds."""
        self.buckets[min(ns.bit_length(), BUCKETS - 1)] += 1
        self.total_ns += ns

    def bound_ns(self, share: float) -> int:
        """Nanoseconds below which at least ``share`` (0 to 1) of all were; the last bucket has no bound."""
        sums = list(accumulate(self.buckets))
        return 1 << bisect_left(sums, share * sums[-1])
