"""``pulsering bench billion``: one node, a billion users with 64-bit ids, loaded over TCP.

First the memory is asked for. Then users are loaded, refreshed at random, asked for, and a part of them
leaves with a grace, which is what a deadline does: they must be offline when it is over, all others online,
and the count must say exactly how many are left. The ttl is the longest there is, as one core needs minutes
to hear a billion users once: what a ttl of 20 s would take is printed beside. Invariant: users are the
numbers from 0 on, mixed by a bijection, so whether one was loaded never has to be remembered.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import psutil  # type: ignore[import-untyped,unused-ignore]
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pulsering import limits
from pulsering_bench.drive import Closed, Drive
from pulsering_bench.machine import machine_facts
from pulsering_bench.peers import Ids, PulseringNode, Request, Scale
from pulsering_bench.quotients import per, shown
from pulsering_bench.table import keys_of
from pulsering_bench.usage import bytes_of, cores, pin

__all__ = ["Plan", "billion", "memory_needed", "run_billion"]

BYTES_PER_USER: Final = 9.5
BYTES_BESIDE: Final = 1 << 30
CHUNK: Final = 1 << 20
"""Users whose ids and frames exist at a time: 17 MB."""

TTL_S: Final = limits.TTL_MS_MAX // 1000
TICKS: Final = limits.TICKS_PER_TTL
SHORT_TTL_S: Final = 20
INTERVAL_S: Final = 10
ABSENT: Final = 1 << 40


@dataclass(frozen=True)
class Plan:
    """How many, and for how long the rates are measured."""

    users: int = 1_000_000_000
    seconds: float = 10.0
    leaving: float = 0.01
    """The share of users that leaves."""

    grace_s: float = 2.0
    frame: int = limits.KEYS_PER_FRAME
    pool: int = 400
    """Frames of random users that are made for each rate."""

    ttl_s: int = TTL_S
    seed: int = 1


def memory_needed(users: int) -> int:
    """Bytes that the run takes at its highest, generator included."""
    return int(users * BYTES_PER_USER) + BYTES_BESIDE


class _Loads:
    """The phases, in order, on one node."""

    def __init__(self, plan: Plan, peer: PulseringNode, progress: Progress) -> None:
        self.plan = plan
        self.peer = peer
        self.progress = progress
        self.random = np.random.default_rng(plan.seed)
        self.leavers = max(1, int(plan.users * plan.leaving))

    def _batches(self, stop: int, task: TaskID) -> Iterator[Ids]:
        for start in range(0, stop, CHUNK):
            ids = keys_of(np.arange(start, min(start + CHUNK, stop), dtype=np.uint64))
            for at in range(0, len(ids), self.plan.frame):
                yield ids[at : at + self.plan.frame]
            self.progress.update(task, completed=start + len(ids))

    def load(self) -> Closed:
        task = self.progress.add_task("load", total=self.plan.users)
        return self._all(self.peer.refresh(ids) for ids in self._batches(self.plan.users, task))

    def _some(self, first: int = 0) -> Ids:
        numbers = self.random.integers(first, self.plan.users, self.plan.frame, dtype=np.uint64)
        return keys_of(np.unique(numbers))

    def _run(self, what: str, pool: list[Request]) -> Closed:
        self.progress.add_task(what, total=1, completed=1)
        with Drive(self.peer) as drive:
            return drive.run_for(pool, self.plan.seconds)

    def _all(self, requests: Iterator[Request]) -> Closed:
        """On connections of its own: a node hangs up on one that is idle from phase to phase."""
        with Drive(self.peer) as drive:
            return drive.run_all(requests)

    def refresh(self) -> Closed:
        return self._run("refresh", [self.peer.refresh(self._some()) for _ in range(self.plan.pool)])

    def get(self) -> Closed:
        present = [self._some() for _ in range(self.plan.pool)]
        return self._run("get", [self.peer.get(ids, np.ones(len(ids), bool)) for ids in present])

    def get_half(self) -> Closed:
        pool = []
        for _ in range(self.plan.pool):
            ids = self._some()
            online = np.arange(len(ids)) % 2 == 0
            absent = keys_of(self.random.integers(ABSENT, 1 << 60, len(ids), dtype=np.uint64))
            pool.append(self.peer.get(np.where(online, ids, absent), online))
        return self._run("get, half never online", pool)

    def leave(self) -> Closed:
        """The first ``leavers`` users leave with a grace."""
        task = self.progress.add_task("leave", total=self.leavers)
        grace_ms = round(self.plan.grace_s * 1000)
        return self._all(self.peer.leave(ids, grace_ms) for ids in self._batches(self.leavers, task))

    def read_back(self) -> tuple[Closed, Closed]:
        """Everybody who left, and as many of those who stayed."""
        task = self.progress.add_task("read who left", total=self.leavers)
        gone = self._all(
            self.peer.get(ids, np.zeros(len(ids), bool)) for ids in self._batches(self.leavers, task)
        )
        stayed = [self._some(self.leavers) for _ in range(self.plan.pool)]
        here = self._all(self.peer.get(ids, np.ones(len(ids), bool)) for ids in stayed)
        return gone, here

    def wait(self) -> None:
        """Until the leavers' grace is over and the wheel's hand has passed the last spoke of theirs."""
        seconds = self.plan.grace_s + 2 * self.plan.ttl_s / TICKS
        task = self.progress.add_task("wait for their ticks", total=seconds)
        began = time.monotonic()
        while (waited := time.monotonic() - began) < seconds:
            self.progress.update(task, completed=waited)
            time.sleep(min(0.5, seconds - waited))
        self.progress.update(task, completed=seconds)


def billion(plan: Plan, console: Console) -> dict[str, Any]:
    """Run all phases; the results as JSON has them."""
    server_core, own_core = cores()
    peer = PulseringNode(Scale(plan.users, plan.ttl_s, plan.ttl_s, server_core))
    facts = machine_facts()
    release = pin(own_core)
    columns = (
        TextColumn("{task.description:24}"),
        BarColumn(),
        TextColumn("{task.percentage:5.1f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    try:
        peer.start()
        empty = bytes_of(peer.pids())
        with Progress(*columns, console=console) as progress:
            loads = _Loads(plan, peer, progress)
            phases = {"load": loads.load()}
            size = bytes_of(peer.pids()) - empty
            loaded = peer.count()
            phases |= {"refresh": loads.refresh(), "get": loads.get(), "get_half": loads.get_half()}
            phases["leave"] = loads.leave()
            loads.wait()
            phases["read_gone"], phases["read_here"] = loads.read_back()
            left = peer.count()
    finally:
        peer.stop()
        release()
    expected = plan.users - loads.leavers
    return {
        "machine": facts,
        "plan": asdict(plan),
        "bytes_per_user": size / plan.users,
        "phases": {name: _phase(phase) for name, phase in phases.items()},
        "counted": {"loaded": loaded, "left": left, "expected": expected},
        "needs": needs_of(plan.users, phases),
        "unknown_answers": peer.unknown,
        "wrong_answers": sum(phase.wrong for phase in phases.values())
        + abs((loaded or 0) - plan.users)
        + abs((left or 0) - expected),
    }


def _phase(run: Closed) -> dict[str, Any]:
    return {
        "users": run.users,
        "wall_s": run.wall_s,
        "users_per_server_cpu_s": run.per_server_s,
        "server_busy": run.server.busy,
        "generator_busy": run.generator.busy,
        "limit": run.limit,
        "refused": run.refused,
        "wrong": run.wrong,
    }


def needs_of(users: int, phases: dict[str, Closed]) -> dict[str, float | None]:
    """What ttl the load needs on this core, and what a ttl of 20 s would take; None without a rate."""
    refresh = phases["refresh"].per_server_s
    return {
        "load_s": phases["load"].wall_s,
        "ttl_s_at_least": per(users, refresh, 2),
        "users_per_s_for_20_s": users / INTERVAL_S,
        "cores_for_20_s": per(users / INTERVAL_S, refresh),
    }


def run_billion(plan: Plan, *, as_json: bool) -> int:
    """Ask for the memory, run, show; exit code 1 if an answer or a count was wrong or it does not fit."""
    needed, available = memory_needed(plan.users), int(psutil.virtual_memory().available)
    if needed > available:
        fits = max(0, int((available - BYTES_BESIDE) / BYTES_PER_USER))
        print(
            f"pulsering bench billion: {plan.users:,} users need about {needed / 2**30:.1f} GiB, but "
            f"{available / 2**30:.1f} GiB are available: free some, or take --users {fits}",
            file=sys.stderr,
        )
        return 1
    console = Console(stderr=True)
    console.print(
        f"{plan.users:,} users, about {needed / 2**30:.1f} GiB of {available / 2**30:.1f} GiB available"
    )
    results = billion(plan, console)
    print(json.dumps(results, indent=1) if as_json else text_of(results))
    return 1 if results["wrong_answers"] else 0


def text_of(results: dict[str, Any]) -> str:
    """For people."""
    users, needs, counted = results["plan"]["users"], results["needs"], results["counted"]
    lines = [f"{users:,} users, {results['bytes_per_user']:.2f} bytes each"]
    for name, phase in results["phases"].items():
        rate, by_clock = phase["users_per_server_cpu_s"], per(phase["users"], phase["wall_s"])
        lines.append(
            f"{name:10} {phase['users']:>15,} users  {shown(rate, '7.2f', 1e-6)} M/s of the node's CPU  "
            f"{shown(by_clock, '7.2f', 1e-6)} M/s by the clock  limit: {phase['limit']}"
        )
    lines += [
        f"count      {counted['loaded']:,} after the load, {counted['left']:,} after the wave "
        f"({counted['expected']:,} expected)",
        f"unknown    {results['unknown_answers']:,} answers: the node was started less than a ttl ago",
        f"wrong      {results['wrong_answers']:,}",
        "",
        f"This run had a ttl of {results['plan']['ttl_s']:,} s. A core that hears every user twice a "
        f"ttl needs one of {shown(needs['ttl_s_at_least'], ',.1f')} s at least.",
        f"A ttl of {SHORT_TTL_S} s with a heartbeat each {INTERVAL_S} s would take "
        f"{needs['users_per_s_for_20_s'] / 1e6:,.1f} M users/s: "
        f"{shown(needs['cores_for_20_s'], '.2f')} such cores, all of them busy.",
    ]
    return "\n".join(lines)
