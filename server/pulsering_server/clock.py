"""The node's one clock: milliseconds since boot, suspended time included.

``CLOCK_MONOTONIC`` stands still while a machine sleeps, and every user would look fresh on waking; a wall
clock is stepped by people and daemons. ``CLOCK_BOOTTIME`` does neither. Where it does not exist (macOS,
Windows), the monotonic clock is the nearest there is. Only shells read this; cores are told the time.

The wall clock is read for two purposes: that it leaps is the only sign that a machine was paused whole, boot
clock and all (``clock_watch``); and certificates end on a day. Nothing about users is ever reckoned from it.
"""

import time
from datetime import UTC, datetime

if hasattr(time, "CLOCK_BOOTTIME"):

    def now_ms() -> int:
        """Milliseconds since boot."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

else:  # pragma: no cover - the node runs on Linux

    def now_ms() -> int:
        """Milliseconds of the monotonic clock."""
        return time.monotonic_ns() // 1_000_000


def wall_ms() -> int:
    """Milliseconds of the wall clock, to be compared with itself only."""
    return time.time_ns() // 1_000_000


def utc() -> datetime:
    """The time of day, for the dates of certificates only."""
    return datetime.now(UTC)
