"""A clock that cannot be believed makes a node suspect, never generous."""

import asyncio
import contextlib

import pytest
from support.node_driver import OFFLINE, ONLINE, TICK_MS, TTL_MS, UNKNOWN, World

from pulsering import limits
from pulsering_server.clock_watch import ClockWatch
from pulsering_server.housekeeping import keep_house

HOUR_MS = 3_600_000
YEAR_MS = 365 * 24 * HOUR_MS
DOUBT_MS = limits.CLOCK_DOUBT_MS


class Clocks:
    """Three clocks of one machine, with origins of their own, and what the watch says each tick."""

    def __init__(self) -> None:
        self.boot_ms, self.wall_ms, self.steady_ms = 5_000_000, 1_700_000_000_000, 77_000
        self.watch = ClockWatch()
        self.tick(0)

    def tick(self, ms: int, *, boot: int | None = None, wall: int | None = None) -> str:
        """Let ``ms`` pass, or other amounts on single clocks."""
        self.steady_ms += ms
        self.boot_ms += ms if boot is None else boot
        self.wall_ms += ms if wall is None else wall
        return self.watch.note(self.boot_ms, self.wall_ms, self.steady_ms)


def test_clocks_that_agree_raise_no_doubt() -> None:
    clocks = Clocks()
    for ms in [TICK_MS] * 1000 + [0, 1, 30_000, HOUR_MS, YEAR_MS]:
        assert clocks.tick(ms) == "", "also after a stall or a suspend, which all of them count"


def test_a_time_daemon_that_nudges_the_wall_clock_raises_no_doubt() -> None:
    clocks = Clocks()
    for step in range(10_000):
        nudge = 500 if step % 2 else -500
        assert clocks.tick(TICK_MS, wall=TICK_MS + nudge) == ""


def test_scenario_23_a_clock_that_stands_still_is_seen_within_2_s_and_again_while_it_does() -> None:
    clocks = Clocks()
    said = [clocks.tick(TICK_MS, boot=0) for _ in range(4 * DOUBT_MS // TICK_MS)]
    assert [index + 1 for index, doubt in enumerate(said) if doubt] == [
        multiple * DOUBT_MS // TICK_MS for multiple in (1, 2, 3, 4)
    ]
    assert said[DOUBT_MS // TICK_MS - 1] == "the clock has stood still for 2000 ms"


def test_a_clock_that_goes_back_stands_still() -> None:
    clocks = Clocks()
    assert any(clocks.tick(TICK_MS, boot=-10) for _ in range(DOUBT_MS // TICK_MS))


def test_a_clock_that_creeps_does_not_stand_still() -> None:
    clocks = Clocks()
    assert not any(clocks.tick(TICK_MS, boot=TICK_MS - 1) for _ in range(1000))


@pytest.mark.parametrize("pause_ms", [DOUBT_MS, 30_000, HOUR_MS, YEAR_MS])
def test_a_leap_of_the_wall_clock_is_taken_for_a_pause_of_the_machine(pause_ms: int) -> None:
    """A hypervisor stops all clocks of a guest; what was lost shows when somebody corrects its wall clock."""
    clocks = Clocks()
    assert f"leapt {pause_ms} ms" in clocks.tick(TICK_MS, wall=TICK_MS + pause_ms)
    assert clocks.tick(TICK_MS) == "", "said once"


@pytest.mark.parametrize("step_ms", [HOUR_MS, YEAR_MS])
def test_scenario_19_a_wall_clock_that_is_set_back_means_nothing(step_ms: int) -> None:
    clocks = Clocks()
    assert clocks.tick(TICK_MS, wall=TICK_MS - step_ms) == ""
    assert clocks.tick(TICK_MS) == ""


def test_a_suspect_node_forgets_everybody_and_calls_nobody_offline() -> None:
    """Who is held may have left while the clock stood: neither online nor offline can be said."""
    world = World()
    world.warm()
    core, peer = world.cores["a"], world.connect()
    peer.beat(1)
    core.take_events()
    core.start_over("a reason", world.now_ms)
    assert peer.get(1, 2) == [UNKNOWN, UNKNOWN]
    assert peer.count() == 0
    assert peer.vitals().warming_ms == TTL_MS + TICK_MS, "not ready"
    assert core.stats.suspicions == 1
    assert core.take_events() == [("node.suspect", {"reason": "a reason", "users_forgotten": 1})]
    peer.beat(1)
    assert peer.get(1, 2) == [ONLINE, UNKNOWN]
    world.advance(TTL_MS + TICK_MS)
    assert peer.get(1, 2) == [OFFLINE, OFFLINE]


def test_what_a_suspect_node_counted_is_not_forgotten() -> None:
    world = World()
    peer = world.connect()
    peer.beat(1, 2, 3)
    world.cores["a"].start_over("a reason", world.now_ms)
    peer.beat(4)
    assert world.cores["a"].stats.heartbeats["accepted"] == 4


async def test_scenario_23_housekeeping_starts_over_while_the_clock_stands_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop runs, the clock does not: nobody may stay online by it."""
    monkeypatch.setattr(limits, "CLOCK_DOUBT_MS", 20)
    world = World()
    world.warm()
    core = world.cores["a"]
    core.tick_ms = 1
    world.connect().beat(1)
    assert world.connect().is_online(1) == ONLINE
    house = asyncio.create_task(keep_house(core, lambda: world.now_ms, None, lambda: 0))
    async with asyncio.timeout(10):
        while core.stats.suspicions < 2:  # noqa: ASYNC110 - a plain int, which wakes nobody
            await asyncio.sleep(0)
    assert world.connect().is_online(1) == UNKNOWN
    house.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await house
