"""One service that uses the cluster: users come and go, everybody's status is read, everything is recorded.

``python -m chaos.load SPEC`` runs on a host of its own and answers commands: ``visit``, ``watch``, ``flood``,
``status``, ``stop``. What it does follows from the seed; when it happens is what really happened, by the
clock that all processes of this machine share. The load is light, so that it is never what is being tested,
and tells what it cannot know exactly: ``gap_us``, how long after a call's recorded begin its heartbeats may
have been said, and ``dial_us``, how late the first frame of a connection may have been. Invariant: a call is
recorded before it is made, and its answer after it was given.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import uvloop
from chaos.control import answer_commands
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from sim.history import BEAT, COUNT, LEAVE, READ, Begin, End, Record, dump

from pulsering import PresenceClient, PresenceError, Reason, Snapshot, Status, UnknownPresence

__all__ = ["Load", "Recorder", "Spec", "now_us"]

GROUP_USERS: Final = 20
STEADY_SHARE: Final = 0.6
SINGLES: Final = 10
READ_USERS: Final = 50
NEVER_USERS: Final = 500
NEVER_FIRST: Final = 1 << 32
NEW_FIRST: Final = 1 << 40
FLOOD_CALL_USERS: Final = 2_000
LOOKS: Final = 16
CONNECT_S: Final = 0.5
"""Half of a client's own: no connection's first frame can be later, and so much the judge must allow."""
WATCH_S: Final = 0.01
LAG_NOTED_US: Final = 20_000
LAGS_MAX: Final = 20_000


def now_us() -> int:
    """Microseconds of the clock that all recorders share."""
    return time.monotonic_ns() // 1000


class Spec(NamedTuple):
    """What one load is told."""

    name: str
    number: int
    seed: int
    url: str
    ttl_ms: int
    ticks: int
    replicas: int
    users: int
    """Of each load; those of each begin at ``number * users``."""
    loads: int
    reads_per_s: float
    timeout_s: float
    record: str
    """Where its history is written in the end."""

    def as_json(self) -> str:
        """As an argument of the program."""
        return json.dumps(self._asdict())


class _Way(NamedTuple):
    """The way to a node: whether it is asked, and what counts up each time that it was not."""

    open: bool
    connects: int
    opened: int


class Recorder:
    """Makes calls, and keeps what was asked and answered."""

    def __init__(self, client: PresenceClient, number: int, replicas: int) -> None:
        self.records: list[Record] = []
        self.problems: list[str] = []
        self.unreached: list[tuple[int, int, list[str]]] = []
        """From when to when a read was under way, and nodes that it could not ask at some time of it."""
        self.gap_us = 0
        self.reduced_us = 0
        """When the newest write was said that not all owners are known to have."""
        self.refused = 0
        """Heartbeats that nodes had no room for."""
        self._client = client
        self._replicas = replicas
        self._calls = number << 40
        self._loop = asyncio.get_running_loop()

    async def beat(self, users: tuple[int, ...], *, timeout_s: float | None = None) -> None:
        """Say that they are alive."""
        options: dict[str, Any] = {} if timeout_s is None else {"timeout": timeout_s}
        await self._write(BEAT, users, lambda: self._client.heartbeat_many(users, **options))

    async def leave(self, users: tuple[int, ...], grace_ms: int) -> None:
        """Say that they are gone."""
        grace = grace_ms / 1000 or None
        await self._write(LEAVE, users, lambda: self._client.leave_many(users, grace=grace), grace_ms * 1000)

    async def beat_one(self, user: int) -> None:
        """Say that one is alive, by the call for one: who has it besides one owner is not told."""

        async def ask() -> dict[str, Any]:
            await self._client.heartbeat(user)
            return {"copies": 1}

        await self._call(BEAT, (user,), ask)

    async def read(self, users: tuple[int, ...]) -> None:
        """Ask for their statuses."""

        async def ask() -> dict[str, Any]:
            snapshot = await self._client.get_many(users)
            self._check_reasons(snapshot)
            return {"statuses": snapshot.statuses}

        await self._read(users, ask)

    async def read_one(self, user: int) -> None:
        """Ask for one, by the call for one."""

        async def ask() -> dict[str, Any]:
            try:
                online = await self._client.is_online(user)
            except UnknownPresence:
                return {"statuses": bytes([Status.UNKNOWN])}
            return {"statuses": bytes([Status.ONLINE if online else Status.OFFLINE])}

        await self._read((user,), ask)

    async def count(self) -> None:
        """Ask how many are online."""

        async def ask() -> dict[str, Any]:
            count = await self._client.count()
            return {"total": count.online if count.exact else None}

        await self._call(COUNT, (), ask)

    async def _write(
        self, kind: str, users: tuple[int, ...], send: Callable[[], Awaitable[Any]], grace_us: int = 0
    ) -> None:
        began_us = now_us()

        async def ask() -> dict[str, Any]:
            report = await send()
            self.refused += report.refused
            if report.accepted < report.total:
                return {"copies": 0}
            return {"copies": 1 if report.reduced else self._replicas}

        if await self._call(kind, users, ask, grace_us) < self._replicas:
            self.reduced_us = max(self.reduced_us, began_us)

    async def _read(self, users: tuple[int, ...], ask: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        began_us, before = now_us(), self._ways()
        await self._call(READ, users, ask)
        ways = self._ways()
        missed = [name for name, way in ways.items() if not way.open or way != before.get(name, way)]
        missed += [name for name, way in before.items() if not way.open and name not in missed]
        if missed:
            self.unreached.append((began_us, now_us(), missed))

    def _ways(self) -> dict[str, _Way]:
        nodes = self._client.stats()["nodes"]
        return {
            name: _Way(
                node["ready"] and node["circuit"] == "closed", node["connects"], node["circuit_opened"]
            )
            for name, node in nodes.items()
        }

    async def _call(
        self,
        kind: str,
        users: tuple[int, ...],
        ask: Callable[[], Awaitable[dict[str, Any]]],
        grace_us: int = 0,
    ) -> int:
        self._calls += 1
        call = self._calls
        began_us = now_us()
        self.records.append(Begin(began_us, call, kind, users, grace_us))
        self._loop.call_soon(self._note_gap, began_us)  # by the next turn, it has been said
        try:
            answer = await ask()
        except PresenceError as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:200]}
        end = End(now_us(), call, **answer)
        self.records.append(end)
        return end.copies

    def _note_gap(self, began_us: int) -> None:
        self.gap_us = max(self.gap_us, now_us() - began_us)

    def _check_reasons(self, snapshot: Snapshot) -> None:
        for status, reason in zip(snapshot.statuses, snapshot.reasons, strict=True):
            if (status == Status.UNKNOWN) != (reason != Reason.NONE) and len(self.problems) < 10:
                self.problems.append(f"{Status(status).name} with the reason {reason.name}")


class Load:
    """Users that live, and somebody who looks, until it is told to stop."""

    def __init__(self, spec: Spec, client: PresenceClient) -> None:
        self.recorder = Recorder(client, spec.number, spec.replicas)
        self.lags: list[tuple[int, int]] = []
        """When this process had no turn for how many microseconds."""
        self._spec = spec
        self._client = client
        self._ttl_s = spec.ttl_ms / 1000
        self._tasks: set[asyncio.Task[None]] = set()
        self._came = 0
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Let everybody live."""
        spec = self._spec
        first = spec.number * spec.users
        groups = (spec.users - SINGLES) // GROUP_USERS
        for number in range(groups):
            begin = first + SINGLES + number * GROUP_USERS
            users = tuple(range(begin, begin + GROUP_USERS))
            steady = number < groups * STEADY_SHARE
            self.spawn(self._live(users, random.Random(f"{spec.seed}/{begin}"), steady=steady))
        self.spawn(self._live_singly(range(first, first + SINGLES), random.Random(f"{spec.seed}/{first}")))
        self.spawn(self._look(random.Random(f"{spec.seed}/{spec.name}")))
        self.spawn(self._count_everybody())
        self.spawn(self._watch_lag())

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run it beside the rest; if it fails, this process does."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.recorder.problems.append(f"a call raised {error!r}")

    async def stop(self) -> None:
        """End everything; calls under way have no end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- users -----------------------------------------------------------------------------------------------

    async def _live(self, users: tuple[int, ...], rng: random.Random, *, steady: bool) -> None:
        """A group that beats as one, for ever or in sessions that end with a leave or without a word."""
        ttl_s, recorder = self._ttl_s, self.recorder
        await asyncio.sleep(rng.random() * ttl_s)
        while True:
            staying = True
            last_s = self._loop.time()
            while staying:
                last_s = self._loop.time()
                await recorder.beat(users)
                await asyncio.sleep(rng.uniform(0.3, 0.48) * ttl_s)
                staying = steady or rng.random() < 0.75
            ends_s = [last_s + ttl_s]
            if rng.random() < 0.4:
                grace_ms = 0 if rng.random() < 0.6 else rng.randrange(1, self._spec.ttl_ms // 2)
                left_s = self._loop.time()
                await recorder.leave(users, grace_ms)
                ends_s = [left_s, left_s + grace_ms / 1000]
                if rng.random() < 0.2:  # back again at once
                    continue
            await self._look_closely(users, ends_s)
            await asyncio.sleep(rng.uniform(0.1, 0.6) * ttl_s)

    async def _look_closely(self, users: tuple[int, ...], ends_s: list[float]) -> None:
        """Read where answers must change, and when nobody may have been revived."""
        tick_s = self._ttl_s / self._spec.ticks
        changes_s = (-tick_s / 3, tick_s / 2, tick_s + 0.06, 2 * tick_s + 0.15)
        looks_s = [end_s + offset_s for end_s in ends_s for offset_s in changes_s]
        looks_s += [ends_s[-1] + share * self._ttl_s for share in (0.4, 0.7, 1.0)]
        for look_s in looks_s:
            await asyncio.sleep(max(0.0, look_s - self._loop.time()))
            await self.recorder.read(users)

    async def _live_singly(self, users: range, rng: random.Random) -> None:
        """Users of whom each beats by a call of its own, all in one turn."""
        while True:
            await asyncio.gather(*map(self.recorder.beat_one, users))
            await asyncio.sleep(rng.uniform(0.3, 0.48) * self._ttl_s)

    # -- who looks -------------------------------------------------------------------------------------------

    async def _look(self, rng: random.Random) -> None:
        """Ask for pages of users at a steady pace, whether earlier answers have come or not."""
        spec, recorder = self._spec, self.recorder
        due_s = self._loop.time()
        while True:
            due_s = max(due_s + 1 / spec.reads_per_s, self._loop.time() - 1)
            await asyncio.sleep(max(0.0, due_s - self._loop.time()))
            everybody = spec.users * spec.loads
            page = tuple(rng.randrange(everybody) for _ in range(READ_USERS - 5))
            page += tuple(NEVER_FIRST + rng.randrange(NEVER_USERS) for _ in range(5))
            dice = rng.random()
            asked = self.spawn(recorder.read(page))
            if dice < 0.03:  # somebody goes away, and another asks on the same connections
                await asyncio.sleep(rng.uniform(0, 0.005))
                asked.cancel()
                self.spawn(recorder.read(page[::-1]))
            elif dice < 0.13:
                self.spawn(recorder.read_one(page[0]))

    async def _count_everybody(self) -> None:
        while True:
            await asyncio.sleep(self._ttl_s / 3)
            await self.recorder.count()

    async def _watch_lag(self) -> None:
        while True:
            began_us = now_us()
            await asyncio.sleep(WATCH_S)
            lag_us = now_us() - began_us - round(WATCH_S * 1e6)
            if lag_us > LAG_NOTED_US and len(self.lags) < LAGS_MAX:
                self.lags.append((now_us(), lag_us))

    # -- what the tour asks ----------------------------------------------------------------------------------

    def visit(self, users: int) -> dict[str, Any]:
        """Have so many new users beat once, now; which they are."""
        visitors = self._newcomers(users)
        self.spawn(self.recorder.beat(visitors))
        return {"visitors": visitors}

    def watch(self, visitors: list[int]) -> dict[str, Any]:
        """Look at some users again and again for four ttls."""

        async def look() -> None:
            for _ in range(LOOKS):
                await asyncio.sleep(4 * self._ttl_s / LOOKS)
                await self.recorder.read(tuple(visitors))

        self.spawn(look())
        return {}

    async def flood(self, users: int) -> dict[str, Any]:
        """Have so many new users beat once, and look at them."""
        crowd = self._newcomers(users)
        parts = [crowd[at : at + FLOOD_CALL_USERS] for at in range(0, users, FLOOD_CALL_USERS)]
        for part in parts:
            await self.recorder.beat(part, timeout_s=5)
        for part in parts:
            await self.recorder.read(part)
        return {"flooded": users, "refused": self.recorder.refused}

    def _newcomers(self, users: int) -> tuple[int, ...]:
        first = NEW_FIRST + (self._spec.number << 32) + self._came
        self._came += users
        return tuple(range(first, first + users))

    async def status(self) -> dict[str, Any]:
        """How the cluster looks from here."""
        nodes = await self._client.status()
        return {
            "epoch": self._client.topology.epoch,
            "reduced_us": self.recorder.reduced_us,
            "nodes": {
                node.name: {
                    "up": node.up,
                    "ready": node.up and node.warming == 0 and node.circuit == "closed",
                    "epoch": node.epoch,
                }
                for node in nodes
            },
        }


async def main(spec: Spec) -> None:
    """Live until stdin ends; ``stop`` writes the history."""
    reader = InMemoryMetricReader()
    meters = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    options: Any = {"timeout": spec.timeout_s, "connect_timeout": CONNECT_S, "telemetry": meters}
    async with PresenceClient.from_url(spec.url, **options) as client:
        load = Load(spec, client)
        load.start()

        async def obey(do: str, **fields: Any) -> dict[str, Any]:
            if do == "status":
                return await load.status()
            if do == "visit":
                return load.visit(**fields)
            if do == "watch":
                return load.watch(**fields)
            if do == "flood":
                return await load.flood(**fields)
            assert do == "stop"
            await load.stop()
            recorder = load.recorder
            _write(recorder.records, Path(spec.record))
            facts = {"gap_us": recorder.gap_us, "dial_us": _slowest_dial_us(reader)}
            noted = {"unreached": recorder.unreached, "lags": load.lags}
            return {**facts, **noted, "problems": recorder.problems}

        try:
            await answer_commands(obey)
        finally:
            await load.stop()


def _write(records: Iterable[Record], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        dump(records, file)


def _slowest_dial_us(reader: InMemoryMetricReader) -> int:
    data = reader.get_metrics_data()
    slowest_s = 0.0
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                if metric.name == "db.client.connection.create_time":
                    points: Any = metric.data.data_points
                    slowest_s = max([slowest_s, *(point.max for point in points)])
    assert slowest_s > 0, "a client that has nodes has dialed them"
    return round(slowest_s * 1e6)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Spec(**json.loads(sys.argv[1]))))
