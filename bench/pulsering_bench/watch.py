"""What a watch costs its client, and how soon it tells: real nodes, two clients of this process, one clock.

One client watches a crowd; the other says heartbeats and leaves. As both are here, the time from the call
that changes a user to the iterator that tells of it is read from one clock: it has both ways over loopback,
the node, and the client. For users who just stop it is the time from their deadline, a ttl after the
heartbeat was said, so it has the node's tick too. Then the whole crowd comes and goes, as fast as the watch
can be read. Invariant: a change that is not the expected one is an error, not a sample.
"""

import asyncio
import gc
import json
import os
from collections.abc import Awaitable, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter, process_time

import uvloop
from rich.console import Console
from rich.table import Table

from pulsering import Cause, Change, PresenceClient, Status, Watch, limits
from pulsering_bench.quotients import per, shown
from pulsering_bench.usage import bytes_of
from pulsering_server.local_cluster import LocalCluster

__all__ = ["Figures", "Work", "main", "measure"]


@dataclass(frozen=True)
class Work:
    """How much to do. ``users`` are watched, ``samples`` of them timed one by one."""

    users: int = 100_000
    samples: int = 500
    nodes: int = 1
    ttl_ms: int = 8_000


@dataclass(frozen=True)
class Figures:
    """What was measured; times in ms as (p50, p99, longest)."""

    users: int
    first_states_s: float
    bytes_per_user: float
    heartbeat_ms: tuple[float, float, float]
    leave_ms: tuple[float, float, float]
    expiry_ms: tuple[float, float, float]
    """Beyond the deadline."""
    tick_ms: float
    changes_per_s: float | None
    changes_per_cpu_s: float | None
    """Of this process: it sends the heartbeats too."""


async def measure(work: Work) -> Figures:
    """Start a cluster, do the work, and stop it."""
    async with (
        LocalCluster(work.nodes, ttl_ms=work.ttl_ms) as cluster,
        PresenceClient.from_url(cluster.url, timeout=10) as writer,
        PresenceClient.from_url(cluster.url, timeout=10) as reader,
    ):
        await _all_warm(writer)
        users = range(work.users)
        gc.collect()
        before = bytes_of([os.getpid()])
        began = perf_counter()
        async with reader.watch(users) as watch:
            await _states(watch, work.users, Status.OFFLINE)
            first_s = perf_counter() - began
            gc.collect()
            grown = bytes_of([os.getpid()]) - before
            some = users[:: max(1, work.users // work.samples)][: work.samples]
            beats = [
                await _timed(writer.heartbeat(user), watch, Status.ONLINE, Cause.HEARTBEAT) for user in some
            ]
            leaves = [await _timed(writer.leave(user), watch, Status.OFFLINE, Cause.LEFT) for user in some]
            expiries = await _timed_expiries(writer, watch, some, work.ttl_ms / 1000)
            changes, wall_s, cpu_s = await _crowd(writer, watch, users)
    return Figures(
        users=work.users,
        first_states_s=first_s,
        bytes_per_user=grown / work.users,
        heartbeat_ms=_shape(beats),
        leave_ms=_shape(leaves),
        expiry_ms=_shape(expiries),
        tick_ms=work.ttl_ms / limits.TICKS_PER_TTL,
        changes_per_s=per(changes, wall_s),
        changes_per_cpu_s=per(changes, cpu_s),
    )


async def _all_warm(client: PresenceClient) -> None:
    while any(not node.up or node.warming for node in await client.status()):  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def _states(watch: Watch, count: int, status: Status) -> None:
    for _ in range(count):
        _expect(await anext(watch), status)


def _expect(change: Change, status: Status, cause: Cause | None = None) -> None:
    if change.status is not status or (cause is not None and change.cause is not cause):
        raise RuntimeError(f"not the change that was made: {change}")


async def _timed(saying: Awaitable[None], watch: Watch, status: Status, cause: Cause) -> float:
    """Seconds from the call to the change that it makes."""
    began = perf_counter()
    said = asyncio.ensure_future(saying)
    _expect(await anext(watch), status, cause)
    took = perf_counter() - began
    await said
    return took


async def _timed_expiries(
    writer: PresenceClient, watch: Watch, users: Sequence[int], ttl_s: float
) -> list[float]:
    """Users who are heard once, spread over one ttl and one after another."""
    said: dict[object, float] = {}

    async def beat() -> None:
        for user in users:
            said[user] = perf_counter()
            await writer.heartbeat(user)
            await asyncio.sleep(0.5 * ttl_s / len(users))

    beating = asyncio.ensure_future(beat())
    late = []
    for _ in range(2 * len(users)):
        change = await anext(watch)
        if change.status is Status.OFFLINE:
            _expect(change, Status.OFFLINE, Cause.EXPIRED)
            late.append(perf_counter() - said[change.id] - ttl_s)
    await beating
    return late


async def _crowd(writer: PresenceClient, watch: Watch, users: range) -> tuple[int, float, float]:
    """Everybody comes and everybody goes; how many changes were read, in what time by the clock and CPU."""
    began, cpu = perf_counter(), process_time()
    for tell, status in ((writer.heartbeat_many, Status.ONLINE), (writer.leave_many, Status.OFFLINE)):
        telling = asyncio.ensure_future(tell(users))
        await _states(watch, len(users), status)
        await telling
    return 2 * len(users), perf_counter() - began, process_time() - cpu


def _shape(seconds: list[float]) -> tuple[float, float, float]:
    ordered = sorted(1000 * each for each in seconds)
    picked = (ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.99, 1.0))
    p50, p99, longest = picked
    return p50, p99, longest


def main(work: Work, *, as_json: bool) -> int:
    """Measure and print; the exit code."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(measure(work))
    if as_json:
        print(json.dumps(asdict(figures)))
        return 0
    table = Table(title=f"{figures.users:,} users watched, {work.nodes} node(s), ttl {work.ttl_ms} ms")
    for column in ("", "p50", "p99", "longest"):
        table.add_column(column, justify="right" if column else "left")
    for name, times in (
        ("heartbeat to change, ms", figures.heartbeat_ms),
        ("leave to change, ms", figures.leave_ms),
        (f"deadline to change, ms (a tick is {figures.tick_ms:g})", figures.expiry_ms),
    ):
        table.add_row(name, *(f"{each:.2f}" for each in times))
    console = Console()
    console.print(table)
    rates = [shown(rate, ",.0f") for rate in (figures.changes_per_s, figures.changes_per_cpu_s)]
    first_s, size = figures.first_states_s, figures.bytes_per_user
    console.print(
        f"first states after {first_s:.2f} s; {size:.0f} bytes of the client a user; "
        f" {rates[0]} changes/s read, {rates[1]} a CPU second"
    )
    return 0
