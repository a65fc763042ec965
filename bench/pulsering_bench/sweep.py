"""``pulsering bench sweep``: latency against load, up to the rate at which it breaks.

Rates grow by a factor from step to step, each an open loop of its own, until the p99 is above the target,
requests are refused or unanswered, or the generator itself was the limit, in which case nothing is said about
the server. Pages and heartbeats are half and half. The one closed-loop figure is labelled as such: it says
what is possible when callers wait, not how long they would wait. Invariant: latency counts from when a
request was due.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

import numpy as np

from pulsering_bench.charts import Curve, curves, figure_of
from pulsering_bench.drive import Arrival, Closed, Drive, Open
from pulsering_bench.machine import machine_facts
from pulsering_bench.page import document, note, section, table
from pulsering_bench.peers import Ids, Peer, Request, Scale
from pulsering_bench.table import keys_of
from pulsering_bench.usage import BUSY_SHARE, cores, pin

__all__ = ["Plan", "Point", "run_sweep", "sweep"]

HOLD_S: Final = 7200
POOL: Final = 500
LAG_SHARE: Final = 0.25
"""Of the p99, above which the generator's own lateness is no small part of it."""

REFUSED_SHARE: Final = 0.001
TRIES: Final = 3
"""Of a step in which the generator was the limit: something else on the machine may have been why."""

GENERATOR: Final = "the generator was the limit"

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to sweep."""

    users: int = 1_000_000
    page: int = 100
    start_per_s: float = 500.0
    factor: float = 1.5
    steps_max: int = 24
    seconds: float = 3.0
    target_ms: float = 5.0
    ttl_s: int = 20
    seed: int = 1
    await_warm: bool = True


@dataclass(frozen=True)
class Point:
    """One step: requests a second asked for, and what came of it. ``end`` says why it was the last, or ""."""

    rate: float
    users_per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    refused: int
    unanswered: int
    wrong: int
    lag_ms: float
    server_busy: float
    generator_busy: float
    end: str


def point_of(rate: float, run: Open, target_ms: float) -> Point:
    """One open loop as a point of the curve."""
    samples = np.concatenate([*run.latencies_s.values(), np.zeros(0)]) * 1000
    p50, p99, p999 = np.percentile(samples, [50, 99, 99.9]) if len(samples) else (0.0, 0.0, 0.0)
    end = ""
    if run.lag_ms > LAG_SHARE * p99 or run.generator.busy >= BUSY_SHARE > run.server.busy:
        if run.lag_ms > LAG_SHARE * target_ms or run.generator.busy >= BUSY_SHARE:
            end = GENERATOR
    elif p99 > target_ms:
        end = f"p99 above {target_ms:g} ms"
    if not end and run.refused + run.unanswered > REFUSED_SHARE * len(run.lag_s):
        end = "requests were refused or not answered"
    return Point(
        rate=rate,
        users_per_s=run.users / run.wall_s,
        p50_ms=float(p50),
        p99_ms=float(p99),
        p999_ms=float(p999),
        max_ms=float(samples.max(initial=0.0)),
        refused=run.refused,
        unanswered=run.unanswered,
        wrong=run.wrong,
        lag_ms=run.lag_ms,
        server_busy=run.server.busy,
        generator_busy=run.generator.busy,
        end=end,
    )


def sweep(kind: type[Peer], plan: Plan, tell: Tell = lambda _: None) -> dict[str, Any]:
    """Run all steps; the results as JSON has them."""
    server_core, own_core = cores()
    peer = kind(Scale(plan.users, plan.ttl_s, HOLD_S, server_core))
    facts = machine_facts()
    release = pin(own_core)
    try:
        peer.start()
        tell(f"{peer.title}: loading {plan.users:,} users")
        run = _Sweep(peer, plan)
        run.load()
        while plan.await_warm and (warm_in := peer.warm_in_s()) > 0:
            sleep(min(warm_in + 0.01, 1.0))
        points: list[Point] = []
        for step in range(plan.steps_max):
            rate = plan.start_per_s * plan.factor**step
            point = point_of(rate, run.step(rate), plan.target_ms)
            for _ in range(TRIES - 1):
                if point.end != GENERATOR:
                    break
                point = point_of(rate, run.step(rate), plan.target_ms)
            points.append(point)
            tell(line_of(point))
            if point.end:
                break
        closed = run.closed()
    finally:
        peer.stop()
        release()
    held = [point.rate for point in points if not point.end]
    end = points[-1].end
    return {
        "machine": facts,
        "plan": asdict(plan),
        "peer": {"name": peer.name, "title": peer.title, "design": peer.design},
        "points": [asdict(point) for point in points],
        "highest_rate_held": max(held, default=None),
        "verdict": "no verdict" if end in ("", GENERATOR) else "found",
        "why": end or "the last step still held",
        "closed_loop_users_per_s": closed.users / closed.wall_s,
        "closed_loop_limit": closed.limit,
        "wrong_answers": closed.wrong + sum(point.wrong for point in points),
    }


class _Sweep:
    def __init__(self, peer: Peer, plan: Plan) -> None:
        self.peer = peer
        self.plan = plan
        self.random = np.random.default_rng(plan.seed)
        self.ids = keys_of(np.arange(plan.users, dtype=np.uint64))
        self.loaded_at = 0.0

    def load(self) -> None:
        batches = (self.peer.refresh(self.ids[at : at + 1000]) for at in range(0, len(self.ids), 1000))
        self.loaded_at = monotonic()
        with Drive(self.peer) as drive:
            drive.run_all(batches)

    def _pool(self) -> list[tuple[str, Request]]:
        """Pages of users who are all online, and batches of heartbeats, half and half."""
        if not self.peer.keeps_hold and monotonic() - self.loaded_at > self.plan.ttl_s / 4:
            self.load()
        pool: list[tuple[str, Request]] = []
        for index in range(POOL):
            ids: Ids = self.ids[self.random.integers(0, len(self.ids) - self.plan.page + 1) :][
                : self.plan.page
            ]
            get = index % 2 == 0
            request = self.peer.get(ids, np.ones(len(ids), bool)) if get else self.peer.refresh(ids)
            pool.append(("get" if get else "refresh", request))
        return pool

    def step(self, rate: float) -> Open:
        pool = self._pool()
        count = max(1, int(rate * self.plan.seconds))
        arrivals = [Arrival(index / rate, *pool[index % len(pool)]) for index in range(count)]
        with Drive(self.peer) as drive:
            return drive.run_open(arrivals)

    def closed(self) -> Closed:
        pool = [request for _, request in self._pool()]
        with Drive(self.peer) as drive:
            return drive.run_for(pool, self.plan.seconds)


def run_sweep(kind: type[Peer], plan: Plan, *, as_json: bool, report: Path | None) -> int:
    """Sweep, show, write; the exit code is 1 if an answer was wrong."""
    results = sweep(kind, plan, lambda line: print(f"  {line}", file=sys.stderr, flush=True))
    if report is not None:
        report.write_text(html_of(results), "utf-8")
    print(json.dumps(results, indent=1) if as_json else text_of(results))
    return 1 if results["wrong_answers"] else 0


def line_of(point: Point) -> str:
    """One step, for people."""
    return (
        f"{point.rate:10,.0f} requests/s  p50 {point.p50_ms:8.3f}  p99 {point.p99_ms:8.3f}  "
        f"p99.9 {point.p999_ms:8.3f} ms  server {point.server_busy:4.0%}"
        + (f"  {point.end}" if point.end else "")
    )


def text_of(results: dict[str, Any]) -> str:
    """The curve as bars of p99, and what was found."""
    points: Sequence[dict[str, Any]] = results["points"]
    page = results["plan"]["page"]
    largest = max(point["p99_ms"] for point in points) or 1.0
    lines = [f"{results['peer']['title']}: p99 against load, open loop, requests of {page} users", ""]
    for point in points:
        bar = "#" * max(1, round(50 * point["p99_ms"] / largest))
        lines.append(f"{point['rate']:10,.0f}/s  {point['p99_ms']:9.3f} ms  {bar}")
    held = results["highest_rate_held"]
    lines += [
        "",
        f"held: {held:,.0f} requests/s = {figure_of(held * page)} users/s" if held else "held: no rate",
        f"ended: {results['why']}" + ("" if results["verdict"] == "found" else " (no verdict)"),
        f"closed loop (callers that wait; not comparable): {figure_of(results['closed_loop_users_per_s'])} "
        f"users/s, limit: {results['closed_loop_limit']}",
    ]
    return "\n".join(lines)


def html_of(results: dict[str, Any]) -> str:
    """The curve as a page."""
    points = results["points"]
    lines = [
        Curve(label, [(point["rate"], point[key]) for point in points], kind)
        for label, key, kind in (
            ("p50", "p50_ms", "peer"),
            ("p99", "p99_ms", "ours"),
            ("p99.9", "p999_ms", "packed"),
        )
    ]
    title = f"{results['peer']['title']}: latency against load"
    machine = results["machine"]
    rows = [
        (
            f"{p['rate']:,.0f}",
            figure_of(p["users_per_s"]),
            *(f"{p[key]:.3f}" for key in ("p50_ms", "p99_ms", "p999_ms", "max_ms", "lag_ms")),
            str(p["refused"]),
            f"{p['server_busy']:.0%} / {p['generator_busy']:.0%}",
            p["end"],
        )
        for p in points
    ]
    head = ("requests/s", "users/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "generator late ms", "refused")
    return document(
        title,
        [
            note(f"{machine['date'][:10]}, {machine['cpu']}, {machine['cores']} cores: {machine['command']}"),
            section(
                "Curve",
                curves(title, "requests a second", "ms (logarithmic)", lines, results["plan"]["target_ms"]),
                note(f"Open loop, from when each was due. Ended: {results['why']}."),
            ),
            section("Steps", table((*head, "busy: server / generator", ""), rows)),
        ],
    )
