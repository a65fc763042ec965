"""Whether the node's clock can be believed: it must move, and no machine time may be missing from it.

Everything a node says rests on how long ago a heartbeat was. A clock that stands still would keep everybody
online for ever. And when a hypervisor pauses a machine, its boot clock stands still with it: on waking, users
who left long ago look fresh. Of that there is one sign: sooner or later somebody corrects the wall clock, and
it leaps ahead of the boot clock by what was lost. A person who sets the wall clock forward looks the same;
the node is then suspicious for nothing, and its users are known again with their next heartbeat. A wall clock
that is set back cannot come from a pause, and does nothing.

Pure: three clocks are told, in ms of any origin. Invariant: a suspicion only ever costs certainty, it never
makes anybody online or offline.
"""

from pulsering import limits

__all__ = ["ClockWatch"]


class ClockWatch:
    """Compares the node's clock with others, each tick."""

    __slots__ = ("_boot_ms", "_moved_at_ms", "_wall_ahead_ms")

    def __init__(self) -> None:
        self._boot_ms: int | None = None
        self._moved_at_ms = 0
        self._wall_ahead_ms = 0

    def note(self, boot_ms: int, wall_ms: int, steady_ms: int) -> str:
        """Why the node should start over, or an empty text.

        ``boot_ms`` is the node's clock; ``steady_ms`` one that moves while the node runs, which says how long
        the other has not. While it stands still, this says so again every ``CLOCK_DOUBT_MS``.
        """
        before_ms, self._boot_ms = self._boot_ms, boot_ms
        ahead_ms, self._wall_ahead_ms = self._wall_ahead_ms, wall_ms - boot_ms
        if before_ms is None or boot_ms > before_ms:
            self._moved_at_ms = steady_ms
        elif steady_ms - self._moved_at_ms >= limits.CLOCK_DOUBT_MS:
            stood_ms, self._moved_at_ms = steady_ms - self._moved_at_ms, steady_ms
            return f"the clock has stood still for {stood_ms} ms"
        leap_ms = self._wall_ahead_ms - ahead_ms
        if before_ms is not None and leap_ms >= limits.CLOCK_DOUBT_MS:
            return (
                f"the wall clock leapt {leap_ms} ms ahead of the boot clock, as after a pause of the machine"
            )
        return ""
