"""The node's one clock: milliseconds since boot, suspended time included.

``CLOCK_MONOTONIC`` stands still while a machine sleeps, and every user would look fresh on waking; a wall
clock is stepped by people and daemons. ``CLOCK_BOOTTIME`` does neither. Where it does not exist (macOS,
Windows), the monotonic clock is the nearest there is. Only shells read this; cores are told the time.
"""

import time

if hasattr(time, "CLOCK_BOOTTIME"):

    def now_ms() -> int:
        """Milliseconds since boot."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

else:  # pragma: no cover - the node runs on Linux

    def now_ms() -> int:
        """Milliseconds of the monotonic clock."""
        return time.monotonic_ns() // 1_000_000
