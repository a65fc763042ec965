"""Circuit breaker of one node: is it worth a request now?

::

    CLOSED --5 failures in a row, or a breach of the protocol--> OPEN --delay--> PROBING (one request)
      ^                                                            ^ \\________________/ |
      +------------------------- success --------------------------+------- failure ------+

Pure: ``now`` (seconds, monotonic) and the random source are passed in. Failures count per node, not per
connection: one bad socket of many must not eject a healthy node. Invariant: while not CLOSED, at most one
request is let through per probe delay, and a node is never replaced by a non-owner, only asked after its
slots' other owners.
"""

import random
from enum import Enum

from pulsering import limits

__all__ = ["Circuit", "CircuitState"]


class CircuitState(Enum):
    """Whether requests flow."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"


_CLOSED = CircuitState.CLOSED


class Circuit:
    """State of one node's circuit."""

    def __init__(self, rng: random.Random) -> None:
        self.state = CircuitState.CLOSED
        self.failures = 0
        """Failures since the last success."""
        self.opened = 0
        """How often it opened, for statistics."""
        self._rng = rng
        self._bound = 0.0
        self._probe_at = 0.0

    @property
    def untroubled(self) -> bool:
        """Closed, and nothing has failed since the last success."""
        return not self.failures and self.state is _CLOSED

    def allows(self, now: float) -> bool:
        """Whether a request may go now, as its probe if need be. Changes nothing."""
        return self.state is CircuitState.CLOSED or now >= self._probe_at

    def acquire(self, now: float) -> bool:
        """Let a request go, or not. While open, the one let through is the probe; the next waits its turn."""
        if self.state is _CLOSED:
            return True
        if now < self._probe_at:
            return False
        self.state = CircuitState.PROBING
        self._schedule(now)  # a probe whose outcome is never told must not block the next
        return True

    def record_success(self) -> None:
        """The node answered."""
        self.state = CircuitState.CLOSED
        self.failures = 0
        self._bound = 0.0

    def record_failure(self, now: float) -> None:
        """The node did not answer in time, or the way to it failed."""
        self.failures += 1
        if self.state is CircuitState.PROBING or (
            self.state is CircuitState.CLOSED and self.failures >= limits.CIRCUIT_FAILURES
        ):
            self._open(now)

    def record_connected(self, now: float) -> None:
        """A handshake succeeded: proof of a way, not yet of answers, so an open circuit may probe at once."""
        if self.state is CircuitState.CLOSED:
            self.failures = 0
        else:
            self._probe_at = now

    def quarantine(self, now: float) -> None:
        """The node broke the protocol: open at once, with the longest delay."""
        self._bound = limits.CIRCUIT_PROBE_MS_MAX / 1000
        self._open(now)

    def _open(self, now: float) -> None:
        if self.state is CircuitState.CLOSED:
            self.opened += 1
        self.state = CircuitState.OPEN
        self._schedule(now)

    def _schedule(self, now: float) -> None:
        bound = self._bound or limits.CIRCUIT_PROBE_MS_MIN / 1000
        self._bound = min(bound * 2, limits.CIRCUIT_PROBE_MS_MAX / 1000)
        self._probe_at = now + self._rng.uniform(bound / 2, bound)
