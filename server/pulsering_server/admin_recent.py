"""What a node did in the last minutes, as rates and latencies, for whoever has no Prometheus at hand.

Counters are read every few seconds, and what they rose by makes a row. Rows are plain numbers, so that the
whole of it stays below a hundred kilobytes. Pure: the time is told. Invariant: a row spans at least one step,
so that a rate is never that of a moment.
"""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pulsering.wire import DATA_OPS, ErrorCode, Op
from pulsering_server.durations import NS, quantile

if TYPE_CHECKING:
    from pulsering_server.node import NodeCore

__all__ = ["ROWS", "STEP_MS", "Recent", "latencies"]

STEP_MS: Final = 5_000
ROWS: Final = 60
"""Five minutes."""

_SHARES: Final = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999))
_OPS: Final = tuple(sorted(DATA_OPS))


class _Sample(NamedTuple):
    at_ms: int
    counts: dict[str, int]
    buckets: dict[str, list[int]]

    @classmethod
    def of(cls, core: "NodeCore", now_ms: int) -> "_Sample":
        stats = core.stats
        written = (stats.heartbeats, stats.leaves)
        counts = {
            "heartbeats": sum(stats.heartbeats.values()),
            "leaves": sum(stats.leaves.values()),
            "gets": stats.keys_read,
            "unknown": stats.answers["unknown"],
            "stale": sum(outcomes["stale"] for outcomes in written),
            "users_refused": sum(outcomes["refused"] for outcomes in written),
            "busy": stats.errors[ErrorCode.BUSY],
            "requests": sum(stats.requests.values()),
            "bytes_received": stats.bytes_received,
            "bytes_sent": stats.bytes_sent,
        }
        buckets = {Op(op).name.lower(): list(stats.service[op].buckets) for op in _OPS}
        buckets["loop_lag"] = list(stats.loop_lag.buckets)
        return cls(now_ms, counts, buckets)


def latencies(buckets: Sequence[int]) -> dict[str, float | None]:
    """Quantiles in ms of a histogram in ns; None where there was nothing."""
    found = {name: quantile(buckets, share) for name, share in _SHARES}
    return {name: None if ns is None else round(ns * 1000 / NS, 4) for name, ns in found.items()}


def _row(core: "NodeCore", before: _Sample, after: _Sample) -> dict[str, Any]:
    passed_ms = after.at_ms - before.at_ms
    rates = {
        f"{name}_per_s": round((count - before.counts[name]) * 1000 / passed_ms, 1)
        for name, count in after.counts.items()
    }
    took = {
        name: latencies([now - then for now, then in zip(buckets, before.buckets[name], strict=True)])
        for name, buckets in after.buckets.items()
    }
    return {
        "at_ms": after.at_ms,
        "span_ms": passed_ms,
        "users": core.table.online,
        "connections": core.counters.connections_open,
        "epoch": core.topology.epoch,
        **rates,
        "latency_ms": took,
    }


class Recent:
    """The last rows of a node; ``note`` every ``STEP_MS`` or so."""

    def __init__(self, core: "NodeCore", now_ms: int) -> None:
        self._core = core
        self._rows: deque[dict[str, Any]] = deque(maxlen=ROWS)
        self._last = self._before = _Sample.of(core, now_ms)

    def note(self, now_ms: int) -> None:
        """Make a row of what has happened since the last, if that is a step ago."""
        if now_ms - self._last.at_ms >= STEP_MS:
            sample = _Sample.of(self._core, now_ms)
            self._rows.append(_row(self._core, self._last, sample))
            self._before, self._last = self._last, sample

    def now(self, now_ms: int) -> dict[str, Any]:
        """Of the last step and what has passed of this one; after the start, of what there is."""
        return _row(self._core, self._before, _Sample.of(self._core, max(now_ms, self._before.at_ms + 1)))

    def rows(self, now_ms: int) -> list[dict[str, Any]]:
        """The rows, oldest first, each with how long ago it ended."""
        return [
            {"ago_ms": now_ms - row["at_ms"]} | {name: row[name] for name in row if name != "at_ms"}
            for row in self._rows
        ]
