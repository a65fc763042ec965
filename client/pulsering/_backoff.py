"""How long to wait, and whether to try again at all: full jitter, and a budget of retries.

Pure: the random source is passed in, time is the caller's. Full jitter (uniform below a doubling bound)
spreads a thousand clients that lost a node in the same millisecond; the budget (gRPC's retry throttling)
keeps a failing cluster from being asked twice as much as a healthy one.
"""

import random

from pulsering import limits

__all__ = ["Backoff", "RetryBudget", "reconnect_ms_max"]


def reconnect_ms_max(ttl_ms: int) -> float:
    """The longest back-off before a node is tried again, ms.

    A node that was started is warm after one ttl. By then its clients have to be back with heartbeats, or it
    would take users for offline whom it was never told of.
    """
    return min(limits.RECONNECT_MS_MAX, ttl_ms / 4)


class Backoff:
    """Delays in seconds: uniform in (0, bound], the bound doubled after each, between two limits."""

    def __init__(self, ms_min: float, ms_max: float, rng: random.Random) -> None:
        self._min = ms_min / 1000
        self._max = ms_max / 1000
        self._bound = self._min
        self._rng = rng

    def next(self) -> float:
        """The next delay."""
        delay = self._rng.uniform(0, self._bound)
        self._bound = min(self._bound * 2, self._max)
        return delay

    def longest(self) -> float:
        """A delay as after many failures, for a peer that broke the protocol."""
        self._bound = self._max
        return self._rng.uniform(self._max / 2, self._max)

    def reset(self) -> None:
        """It worked: start small again."""
        self._bound = self._min


class RetryBudget:
    """Tokens: each call earns a fraction of one, each retry costs one; without a token there is no retry."""

    def __init__(
        self, ratio: float = limits.RETRY_BUDGET_RATIO, tokens_max: float = limits.RETRY_BUDGET_MAX
    ) -> None:
        self._ratio = ratio
        self._max = tokens_max
        self.tokens = tokens_max / 10

    def earn(self) -> None:
        """A call was made."""
        if self.tokens < self._max:
            self.tokens = min(self.tokens + self._ratio, self._max)

    def take(self) -> bool:
        """Whether one retry may be made; counted if so."""
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True
