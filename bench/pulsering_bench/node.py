"""How many users a second one node serves through the real client, at what cost, and how fast a page is.

One real node process on one core, this process with the real client on another. ``node_loads`` asks for as
much as both can do and accounts for the CPU seconds of each side; then for pages of a thousand users at half
of what was possible, in open loop: alone, with idle connections beside, and while the table grows and is
swept. Rates are users per second of the server's CPU; each says how it is known. Invariant: no figure comes
from a run in which an answer was wrong without that being said in ``wrong_answers``.
"""

import asyncio
import contextlib
import gc
import json
import os
import resource
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import psutil  # type: ignore[import-untyped,unused-ignore]
import uvloop
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from pulsering import PresenceClient
from pulsering_bench.node_loads import PAGE, Load, Loads, RawPeer, Starving
from pulsering_bench.quotients import per, shown
from pulsering_server.local_cluster import LocalCluster, LocalNode

__all__ = ["Idle", "NodeFigures", "Pages", "measure", "run"]

CALLS_AT_ONCE: Final = 4
"""Enough that neither side waits for the other, few enough that the frames stay in the caches."""

SMALL: Final = 100
SMALL_CALLS_AT_ONCE: Final = 64
"""Small frames share a read, as they do where many handlers beat for their devices."""

TASKS: Final = 1000
GROWTH_MAX: Final = 0.25
"""Of the users: at most so many are added until the table begins to grow, by a quarter at a time."""

GROWTH_PER_S: Final = 100_000
"""New users a second meanwhile, half of whom leave: far more than a node sees, and still a small part of its
time."""

FILES_BESIDE: Final = 256
"""Files that this process has open beside the idle connections."""


@dataclass(frozen=True)
class Pages:
    """Pages in open loop: how long they took from when they were due.

    ``starved`` is the share of time in which the node or this process had work but other programs had its
    core: the percentiles are the node's own only where it is next to nothing.
    """

    name: str
    per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    starved: float


@dataclass(frozen=True)
class Idle:
    """Connections that only stand open: the node's memory for each, and a page's p99 over that without."""

    connections: int
    bytes_each: float
    p99_ratio: float


@dataclass(frozen=True)
class NodeFigures:
    """One run; ``*_per_s`` are users a second of the server's CPU, ``*_s_per_million`` CPU seconds.

    Both are None where nobody was served.
    """

    users: int
    batch: int
    heartbeats_per_s: float | None
    heartbeats_per_s_batch_100: float | None
    raw_heartbeats_per_s_batch_100: float | None
    raw_frames_of_one_per_s: float | None
    """Prebuilt frames, so that the server has all it can do."""
    gets_per_s: float | None
    calls_of_one_per_s: float
    """By the clock: what a client does in a second that awaits each heartbeat by itself."""
    server_cpu_s_per_million: float | None
    client_cpu_s_per_million: float | None
    p50_ms: float
    p99_ms: float
    p999_ms: float
    """Of the pages while the table grew and was swept."""
    bottleneck: str
    basis: str
    """How ``heartbeats_per_s`` and ``bottleneck`` are known."""
    wrong_answers: int
    failed_calls: int
    loads: tuple[Load, ...]
    pages: tuple[Pages, ...]
    idle: Idle


async def measure(
    users: int, batch: int, seconds: float, idle: int, tell: Callable[[str], None] = lambda _: None
) -> NodeFigures:
    """Load ``users`` users and run each load for about ``seconds``, some beside ``idle`` connections."""
    idle = _allowed(idle)
    limits: dict[str, str | int] = {"connections": idle + 64}
    async with LocalCluster(1, ttl_ms=_ttl_ms(users, seconds), limits=limits, admin=True) as cluster:
        (node,) = cluster.nodes.values()
        with _apart(node.pid):
            async with PresenceClient.from_url(cluster.url, timeout=10) as presence:
                loads = Loads(presence, node.pid, users)
                tell(f"loading {users:,} users")
                await loads.fill()
                closed = await _closed_loops(loads, node.address, batch, seconds, tell)
                tell("refreshing everybody")
                await loads.fill()
                pages, beside = await _open_loops(loads, node, closed[-1], seconds, idle, tell)
    beats, small, small_raw, ones_raw, gets, singles, _ = closed
    served = beats.users + gets.users
    return NodeFigures(
        users=users,
        batch=batch,
        heartbeats_per_s=beats.per_server_s,
        heartbeats_per_s_batch_100=small.per_server_s,
        raw_heartbeats_per_s_batch_100=small_raw.per_server_s,
        raw_frames_of_one_per_s=ones_raw.per_server_s,
        gets_per_s=gets.per_server_s,
        calls_of_one_per_s=singles.calls / singles.wall_s,
        server_cpu_s_per_million=per(beats.server_s + gets.server_s, served, 1e6),
        client_cpu_s_per_million=per(beats.client_s + gets.client_s, served, 1e6),
        p50_ms=pages[-1].p50_ms,
        p99_ms=pages[-1].p99_ms,
        p999_ms=pages[-1].p999_ms,
        bottleneck=beats.bottleneck,
        basis=beats.basis,
        wrong_answers=loads.wrong,
        failed_calls=loads.failed,
        loads=closed,
        pages=pages,
        idle=beside,
    )


async def _closed_loops(
    loads: Loads, address: str, batch: int, seconds: float, tell: Callable[[str], None]
) -> tuple[Load, Load, Load, Load, Load, Load, Load]:
    tell(f"heartbeat_many, {batch} users")
    beats = await loads.batches(f"heartbeat_many {batch}", loads.refresh, batch, CALLS_AT_ONCE, seconds)
    tell(f"heartbeat_many, {SMALL} users")
    small = await loads.batches(f"heartbeat_many {SMALL}", loads.refresh, SMALL, SMALL_CALLS_AT_ONCE, seconds)
    with contextlib.closing(RawPeer(address)) as peer:
        tell("raw frames")
        small_raw = await loads.raw(f"raw frames of {SMALL}", peer, SMALL, seconds)
        ones_raw = await loads.raw("raw frames of 1", peer, 1, seconds)
    tell(f"get_many, {batch} users")
    gets = await loads.batches(f"get_many {batch}", loads.get, batch, CALLS_AT_ONCE, seconds)
    tell(f"heartbeat, {TASKS} tasks")
    singles = await loads.singles(f"heartbeat, {TASKS} tasks", TASKS, seconds)
    tell(f"get_many, {PAGE} users")
    pages = await loads.batches(f"get_many {PAGE}", loads.get, PAGE, CALLS_AT_ONCE, seconds)
    return beats, small, small_raw, ones_raw, gets, singles, pages


async def _open_loops(
    loads: Loads, node: LocalNode, possible: Load, seconds: float, idle: int, tell: Callable[[str], None]
) -> tuple[tuple[Pages, Pages, Pages], Idle]:
    rate = max(1, possible.calls) / possible.wall_s / 2
    tell(f"pages of {PAGE}, {rate:,.0f} a second")
    alone = await _pages("pages", loads, rate, seconds)
    before = _resident(loads.server_pid)
    with contextlib.ExitStack() as stack:
        tell(f"the same beside {idle:,} idle connections")
        for _ in range(idle):
            stack.enter_context(contextlib.closing(RawPeer(node.address)))
            await asyncio.sleep(0)
        bytes_each = (_resident(loads.server_pid) - before) / max(idle, 1)
        beside = await _pages(f"beside {idle} idle", loads, rate, seconds)
    tell("adding users until the table grows")
    before_it = await _growth_steps(node.admin)
    added_max = loads.users + round(GROWTH_MAX * loads.users)
    while loads.grown < added_max and await _growth_steps(node.admin) == before_it:
        await loads.add(max(PAGE, loads.users // 500))
    share = min(GROWTH_PER_S * seconds / loads.users, GROWTH_MAX)
    tell(f"pages while {share:.1%} more users come and half of them leave")
    async with asyncio.TaskGroup() as group:
        group.create_task(loads.grow(share, seconds))
        growing = await _pages("while it grows", loads, rate, seconds)
    return (alone, beside, growing), Idle(idle, bytes_each, beside.p99_ms / alone.p99_ms)


async def _pages(name: str, loads: Loads, rate: float, seconds: float) -> Pages:
    starving, began = Starving(loads.server_pid), time.perf_counter()
    took = await loads.pages(rate, seconds)
    starved = starving.seconds / (time.perf_counter() - began)
    p50, p99, p999 = np.percentile(took, [50, 99, 99.9]) * 1000
    return Pages(name, rate, float(p50), float(p99), float(p999), starved)


async def _growth_steps(admin: str) -> int:
    """How often the node's table has begun to grow."""
    return int(await asyncio.to_thread(_metric, admin, 'pulsering_table_resizes_total{direction="grow"}'))


def _metric(admin: str, sample: str) -> float:
    with urllib.request.urlopen(f"http://{admin}/metrics", timeout=10) as scrape:
        lines = scrape.read().decode().splitlines()
    return next(float(line.removeprefix(sample)) for line in lines if line.startswith(sample))


def _ttl_ms(users: int, seconds: float) -> int:
    """Long enough that nobody expires between two fills on a slow machine, short enough that sweeps go on."""
    return 60_000 + round(seconds * 10_000) + users // 1000


def _allowed(idle: int) -> int:
    """As many idle connections as this process and the node may have files for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = idle + FILES_BESIDE
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(idle, soft - FILES_BESIDE)


def _resident(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


@contextlib.contextmanager
def _apart(server_pid: int) -> Iterator[None]:
    """Give each side a core of its own, where there are two, and this one a collector that looks at less."""
    cores = os.sched_getaffinity(0)
    if len(cores) >= 2:
        os.sched_setaffinity(server_pid, {min(cores)})
        os.sched_setaffinity(0, {max(cores)})
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        os.sched_setaffinity(0, cores)


# --- For people -------------------------------------------------------------------------------------------


def report(figures: NodeFigures) -> list[Table]:
    """The figures as people read them."""
    loads = Table(title=f"one node, {figures.users:,} users resident", box=SIMPLE, pad_edge=False)
    for heading in ("load", "M/CPU s", "M/s", "server", "client", "starved", "limit"):
        loads.add_column(heading, justify="left" if heading == "load" else "right", no_wrap=True)
    for load in figures.loads:
        loads.add_row(
            load.name,
            shown(load.per_server_s, ".3f", 1e-6),
            f"{load.users / load.wall_s / 1e6:.3f}",
            f"{load.server_share:.0%}",
            f"{load.client_share:.0%}",
            f"{load.starved_s / load.wall_s:.0%}",
            load.bottleneck,
        )
    pages = Table(
        title=f"pages of {PAGE} users at half of what is possible, open loop", box=SIMPLE, pad_edge=False
    )
    for heading in ("", "pages / s", "p50 ms", "p99 ms", "p99.9 ms", "starved"):
        pages.add_column(heading, justify="right" if heading else "left")
    for each in figures.pages:
        milliseconds = (f"{ms:.2f}" for ms in (each.p50_ms, each.p99_ms, each.p999_ms))
        pages.add_row(each.name, f"{each.per_s:,.0f}", *milliseconds, f"{each.starved:.1%}")
    return [loads, pages]


def lines_of(figures: NodeFigures) -> list[str]:
    """What the tables do not say."""
    idle = figures.idle
    return [
        "M/CPU s: millions of users a CPU second of the server; starved: had work, but others its core",
        f"server CPU s a million users  {shown(figures.server_cpu_s_per_million, '.4f')}",
        f"client CPU s a million users  {shown(figures.client_cpu_s_per_million, '.4f')}",
        f"idle connections              {idle.connections:,} at {idle.bytes_each / 1024:.2f} KiB each,"
        f" p99 of a page x {idle.p99_ratio:.2f}",
        f"bottleneck                    {figures.bottleneck}; {figures.basis}",
        f"wrong answers                 {figures.wrong_answers}, calls without one {figures.failed_calls}",
    ]


def run(users: int, batch: int, seconds: float, idle: int, *, as_json: bool) -> int:
    """``pulsering bench node``; its exit code."""
    steps = Console(stderr=True, highlight=False)
    figures = uvloop.run(measure(users, batch, seconds, idle, lambda step: steps.print(f"  {step}")))
    if as_json:
        print(json.dumps(asdict(figures)))
    else:
        console = Console(highlight=False)
        for table in report(figures):
            console.print(table)
        for line in lines_of(figures):
            console.print(line)
    return 1 if figures.wrong_answers else 0
