"""Cancelling never crosses answers and leaves nothing behind (P4)."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest
from support.fake_node import FakeCluster, keys_in, until
from support.loops import on_each_loop

from pulsering import PresenceClient
from pulsering.ids import key_of
from pulsering.wire import Op

Method = Callable[[PresenceClient], Awaitable[object]]

METHODS: dict[str, Method] = {
    "heartbeat": lambda presence: presence.heartbeat(1),
    "heartbeat_many": lambda presence: presence.heartbeat_many(range(500, 550)),
    "is_online": lambda presence: presence.is_online(1),
    "get_many": lambda presence: presence.get_many(range(1000, 1050)),
    "leave": lambda presence: presence.leave(999),
    "leave_many": lambda presence: presence.leave_many(range(900, 950), grace=1),
    "count": lambda presence: presence.count(),
    "status": lambda presence: presence.status(),
}


async def cancelled_after(turns: int, call: Awaitable[object]) -> bool:
    """Cancel a call after so many turns of the loop; False if it was done before."""
    task = asyncio.ensure_future(call)
    for _ in range(turns):
        await asyncio.sleep(0)
    if task.done():
        await task
        return False
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return True


@pytest.mark.parametrize("method", list(METHODS))
@on_each_loop
async def test_a_call_cancelled_at_any_point_leaves_nothing_behind(method: str) -> None:
    """Scenario 38: at every turn of the loop from the first to the answer."""
    async with FakeCluster("abc", 2) as cluster, PresenceClient.from_url(cluster.url) as presence:
        await presence.heartbeat_many([2, 4, 6])
        tasks = len(asyncio.all_tasks())
        turns = 0
        while await cancelled_after(turns, METHODS[method](presence)):
            answers = await presence.get_many([2, 3, 4, 5, 6, 7])
            assert answers.online == (2, 4, 6), turns
            assert await presence.is_online(2), turns
            assert not await presence.is_online(3), turns
            turns += 1
        assert turns > 2
        stats = presence.stats()
        assert stats["calls_running"] == stats["keys_pending"] == 0
        await until(lambda: all(node["in_flight"] == 0 for node in presence.stats()["nodes"].values()))
        assert len(asyncio.all_tasks()) == tasks
        assert all(node["connects"] == 1 for node in stats["nodes"].values())


@on_each_loop
async def test_opening_cancelled_at_any_point_leaves_nothing_behind() -> None:
    """Scenario 38."""
    async with FakeCluster("abc", 2) as cluster:
        turns = 0
        while True:
            presence = PresenceClient.from_url(cluster.url)
            if not await cancelled_after(turns, presence.open()):
                break
            await until(lambda: len(asyncio.all_tasks()) == 1)
            turns += 1
        await presence.heartbeat(1)
        await presence.aclose()
        assert turns > 5


@on_each_loop
async def test_closing_cancelled_at_any_point_can_be_done_again() -> None:
    """Scenario 38: a service that gives up on closing still ends with nothing left."""
    async with FakeCluster("ab", 2) as cluster:
        turns = 0
        cancelled = True
        while cancelled:
            presence = PresenceClient.from_url(cluster.url)
            await presence.open()
            cancelled = await cancelled_after(turns, presence.aclose())
            await presence.aclose()
            await until(lambda: len(asyncio.all_tasks()) == 1)
            turns += 1


@on_each_loop
async def test_an_answer_to_a_cancelled_call_never_reaches_the_next() -> None:
    """Scenario 39: get(A) is cancelled while its reply is on its way; get(B), 10,000 times, is always B."""
    async with FakeCluster("a", 1) as cluster, PresenceClient.from_url(cluster.url, timeout=5) as presence:
        node = cluster["a"]
        node.users = {key_of(user, 0) for user in range(0, 20_000, 2)}
        for round_ in range(10_000):
            one = asyncio.create_task(presence.get_many([round_, round_ + 1, round_]))
            for _ in range(round_ % 7):
                await asyncio.sleep(0)
            one.cancel()
            other = await presence.get_many([round_ + 1, round_, round_ + 1])
            odd = round_ % 2
            assert other.statuses == bytes([odd, 1 - odd, odd])
        await until(lambda: presence.stats()["nodes"]["a"]["in_flight"] == 0)
        assert node.connections == 2, "one seed connection, one of the channel: never cut"


@on_each_loop
async def test_late_replies_in_any_order_find_their_own_calls() -> None:
    """Scenario 39: half of the calls are cancelled, the replies held back and sent in reverse."""
    async with FakeCluster("a", 1) as cluster, PresenceClient.from_url(cluster.url, timeout=5) as presence:
        node = cluster["a"]
        node.users = {key_of(user, 0) for user in range(0, 200, 3)}
        node.holding = True
        calls = [asyncio.create_task(presence.get_many([user])) for user in range(200)]
        await until(lambda: len(node.held) == 200)
        for call in calls[::2]:
            call.cancel()
        await asyncio.sleep(0)
        node.held.reverse()
        node.release()
        for user, call in enumerate(calls):
            if user % 2:
                assert (await call).statuses == bytes([user % 3 == 0])
        await until(lambda: presence.stats()["nodes"]["a"]["in_flight"] == 0)


@on_each_loop
async def test_a_waiter_that_is_cancelled_does_not_take_its_twin_along() -> None:
    """Scenario 38: duplicates share one place in the frame, not one fate."""
    async with FakeCluster("a", 1) as cluster, PresenceClient.from_url(cluster.url) as presence:
        one = asyncio.create_task(presence.heartbeat(1))
        twin = asyncio.create_task(presence.heartbeat(1))
        alone = asyncio.create_task(presence.heartbeat(2))
        await asyncio.sleep(0)
        one.cancel()
        alone.cancel()
        await twin
        [frame] = [frame for frame in cluster["a"].frames if frame.op == Op.HEARTBEAT]
        assert keys_in(frame) == [key_of(1, 0)], "what nobody waits for is not sent"


@on_each_loop
async def test_a_cancelled_call_that_waits_for_room_is_never_sent() -> None:
    """Scenario 38: beyond the node's in-flight limit requests wait in the client."""
    async with FakeCluster("a", 1) as cluster:
        cluster["a"].in_flight = 2
        async with PresenceClient.from_url(cluster.url, timeout=5, max_connections=1) as presence:
            node = cluster["a"]
            node.holding = True
            calls = [asyncio.create_task(presence.get_many([user])) for user in range(10)]
            await until(lambda: len(node.held) == 2)
            for call in calls[2:]:
                call.cancel()
            await asyncio.sleep(0)
            node.release()
            await asyncio.gather(*calls[:2])
            await presence.heartbeat(1)
            assert node.count(Op.GET) == 2
