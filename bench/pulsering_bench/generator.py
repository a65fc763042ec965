"""Plays the people through the real client, reads behind their back, and lets ``Truth`` judge every
answer.

Everything is open loop: each heartbeat and each read has an intended moment, and latency counts from
there, so a service that stalls cannot hide it by slowing the load down. The generator's own lateness is
measured as well: when it could not keep up, the verdict has to say so. A call that fails leaves the truth
in doubt, never the generator in pieces; a batch of which one id was not acknowledged counts as not
acknowledged, as the report does not say which one.

Rows of ``Truth``: the trace's people first (string ids), then the synthetic ones, then strangers (numeric
ids).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]
from numpy.typing import NDArray

from pulsering import PresenceClient
from pulsering.errors import PresenceError, UnknownPresence
from pulsering_bench.crowd import Crowd
from pulsering_bench.plan import STEP_S, Plan
from pulsering_bench.population import Population, Rows
from pulsering_bench.truth import OFFLINE, ONLINE, UNKNOWN, Truth

IN_FLIGHT_MAX: Final = 64
"""Calls of one kind under way before the generator waits, and thereby admits that it is late."""


def _histogram() -> HdrHistogram:
    return HdrHistogram(1, 60_000_000, 3)  # microseconds, up to a minute, three digits


@dataclass
class Load:
    """What has been sent and asked so far, and how late the generator itself was."""

    heartbeats: int = 0
    """Acknowledged."""
    unacknowledged: int = 0
    reduced: int = 0
    """Acknowledged by fewer than all owners."""
    goodbyes: int = 0
    gets: int = 0
    """Ids answered for, in whatever way."""
    failed_calls: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    unknown_reasons: dict[str, int] = field(default_factory=dict)
    get_us: HdrHistogram = field(default_factory=_histogram)
    """Batch-gets, from the intended start."""
    single_us: HdrHistogram = field(default_factory=_histogram)
    second_us: HdrHistogram = field(default_factory=_histogram)
    """The same, for whoever shows and empties it now and then."""
    lag_us: HdrHistogram = field(default_factory=_histogram)
    """How late heartbeats were sent."""

    def failed(self, error: PresenceError) -> None:
        """Count a call that ended in an error, by its type."""
        self.failed_calls += 1
        name = type(error).__name__
        self.failures[name] = self.failures.get(name, 0) + 1


class Generator:
    """The load of one demo; ``run`` plays until ``plan.seconds`` have passed."""

    def __init__(
        self,
        client: PresenceClient,
        plan: Plan,
        crowd: Crowd,
        *,
        tick: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare the people; nothing is sent before ``run``. ``clock`` gives seconds and never goes back."""
        self.clock = clock
        self.plan = plan
        self.crowd = crowd
        self.client = client
        self.load = Load()
        rng = np.random.default_rng(plan.seed)
        self.people = Population(plan.users, plan.steps, first=len(crowd), rng=rng)
        self.truth = Truth(len(crowd) + self.people.rows, ttl=plan.ttl_ms / 1000, tick=tick)
        self.started = self.clock()
        self._rng = np.random.default_rng(plan.seed + 1)
        # Consecutive ids, as a database hands them out, from somewhere in the upper half of a bigint.
        self._id_offset = np.uint64(int(self._rng.integers(1 << 62, 1 << 63)))
        self._last_turn = np.zeros(plan.steps)

    @property
    def elapsed(self) -> float:
        """Seconds since ``run`` began."""
        return self.clock() - self.started

    async def run(self) -> None:
        """Play the whole load; returns when the last call has been answered or has failed."""
        self.started = self.clock()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat(group))
            group.create_task(self._play_crowd())
            group.create_task(self._read(group, self.plan.pages_per_s, 0.5, self._page))
            group.create_task(self._read(group, self.plan.crowds_per_s, 0.05, self._read_crowd))
            group.create_task(self._read(group, self.plan.singles_per_s, 0.4, self._single))

    # --- Writing ----------------------------------------------------------------------------------------

    async def _beat(self, group: asyncio.TaskGroup) -> None:
        slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        async for index, due in self._every(STEP_S):
            now = self.clock()
            self.load.lag_us.record_value(_us(now - due))
            turn = index % self.plan.steps
            step = self.people.step(index, self._last_turn[turn])
            self._last_turn[turn] = now
            for rows, tell in ((step.beats, self._heartbeats), (step.goodbyes, self._goodbyes)):
                if len(rows):
                    await slots.acquire()
                    call = group.create_task(tell(rows, self._ids(rows)))
                    call.add_done_callback(lambda _: slots.release())

    async def _play_crowd(self) -> None:
        # One call after the other: nobody of the trace beats and says goodbye at the same time.
        async for _, _ in self._every(STEP_S * 2, 0.45):
            step = self.crowd.step(self.elapsed)
            for rows, tell in ((step.beats, self._heartbeats), (step.goodbyes, self._goodbyes)):
                if len(rows):
                    await tell(rows, self._names(rows))

    async def _heartbeats(self, rows: Rows, ids: Any) -> None:
        acknowledged = False
        began = self.clock()
        self.truth.heartbeat_begins(rows)
        try:
            report = await self.client.heartbeat_many(ids)
            acknowledged = report.accepted == report.total
            self.load.heartbeats += report.accepted
            self.load.unacknowledged += report.total - report.accepted
            self.load.reduced += report.reduced
        except PresenceError as error:
            self.load.failed(error)
            self.load.unacknowledged += len(rows)
        finally:
            self.truth.heartbeat_ends(rows, began, self.clock(), acknowledged)

    async def _goodbyes(self, rows: Rows, ids: Any) -> None:
        acknowledged = False
        began = self.clock()
        self.truth.leave_begins(rows)
        try:
            report = await self.client.leave_many(ids)
            # An owner too slow for the report may go on saying online until it has the goodbye as well.
            acknowledged = report.accepted == report.total and not report.reduced
            self.load.goodbyes += report.accepted
        except PresenceError as error:
            self.load.failed(error)
        finally:
            self.truth.leave_ends(rows, began, self.clock(), acknowledged)

    # --- Reading ----------------------------------------------------------------------------------------

    async def _read(
        self,
        group: asyncio.TaskGroup,
        per_s: float,
        phase: float,
        ask: Callable[[float], Coroutine[Any, Any, None]],
    ) -> None:
        slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        async for _, due in self._every(1 / per_s, phase):
            await slots.acquire()
            group.create_task(ask(due)).add_done_callback(lambda _: slots.release())

    async def _page(self, due: float) -> None:
        rows = self.people.sample(self.plan.page, self.clock(), self.truth.ttl)
        await self._judged(rows, self._statuses(self._ids(rows)))
        took = _us(self.clock() - due)
        self.load.get_us.record_value(took)
        self.load.second_us.record_value(took)

    async def _read_crowd(self, due: float) -> None:
        rows: Rows = np.arange(len(self.crowd))
        await self._judged(rows, self._statuses(list(self.crowd.playback.names)))

    async def _single(self, due: float) -> None:
        rows = self.people.sample(20, self.clock(), self.truth.ttl)[:1]
        await self._judged(rows, self._one_status(int(self._ids(rows)[0])))
        self.load.single_us.record_value(_us(self.clock() - due))

    async def _judged(self, rows: Rows, ask: Awaitable[NDArray[np.uint8]]) -> None:
        read = self.truth.read_begins(rows, self.clock())
        try:
            statuses = await ask
        except PresenceError as error:
            self.load.failed(error)
            statuses = np.full(len(rows), UNKNOWN, dtype=np.uint8)
        self.truth.read_ends(read, self.clock(), statuses)
        self.load.gets += len(rows)

    async def _statuses(self, ids: Any) -> NDArray[np.uint8]:
        snapshot = await self.client.get_many(ids)
        statuses = np.frombuffer(snapshot.statuses, dtype=np.uint8)
        if np.any(statuses == UNKNOWN):
            reasons = snapshot.unknown_reasons.items()
            self._count_reasons({reason.name: count for reason, count in reasons})
        return statuses

    async def _one_status(self, user: int) -> NDArray[np.uint8]:
        try:
            status = ONLINE if await self.client.is_online(user) else OFFLINE
        except UnknownPresence as unknown:
            status = UNKNOWN
            self._count_reasons({getattr(unknown.reason, "name", "NONE"): 1})
        return np.array([status], dtype=np.uint8)

    def _count_reasons(self, reasons: dict[str, int]) -> None:
        for reason, count in reasons.items():
            name = reason.lower()
            self.load.unknown_reasons[name] = self.load.unknown_reasons.get(name, 0) + count

    # --- Pacing -----------------------------------------------------------------------------------------

    async def _every(self, period: float, phase: float = 0.0) -> AsyncIterator[tuple[int, float]]:
        """Yield (index, intended moment) until the plan's end; late ones follow at once, none is left out.

        ``phase``, a part of the period, keeps apart what would not happen at one moment in life either.
        """
        for index in range(round(self.plan.seconds / period)):
            due = self.started + (index + phase) * period
            await asyncio.sleep(max(0.0, due - self.clock()))
            yield index, due

    def _ids(self, rows: Rows) -> NDArray[np.uint64]:
        return rows.astype(np.uint64) + self._id_offset

    def _names(self, rows: Rows) -> list[str]:
        names = self.crowd.playback.names
        return [names[row] for row in rows]


def _us(seconds: float) -> int:
    return max(1, round(seconds * 1e6))
