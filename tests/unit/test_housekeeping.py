"""Housekeeping holds the loop for less than a millisecond at a time, and gets done."""

import asyncio
import contextlib

from support.node_driver import TTL_MS, World

from pulsering_server.housekeeping import LINES_MAX, LINES_MIN, SLICE_NS_MAX, Slices, keep_house


def test_slices_shrink_when_slow_and_grow_when_fast() -> None:
    slices = Slices()
    for _ in range(50):
        slices.took(SLICE_NS_MAX // 10)
    assert slices.lines == LINES_MAX
    slices.took(SLICE_NS_MAX * 2)
    assert slices.lines == LINES_MAX // 2
    for _ in range(50):
        slices.took(10**9)
    assert slices.lines == LINES_MIN


def test_slices_settle_below_the_bound_on_any_machine() -> None:
    for ns_per_line in (10, 100, 1_000, 10_000):
        slices = Slices()
        for _ in range(50):
            slices.took(slices.lines * ns_per_line)
        assert slices.lines * ns_per_line <= SLICE_NS_MAX or slices.lines == LINES_MIN


async def test_housekeeping_turns_the_wheel_and_reclaims_what_expired() -> None:
    world = World()
    core = world.cores["a"]
    world.connect().beat(*range(1000))
    for _ in range(TTL_MS // 1000 + 1):
        world.advance(1_000)
    assert core.table.online == 0
    house = asyncio.create_task(keep_house(core, lambda: world.now_ms))
    async with asyncio.timeout(10):
        while core.table.entries:
            world.now_ms += 1
            await asyncio.sleep(0)
    house.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await house


def test_the_wheel_is_turned_when_deadlines_come_and_not_somewhere_between() -> None:
    """So that who watches hears of an expiry as it happens, and not up to a tick later."""
    world = World()
    core = world.cores["a"]
    ttl_ms, ticks = core.topology.ttl_ms, core.topology.ticks_per_ttl
    for now_ms in range(world.now_ms, world.now_ms + 2 * core.tick_ms):
        wait_ms = core.next_tick_ms(now_ms)
        assert 1 <= wait_ms <= core.tick_ms
        assert (now_ms + wait_ms) * ticks // ttl_ms == now_ms * ticks // ttl_ms + 1
        assert (now_ms + wait_ms - 1) * ticks // ttl_ms == now_ms * ticks // ttl_ms
