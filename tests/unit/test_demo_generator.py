"""The demo is tested with services that lie: an honest one passes, each kind of lie is found.

The service is a dict in this process, and time is virtual: the loop jumps to the next timer instead of
waiting.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import numpy as np
import pytest

from pulsering import PresenceClient, UnknownPresence
from pulsering.errors import CallTimeout, NodeUnavailable
from pulsering_bench.crowd import Crowd
from pulsering_bench.generator import Generator
from pulsering_bench.plan import Plan
from pulsering_bench.trace import Event, playback

PLAN = Plan(users=500, seconds=40, page=50, pages_per_s=10, singles_per_s=5)
TTL, TICK = PLAN.ttl_ms / 1000, PLAN.ttl_ms / 80_000
OFFLINE, ONLINE, UNKNOWN = range(3)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        selector: Any = self._selector  # type: ignore[attr-defined]
        select = selector.select

        def jump(timeout: float | None = None) -> Any:
            self.now += timeout or 0.0
            return select(0)

        selector.select = jump

    def time(self) -> float:
        return self.now


ANSWER_S = 0.001
"""What a service takes, on the virtual clock."""


class Report(NamedTuple):
    total: int
    accepted: int
    reduced: int = 0


class Answers:
    def __init__(self, statuses: bytes) -> None:
        self.statuses = statuses
        self.unknown_reasons: dict[Any, int] = {}


class HonestService:
    """Says what is so, a millisecond after it was asked."""

    def __init__(self) -> None:
        self.deadlines: dict[Any, float] = {}
        self.now = asyncio.get_running_loop().time

    async def heartbeat_many(self, ids: Iterable[Any]) -> Report:
        await asyncio.sleep(ANSWER_S)
        users = list(ids)
        for user in users:
            self.beat(user)
        return Report(len(users), len(users))

    async def leave_many(self, ids: Iterable[Any]) -> Report:
        await asyncio.sleep(ANSWER_S)
        users = list(ids)
        for user in users:
            self.leave(user)
        return Report(len(users), len(users))

    async def get_many(self, ids: Iterable[Any]) -> Answers:
        await asyncio.sleep(ANSWER_S)
        return Answers(bytes(self.status(user) for user in ids))

    async def is_online(self, user: int) -> bool:
        status = self.status(user)
        if status == UNKNOWN:
            raise UnknownPresence("unknown")
        return status == ONLINE

    def beat(self, user: Any) -> None:
        self.deadlines[user] = self.now() + TTL

    def leave(self, user: Any) -> None:
        self.deadlines.pop(user, None)

    def status(self, user: Any) -> int:
        return ONLINE if self.deadlines.get(user, 0.0) > self.now() else OFFLINE


class KeepsWhoLeft(HonestService):
    def leave(self, user: Any) -> None:
        pass


class ExpiresLate(HonestService):
    def beat(self, user: Any) -> None:
        self.deadlines[user] = self.now() + TTL + 2 * TICK


class AddsDeadlines(HonestService):
    def beat(self, user: Any) -> None:
        self.deadlines[user] = max(self.now(), self.deadlines.get(user, 0.0)) + TTL


class NeverForgets(HonestService):
    def status(self, user: Any) -> int:
        return ONLINE if user in self.deadlines else OFFLINE


class BelievesAnybody(HonestService):
    def status(self, user: Any) -> int:
        return ONLINE


class LosesHeartbeats(HonestService):
    def beat(self, user: Any) -> None:
        if hash(user) % 50:
            super().beat(user)


class ExpiresEarly(HonestService):
    def beat(self, user: Any) -> None:
        self.deadlines[user] = self.now() + TTL / 2


class ForgetsAll(HonestService):
    """Restarts empty in the middle, and calls that offline."""

    def status(self, user: Any) -> int:
        return OFFLINE if 1020 < self.now() < 1021 else super().status(user)


class KnowsNothing(HonestService):
    def status(self, user: Any) -> int:
        return UNKNOWN


class FailsNowAndThen(HonestService):
    """Takes heartbeats and goodbyes, and does not always say so."""

    calls = 0

    async def heartbeat_many(self, ids: Iterable[Any]) -> Report:
        report = await super().heartbeat_many(ids)
        self.calls += 1
        if self.calls % 5 == 0:
            raise CallTimeout("too late")
        return report._replace(accepted=report.total - 1) if self.calls % 7 == 0 else report

    async def leave_many(self, ids: Iterable[Any]) -> Report:
        self.calls += 1
        if self.calls % 3 == 0:
            raise NodeUnavailable("gone")
        return await super().leave_many(ids)

    async def get_many(self, ids: Iterable[Any]) -> Answers:
        self.calls += 1
        if self.calls % 11 == 0:
            raise CallTimeout("too late")
        return await super().get_many(ids)


def crowd() -> Crowd:
    people = [f"p{number}" for number in range(20)]
    came = [Event(3540, user, "join") for user in people[:15]]
    moves = [
        Event(3600 + 60 * number, user, event)
        for number, (user, event) in enumerate(
            [
                ("p0", "leave"),
                ("p1", "drop"),
                ("p16", "join"),
                ("p0", "join"),
                ("p2", "leave"),
                ("p17", "leave"),
            ]
        )
    ]
    return Crowd(playback([*came, *moves], [1]), PLAN.seconds, np.random.default_rng(3))


def play(service: type[HonestService]) -> Generator:
    async def run() -> Generator:
        client = cast("PresenceClient", service())
        generator = Generator(client, PLAN, crowd(), tick=TICK, clock=asyncio.get_running_loop().time)
        await generator.run()
        return generator

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(run())


def test_an_honest_service_has_no_wrong_answer_and_was_really_tested() -> None:
    generator = play(HonestService)
    tally, load = generator.truth.tally, generator.load
    assert (tally.wrong, tally.unknown, load.failed_calls) == (0, 0, 0)
    assert tally.reads_checked == load.gets == 40 * 10 * 50 + 40 * 5 + 40 * 4 * len(generator.crowd)
    assert min(tally.online, tally.offline) > 1_000
    assert tally.undecided < tally.reads_checked / 20
    assert load.heartbeats > 4 * 500
    assert load.goodbyes > 20
    assert generator.elapsed == pytest.approx(PLAN.seconds, abs=0.3)


@pytest.mark.parametrize("lie", [KeepsWhoLeft, ExpiresLate, AddsDeadlines, NeverForgets, BelievesAnybody])
def test_who_is_shown_online_after_the_end_is_found(lie: type[HonestService]) -> None:
    tally = play(lie).truth.tally
    assert tally.ghosts > 0
    assert tally.false_offlines == 0


@pytest.mark.parametrize("lie", [LosesHeartbeats, ExpiresEarly, ForgetsAll])
def test_who_beats_and_is_called_offline_is_found(lie: type[HonestService]) -> None:
    tally = play(lie).truth.tally
    assert tally.false_offlines > 0
    assert tally.ghosts == 0


def test_unknown_is_never_wrong() -> None:
    tally = play(KnowsNothing).truth.tally
    assert (tally.wrong, tally.unknown) == (0, tally.reads_checked)


def test_a_call_that_failed_leaves_doubt_and_no_wrong_verdict() -> None:
    generator = play(FailsNowAndThen)
    tally, load = generator.truth.tally, generator.load
    assert tally.wrong == 0
    assert tally.unknown > 0
    assert load.unacknowledged > 0
    assert load.failures.keys() == {"CallTimeout", "NodeUnavailable"}
    assert load.failed_calls == sum(load.failures.values())
