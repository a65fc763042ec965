"""How long ago a frame was sent, from its sender's clock alone.

Two machines' clocks differ by an unknown offset, and each frame's arrival minus its sender's milliseconds is
that offset plus the time the frame was under way. The smallest such difference is the offset plus the fastest
way; whatever a frame exceeds it by, it was late. So the age of a frame is its difference less the smallest
seen.

The smallest of *all* time would slowly go wrong, because clocks drift. The smallest in a *window* forgets:
when a link has stood still for longer than the window, everything written meanwhile arrives at once, and the
window takes the first of it for fresh, which revives users who left. So the minimum here leaks instead: it
may rise by a thousandth of the time that passes, and no faster. No credible clock drifts by half as much, so
a fast or slow sender is followed exactly; and a link that stalls makes its frames look younger by at most a
thousandth of the stall: 20 ms in a ttl of 20 s, well within one tick. Nothing is kept but two numbers, so
nothing can be forgotten.

What this cannot see: a delay that was there from the first frame on (a client waits for its welcome before it
sends heartbeats, so the first is never stuck behind a stall), and one that grows for hours by less than a
millisecond a second.
"""

from typing import Final

_WRAP_US: Final = (1 << 32) * 1000
"""Sender's milliseconds travel modulo 2^32, counted here in microseconds."""

_LEAK_US_PER_MS: Final = 1
"""A thousandth: twice the worst drift of a clock that still passes for one (500 ppm, NTP's own bound)."""


class FrameAge:
    """The age of each frame of one connection; the first frame, HELLO, is taken for fresh."""

    __slots__ = ("_arrival_ms", "_offset_us")

    def __init__(self, sender_ms: int, now_ms: int) -> None:
        self._offset_us = (now_ms - sender_ms) * 1000
        self._arrival_ms = now_ms

    def age_ms(self, sender_ms: int, now_ms: int) -> int:
        """Milliseconds that a frame arriving at ``now_ms`` was under way, beyond the fastest seen.

        Both clocks may have any origin, and ``sender_ms`` may wrap at 2^32: differences up to 24 days are
        told apart, far beyond the life of a silent connection.
        """
        offset_us = self._offset_us + (now_ms - self._arrival_ms) * _LEAK_US_PER_MS
        self._arrival_ms = now_ms
        late_us = ((now_ms - sender_ms) * 1000 - offset_us) % _WRAP_US
        if late_us >= _WRAP_US // 2:
            late_us -= _WRAP_US
        if late_us <= 0:
            self._offset_us = offset_us + late_us
            return 0
        self._offset_us = offset_us
        return late_us // 1000
