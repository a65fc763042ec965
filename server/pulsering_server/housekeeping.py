"""What a node does on its own: turn the wheel each tick, doubt its clock, and sweep the table in slices.

The table says how many lines are due; this decides how many to do before the loop has its turn, by how long
the last slice took: well under a millisecond each, whatever the machine.
"""

import asyncio
from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final

import structlog

from pulsering_server.clock_watch import ClockWatch

if TYPE_CHECKING:
    from pulsering_server.logs import RateLimit
    from pulsering_server.node import NodeCore

__all__ = ["Slices", "keep_house"]

LINES_MIN: Final = 16
LINES_MAX: Final = 65_536
SLICE_NS_MAX: Final = 500_000
"""Half of the millisecond that housekeeping may hold the loop, so that a slow slice still fits."""

_WARNINGS: Final = frozenset({"node.stalled", "node.suspect", "node.removed"})
"""Events that somebody should look into, or has to act upon."""

log = structlog.get_logger("pulsering_server.housekeeping")


class Slices:
    """How many lines the next slice takes; ``took`` tells it how long the last one was."""

    __slots__ = ("lines",)

    def __init__(self) -> None:
        self.lines = LINES_MIN

    def took(self, ns: int) -> None:
        """Halve what was too long, double what was short by far."""
        if ns > SLICE_NS_MAX:
            self.lines = max(LINES_MIN, self.lines // 2)
        elif ns < SLICE_NS_MAX // 3:
            self.lines = min(LINES_MAX, self.lines * 2)


async def keep_house(
    core: "NodeCore",
    now_ms: Callable[[], int],
    rate_limit: "RateLimit | None" = None,
    wall_ms: Callable[[], int] | None = None,
) -> None:
    """Run for as long as the node does. Without a ``wall_ms`` its clock is not doubted."""
    slices = Slices()
    watch = ClockWatch()
    loop = asyncio.get_running_loop()
    while True:
        boot_ms = now_ms()
        core.tick(boot_ms)
        if wall_ms is not None and (doubt := watch.note(boot_ms, wall_ms(), round(loop.time() * 1000))):
            core.start_over(doubt, boot_ms)
        for event in core.take_events():
            (log.warning if event.name in _WARNINGS else log.info)(event.name, **event.fields)
        for name, lines in rate_limit.flush().items() if rate_limit is not None else ():
            log.warning("log.suppressed", what=name, lines=lines)
        while True:
            began_ns = perf_counter_ns()
            due = core.maintain(now_ms(), slices.lines)
            took_ns = perf_counter_ns() - began_ns
            slices.took(took_ns)
            core.counters.sweep.record(took_ns)
            core.counters.sweep_lines_due = due
            if not due:
                break
            await asyncio.sleep(0)
        await asyncio.sleep(core.next_tick_ms(now_ms()) / 1000)
