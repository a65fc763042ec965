"""``pulsering bench sweep``: latency against load, up to the rate at which it breaks.

Rates grow by a factor from step to step, each an open loop of its own, until the p99 is above the target or
requests are refused or unanswered. Between the last rate that held and the first that did not, steps halve
the gap until the knee is known to a few percent. A rate that holds holds, however late the generator was, as
that is in the latency; only where one breaks is asked who broke it. A generator that had work all the time
ends a sweep without a verdict on the server. Where other programs had its core, or the server's, a step says
nothing: it is shown and passed over. What breaks is measured twice more and the median counts, as a machine
has bad moments. Pages and heartbeats are half and half. The one closed-loop figure is labelled as such: it
says what is possible when callers wait, not how long they would wait. Invariant: latency counts from when a
request was due.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import inf, sqrt
from time import monotonic, sleep
from typing import Any, Final

import numpy as np

from pulsering_bench.drive import Arrival, Closed, Drive, Open, percentiles_ms
from pulsering_bench.machine import machine_facts
from pulsering_bench.peers import Ids, Peer, Request, Scale
from pulsering_bench.quotients import per, shown
from pulsering_bench.table import keys_of
from pulsering_bench.usage import BUSY_SHARE, cores, pin

__all__ = ["GENERATOR", "OTHERS", "Plan", "Point", "knee_of", "point_of", "sweep"]

HOLD_S: Final = 7200
POOL: Final = 500
LAG_SHARE: Final = 0.25
"""Of the p99, above which the generator's own lateness is no small part of it."""

REFUSED_SHARE: Final = 0.001
TRIES: Final = 3
"""Of a step that broke, an odd number, so that there is a middle one."""

REQUESTS_MIN: Final = 100
"""In a step: of fewer the p99 would be the worst. On the way down a sweep ends there."""

GENERATOR: Final = "the generator was the limit"
OTHERS: Final = "other programs had the cores"
STARVED_SHARE: Final = 0.05
"""Of the time, in which the server had work and no core: more than that is no matter of the server."""


Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to sweep.

    Pages are so large that a server has more to do for one than the generator: it makes some 40,000 requests
    a second, and with 100 users in each it would come to its end before a node does.
    """

    users: int = 1_000_000
    page: int = 1000
    start_per_s: float = 500.0
    factor: float = 1.5
    steps_max: int = 24
    knee: float = 1.05
    """How close the rates that held and broke have to come."""

    seconds: float = 2.0
    target_ms: float = 5.0
    ttl_s: int = 20
    seed: int = 1
    await_warm: bool = True


@dataclass(frozen=True)
class Point:
    """One step: requests a second asked for, and what came of it. ``end`` says why it broke, or "".

    Percentiles are None where nothing was answered.
    """

    rate: float
    users_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    max_ms: float | None
    refused: int
    unanswered: int
    wrong: int
    lag_ms: float
    server_busy: float
    generator_busy: float
    end: str


def point_of(rate: float, run: Open, target_ms: float) -> Point:
    """One open loop as a point of the curve."""
    samples = np.concatenate([*run.latencies_s.values(), np.zeros(0)])
    p50, p99, p999, largest = percentiles_ms(samples, 50, 99, 99.9, 100)
    end = ""
    if run.refused + run.unanswered > REFUSED_SHARE * len(run.lag_s):
        end = "requests were refused or not answered"
    elif p99 is None or p99 > target_ms:
        end = f"p99 above {target_ms:g} ms"
    if end and run.generator.busy >= BUSY_SHARE > run.server.busy:
        end = GENERATOR
    elif end and (run.lag_ms > LAG_SHARE * (p99 or 0.0) or run.server_starved > STARVED_SHARE):
        end = OTHERS
    return Point(
        rate=rate,
        users_per_s=run.users / run.wall_s,
        p50_ms=p50,
        p99_ms=p99,
        p999_ms=p999,
        max_ms=largest,
        refused=run.refused,
        unanswered=run.unanswered,
        wrong=run.wrong,
        lag_ms=run.lag_ms,
        server_busy=run.server.busy,
        generator_busy=run.generator.busy,
        end=end,
    )


def knee_of(step: Callable[[float], Point], plan: Plan, tell: Tell = lambda _: None) -> list[Point]:
    """Points by rate: up by the factor until one breaks, then halving what lies between."""
    points: list[Point] = []
    held, broke = 0.0, 0.0
    rate = plan.start_per_s
    for _ in range(plan.steps_max):
        point = _judged(step, rate)
        points.append(point)
        tell(line_of(point))
        if not point.end:
            held = rate
        elif point.end != OTHERS:
            broke = rate
        if broke and held and (broke <= held * plan.knee or point.end == OTHERS):
            break
        rate = sqrt(held * broke) if held and broke else rate / plan.factor if broke else rate * plan.factor
        if not held and rate * plan.seconds < REQUESTS_MIN:
            break
    return sorted(points, key=lambda point: point.rate)


def _judged(step: Callable[[float], Point], rate: float) -> Point:
    """A step that holds, or the middle one of several that broke or not."""
    first = step(rate)
    if not first.end:
        return first
    tries = [first, *(step(rate) for _ in range(TRIES - 1))]
    wrong = sum(point.wrong for point in tries)
    middle = sorted(tries, key=lambda point: (bool(point.end), point.p99_ms or 0.0))[TRIES // 2]
    return Point(**asdict(middle) | {"wrong": wrong})


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
        points = knee_of(run.step, plan, tell)
        closed = run.closed()
    finally:
        peer.stop()
        release()
    return {
        "machine": facts,
        "plan": asdict(plan),
        "peer": {"name": peer.name, "title": peer.title, "design": peer.design},
        "points": [asdict(point) for point in points],
        **_verdict(points),
        "closed_loop_users_per_s": per(closed.users, closed.wall_s) if closed.users else None,
        "closed_loop_limit": closed.limit,
        "wrong_answers": closed.wrong + sum(point.wrong for point in points),
    }


def _verdict(points: Sequence[Point]) -> dict[str, Any]:
    """The highest rate that held below all that broke, the lowest that broke, and why."""
    broken = next((point for point in points if point.end not in ("", OTHERS)), None)
    broke = broken.rate if broken else inf
    held = max((point.rate for point in points if not point.end and point.rate < broke), default=None)
    return {
        "highest_rate_held": held,
        "lowest_rate_broken": broken.rate if broken else None,
        "verdict": "found" if held and broken and broken.end != GENERATOR else "no verdict",
        "why": broken.end if broken else points[-1].end or "the last step still held",
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

    def step(self, rate: float) -> Point:
        pool = self._pool()
        count = max(1, int(rate * self.plan.seconds))
        arrivals = [Arrival(index / rate, *pool[index % len(pool)]) for index in range(count)]
        with Drive(self.peer) as drive:
            return point_of(rate, drive.run_open(arrivals), self.plan.target_ms)

    def closed(self) -> Closed:
        pool = [request for _, request in self._pool()]
        with Drive(self.peer) as drive:
            return drive.run_for(pool, self.plan.seconds)


def line_of(point: Point) -> str:
    """One step, for people."""
    p50, p99, p999 = (shown(value, "8.3f") for value in (point.p50_ms, point.p99_ms, point.p999_ms))
    return (
        f"{point.rate:10,.0f} requests/s  p50 {p50}  p99 {p99}  p99.9 {p999} ms  "
        f"busy: server {point.server_busy:4.0%}, generator {point.generator_busy:4.0%}, "
        f"late {point.lag_ms:.2f} ms" + (f"  {point.end}" if point.end else "")
    )
