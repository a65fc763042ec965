"""How many users a second one node serves through the real client, at what cost, and how fast a page is.

One real node process on one core, this process with the real client on another. Three closed loops (refresh
by ``heartbeat_many``, the same in small batches, ``get_many``) ask for as much as both can do and account
for the CPU seconds of each side; one open loop asks for pages of a thousand users at half that load, each
timed from when it was due. Every answer is judged while it is measured: users of the lower half of the id
space were beaten, users of the upper never were.

Rates are users per second of the server's CPU: wall time where the server was busy all the time, and
otherwise the users divided by the CPU seconds it used. ``bottleneck`` says which side was busy. Invariant: no
figure comes from a run in which an answer was wrong without that being said in ``wrong_answers``.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pulsering import PresenceClient, Status
from pulsering_server.local_cluster import LocalCluster

__all__ = ["NodeFigures", "measure"]

TTL_MS: Final = 3_600_000
"""Nobody expires while the users are loaded."""

CALLS_AT_ONCE: Final = 4
"""Enough that neither side waits for the other, few enough that the frames stay in the caches."""

PAGE: Final = 1000
BUSY_SHARE: Final = 0.9
"""Of a core, above which a side is called busy."""

LOAD_BATCH: Final = 8192
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")

Ids = NDArray[np.uint64]


@dataclass(frozen=True)
class Loop:
    """What one closed loop did: users, and seconds of wall time and of each side's CPU."""

    users: int
    wall_s: float
    server_s: float
    client_s: float

    @property
    def server_busy(self) -> bool:
        """Whether the server worked all the time."""
        return self.server_s > BUSY_SHARE * self.wall_s

    @property
    def client_busy(self) -> bool:
        """Whether this process worked all the time."""
        return self.client_s > BUSY_SHARE * self.wall_s

    @property
    def per_server_s(self) -> float:
        """Users a second of the server's CPU."""
        return self.users / (self.wall_s if self.server_busy else max(self.server_s, 1 / _TICKS_PER_S))


@dataclass(frozen=True)
class NodeFigures:
    """One run; ``*_per_s`` are users a second of the server's CPU, ``*_s_per_million`` CPU seconds."""

    users: int
    batch: int
    heartbeats_per_s: float
    heartbeats_per_s_batch_100: float
    gets_per_s: float
    heartbeats_per_wall_s: float
    gets_per_wall_s: float
    server_cpu_s_per_million: float
    client_cpu_s_per_million: float
    page_rate_per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    bottleneck: str
    wrong_answers: int


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process has used, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


async def measure(
    users: int, batch: int, seconds: float, tell: Callable[[str], None] = lambda _: None
) -> NodeFigures:
    """Load ``users`` users and run each loop for about ``seconds``."""
    async with LocalCluster(1, ttl_ms=TTL_MS) as cluster:
        (node,) = cluster.nodes.values()
        _pin(node.pid)
        async with PresenceClient.from_url(cluster.url, timeout=10) as presence:
            bench = _Bench(presence, node.pid, users)
            tell(f"loading {users:,} users")
            await bench.load()
            tell(f"refreshing in batches of {batch}")
            refresh = await bench.loop(bench.refresh, batch, seconds)
            tell("refreshing in batches of 100")
            small = await bench.loop(bench.refresh, 100, seconds)
            tell(f"getting in batches of {batch}")
            gets = await bench.loop(bench.get, batch, seconds)
            rate = 0.5 / (PAGE * max(gets.server_s, gets.client_s) / gets.users)
            rate = min(rate, 2000.0)
            tell(f"pages of {PAGE}, {rate:,.0f} a second, open loop")
            latencies = await bench.pages(rate, seconds)
    p50, p99, p999 = np.percentile(latencies, [50, 99, 99.9]) * 1000
    whole = Loop(
        refresh.users + gets.users,
        refresh.wall_s + gets.wall_s,
        refresh.server_s + gets.server_s,
        refresh.client_s + gets.client_s,
    )
    return NodeFigures(
        users=users,
        batch=batch,
        heartbeats_per_s=refresh.per_server_s,
        heartbeats_per_s_batch_100=small.per_server_s,
        gets_per_s=gets.per_server_s,
        heartbeats_per_wall_s=refresh.users / refresh.wall_s,
        gets_per_wall_s=gets.users / gets.wall_s,
        server_cpu_s_per_million=whole.server_s / whole.users * 1e6,
        client_cpu_s_per_million=whole.client_s / whole.users * 1e6,
        page_rate_per_s=rate,
        p50_ms=float(p50),
        p99_ms=float(p99),
        p999_ms=float(p999),
        bottleneck=_bottleneck(whole),
        wrong_answers=bench.wrong,
    )


class _Bench:
    """A client, the node it talks to, and who is online there."""

    def __init__(self, presence: PresenceClient, server_pid: int, users: int) -> None:
        self.wrong = 0
        self._presence = presence
        self._pid = server_pid
        self._users = users
        self._rng = np.random.default_rng(1)

    async def load(self) -> None:
        numbers = iter(range(0, self._users, LOAD_BATCH))

        async def worker() -> None:
            for start in numbers:
                ids = np.arange(start, min(start + LOAD_BATCH, self._users), dtype=np.uint64)
                report = await self._presence.heartbeat_many(ids)
                self.wrong += report.total - report.accepted

        await asyncio.gather(*(worker() for _ in range(CALLS_AT_ONCE)))

    async def loop(self, call: Callable[[Ids], Awaitable[None]], batch: int, seconds: float) -> Loop:
        """Closed loop: as many calls as can be answered, ``CALLS_AT_ONCE`` under way."""
        pool = [self._present(batch) for _ in range(64)]
        done = 0
        server, client, began = cpu_seconds(self._pid), time.process_time(), time.perf_counter()
        end = began + seconds

        async def worker(offset: int) -> None:
            nonlocal done
            turn = offset
            while time.perf_counter() < end:
                await call(pool[turn % len(pool)])
                turn += 1
                done += batch

        await asyncio.gather(*(worker(offset) for offset in range(CALLS_AT_ONCE)))
        wall = time.perf_counter() - began
        return Loop(done, wall, cpu_seconds(self._pid) - server, time.process_time() - client)

    async def refresh(self, ids: Ids) -> None:
        report = await self._presence.heartbeat_many(ids)
        self.wrong += report.total - report.accepted

    async def get(self, ids: Ids) -> None:
        snapshot = await self._presence.get_many(ids)
        self.wrong += len(ids) - snapshot.counts[Status.ONLINE]

    async def pages(self, rate: float, seconds: float) -> NDArray[np.float64]:
        """Open loop: pages due at fixed times, half their users never seen; seconds from due to answer."""
        latencies: list[float] = []
        pool = [np.concatenate([self._present(PAGE // 2), self._absent(PAGE // 2)]) for _ in range(64)]

        async def page(due: float, ids: Ids) -> None:
            snapshot = await self._presence.get_many(ids)
            latencies.append(time.perf_counter() - due)
            online = np.frombuffer(snapshot.statuses, np.uint8) == Status.ONLINE
            self.wrong += int(np.count_nonzero(~online[: PAGE // 2]) + np.count_nonzero(online[PAGE // 2 :]))

        began = time.perf_counter()
        running: set[asyncio.Task[None]] = set()
        for turn in range(max(1, int(rate * seconds))):
            due = began + turn / rate
            while (ahead := due - time.perf_counter()) > 0:  # noqa: ASYNC110  # it waits for a time, not an event
                # Timers of the loop are a millisecond coarse; the last one is spent giving others a turn.
                await asyncio.sleep(ahead - 0.001 if ahead > 0.002 else 0)
            task = asyncio.create_task(page(due, pool[turn % len(pool)]))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)
        return np.array(latencies)

    def _present(self, count: int) -> Ids:
        return self._rng.integers(0, self._users, count, dtype=np.uint64)

    def _absent(self, count: int) -> Ids:
        return self._rng.integers(2**63, 2**64, count, dtype=np.uint64)


def _pin(server_pid: int) -> None:
    """Give each side a core of its own, where there are two."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= 2:
        os.sched_setaffinity(server_pid, {cores[0]})
        os.sched_setaffinity(0, {cores[1]})


def _bottleneck(loop: Loop) -> str:
    if loop.server_busy and loop.client_busy:
        return "both"
    return "server" if loop.server_busy else "client" if loop.client_busy else "neither"
