"""What a demo of so many seconds and users does, and when: numbers only, decided before anything starts.

The heartbeat interval is ten seconds where there is time for four of them, else a quarter of the run; the
ttl is an interval and a half, so that a node which comes back has heard of everybody when it counts as
warm, even if clients find it seconds later. Whatever the length, nodes warm up, one dies, comes back, and
is warm again before the end. Invariant: ttl < kill < back, and back + ttl is within the run.
"""

from dataclasses import dataclass
from typing import Final

SECONDS_MIN: Final = 4
"""Below it the ttl would be under the second that a cluster allows at least."""
INTERVAL_S_MAX: Final = 10.0
"""How often a device beats, as the service is sized for."""
STEP_S: Final = 0.02
"""Heartbeats of so many seconds share a call: what a backend gathers while nobody notices."""


@dataclass(frozen=True)
class Plan:
    """One demo. Times in seconds from its start."""

    users: int = 1_000_000
    seconds: float = 40.0
    kill: bool = True
    seed: int = 1

    page: int = 1_000
    """Ids a batch-get asks for."""
    pages_per_s: float = 100.0
    singles_per_s: float = 50.0
    crowds_per_s: float = 4.0
    """How often everybody of the trace is asked for."""

    def __post_init__(self) -> None:
        """Refuse what cannot be played; ``ValueError`` names the option."""
        if self.seconds < SECONDS_MIN:
            raise ValueError(
                f"--seconds {self.seconds:g}: at least {SECONDS_MIN} are needed to see a ttl pass"
            )
        if self.users < 1:
            raise ValueError("--users: at least 1")

    @property
    def interval(self) -> float:
        """Seconds from one heartbeat of a user to the next."""
        return min(INTERVAL_S_MAX, self.seconds / 4)

    @property
    def ttl_ms(self) -> int:
        """The cluster's ttl: the interval and a half."""
        return round(self.interval * 1500)

    @property
    def steps(self) -> int:
        """Steps that the interval is cut into."""
        return round(self.interval / STEP_S)

    @property
    def kill_at(self) -> float:
        """When one node is killed."""
        return 0.41 * self.seconds

    @property
    def back_at(self) -> float:
        """When it is started again."""
        return 0.52 * self.seconds
