"""``pulsering bench soak``: the same load for an hour, and whether anything grows that should not.

Slices of an open loop follow one another; after each the node's memory, files, tasks and CPU an operation are
noted. At the end the second half is judged: memory by the slope of a line through it, files and tasks by
their range, CPU by its last third against its first. Where the machine took the core away from the node or
the generator for a good part of a slice, the CPU's verdict is left out. Invariant: what is judged is
printed, and every answer was checked.
"""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any, Final, NamedTuple

import numpy as np

from pulsering_bench.drive import Arrival, Drive
from pulsering_bench.machine import machine_facts
from pulsering_bench.peers import PulseringNode, Scale
from pulsering_bench.quotients import shown
from pulsering_bench.table import keys_of
from pulsering_bench.usage import bytes_of, cores, files_of, pin, tasks_of

__all__ = ["Plan", "Sample", "judge", "run_soak", "soak"]

GROWTH_MAX: Final = 0.02
"""Of the memory, over the time that is judged: more is a leak or a table that was not settled."""

GROWTH_BYTES_MAX: Final = 4 << 20
CPU_RATIO_MAX: Final = 1.15
POOL: Final = 400

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to do, for how long."""

    users: int = 1_000_000
    minutes: float = 60.0
    slice_s: float = 10.0
    requests_per_s: float = 2000.0
    page: int = 100
    ttl_s: int = 20
    seed: int = 1


class Sample(NamedTuple):
    """What one slice showed."""

    at_s: float
    bytes: int
    files: int
    tasks: int
    cpu_us_per_request: float
    p99_ms: float | None
    lag_ms: float
    wrong: int


def judge(samples: Sequence[Sample]) -> dict[str, dict[str, Any]]:
    """The second half of the samples: what grew. ``flat`` is None where nothing can be said."""
    half = samples[len(samples) // 2 :]
    at = np.array([sample.at_s for sample in half])
    size = np.array([float(sample.bytes) for sample in half])
    slope = float(np.polyfit(at, size, 1)[0]) if len(half) > 1 else 0.0
    growth = slope * float(at[-1] - at[0])
    allowed = max(GROWTH_BYTES_MAX, GROWTH_MAX * float(size[0]))
    third = max(1, len(samples) // 3)
    first, last = (
        statistics.median(sample.cpu_us_per_request for sample in part)
        for part in (samples[:third], samples[-third:])
    )
    disturbed = statistics.median(sample.lag_ms for sample in samples) > 1.0
    return {
        "memory": {
            "flat": growth <= allowed,
            "bytes_per_hour": slope * 3600,
            "grown": growth,
            "allowed": allowed,
        },
        "files": _range([sample.files for sample in half]),
        "tasks": _range([sample.tasks for sample in half]),
        "cpu": {
            "flat": None if disturbed else last <= CPU_RATIO_MAX * first,
            "first_us": first,
            "last_us": last,
        },
    }


def _range(values: Sequence[int]) -> dict[str, Any]:
    return {"flat": values[-1] <= values[0], "first": values[0], "last": values[-1], "max": max(values)}


def soak(plan: Plan, tell: Tell = lambda _: None) -> dict[str, Any]:
    """Run it; the results as JSON has them."""
    server_core, own_core = cores()
    peer = PulseringNode(Scale(plan.users, plan.ttl_s, plan.ttl_s, server_core))
    facts = machine_facts()
    ids = keys_of(np.arange(plan.users, dtype=np.uint64))
    release = pin(own_core)
    samples: list[Sample] = []
    try:
        peer.start()
        with Drive(peer, 1) as drive:  # one connection, so that a page comes after the heartbeats before it
            drive.run_all(peer.refresh(ids[at : at + 1000]) for at in range(0, len(ids), 1000))
            began = monotonic()
            cursor = 0
            while monotonic() < began + plan.minutes * 60:
                arrivals, cursor = _arrivals(peer, plan, ids, cursor)
                run = drive.run_open(arrivals)
                pids = peer.pids()
                sample = Sample(
                    at_s=monotonic() - began,
                    bytes=bytes_of(pids),
                    files=files_of(pids),
                    tasks=tasks_of(pids),
                    cpu_us_per_request=1e6 * run.server.cpu_s / len(arrivals),
                    p99_ms=run.percentile_ms("refresh", 99),
                    lag_ms=run.lag_ms,
                    wrong=run.wrong,
                )
                samples.append(sample)
                tell(
                    f"{sample.at_s / 60:6.1f} min  {sample.bytes / 2**20:8.1f} MiB  {sample.files} files  "
                    f"{sample.tasks} tasks  {sample.cpu_us_per_request:7.2f} us/request  "
                    f"p99 {shown(sample.p99_ms, '.2f')} ms"
                )
    finally:
        peer.stop()
        release()
    verdicts = judge(samples)
    return {
        "machine": facts,
        "plan": asdict(plan),
        "samples": [sample._asdict() for sample in samples],
        "verdicts": verdicts,
        "flat": all(verdict["flat"] is not False for verdict in verdicts.values()),
        "wrong_answers": sum(sample.wrong for sample in samples),
    }


def _arrivals(peer: PulseringNode, plan: Plan, ids: Any, cursor: int) -> tuple[list[Arrival], int]:
    """A slice: heartbeats that go through all users in turn, then pages of users just refreshed."""
    count = max(2, int(plan.requests_per_s * plan.slice_s))
    pool = []
    for _ in range(min(POOL, count // 2)):
        part = ids[cursor : cursor + plan.page]
        cursor = cursor + plan.page if cursor + plan.page < len(ids) else 0
        pool.append((peer.refresh(part), peer.get(part, np.ones(len(part), bool))))
    arrivals = []
    for index in range(count // 2):
        refresh, get = pool[index % len(pool)]
        arrivals.append(Arrival(2 * index / plan.requests_per_s, "refresh", refresh))
        arrivals.append(Arrival((2 * index + 1) / plan.requests_per_s, "get", get))
    return arrivals, cursor


def run_soak(plan: Plan, *, as_json: bool) -> int:
    """Soak, show; exit code 1 if something grew or an answer was wrong."""
    results = soak(plan, lambda line: print(f"  {line}", file=sys.stderr, flush=True))
    if as_json:
        print(json.dumps(results, indent=1))
    else:
        for name, verdict in results["verdicts"].items():
            word = {True: "flat", False: "GROWS", None: "no verdict"}[verdict["flat"]]
            rest = ", ".join(f"{key} {value:,.1f}" for key, value in verdict.items() if key != "flat")
            print(f"{name:8} {word:10} {rest}")
        print(f"wrong answers: {results['wrong_answers']}")
    return 0 if results["flat"] and not results["wrong_answers"] else 1
