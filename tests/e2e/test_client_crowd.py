"""Two hundred callers of one client while a node, or every node, swallows what it gets: no storm."""

import asyncio
import contextlib

from support.fake_node import FakeCluster
from support.loops import on_each_loop

from pulsering import CallTimeout, NodeUnavailable, Overloaded, PresenceClient, limits
from pulsering.wire import Frame, Op

CALLERS = 200
ROUNDS = 3


def mute(frame: Frame) -> None:
    return None


@on_each_loop
async def test_a_black_hole_is_no_reason_to_ask_for_the_topology_again_and_again() -> None:
    """Scenario 41: at most two refreshes a second, and whoever has another owner is answered by it."""
    loop = asyncio.get_running_loop()
    async with FakeCluster("abc", 2) as cluster, PresenceClient.from_url(cluster.url, timeout=3) as presence:
        await presence.heartbeat_many(range(1000))
        cluster["b"].script = dict.fromkeys((Op.GET, Op.HEARTBEAT, Op.TOPOLOGY), mute)
        asked = sum(node.count(Op.TOPOLOGY) for node in cluster.nodes.values())
        began = loop.time()

        async def caller(user: int) -> None:
            for _ in range(ROUNDS):
                await presence.get_many([user])

        await asyncio.gather(*(caller(user) for user in range(CALLERS)))
        seconds = loop.time() - began
        again = sum(node.count(Op.TOPOLOGY) for node in cluster.nodes.values()) - asked
        assert presence.stats()["topology_refreshes"] <= 2 * seconds + 1
        assert again <= len(cluster.nodes) * (2 * seconds + 1)
        assert (await presence.get_many(range(1000))).online


@on_each_loop
async def test_when_everything_fails_callers_do_not_ask_twice_as_much() -> None:
    """Scenario 41: attempts are at most 1.1 times the calls, beyond the tokens saved up."""
    async with FakeCluster("abc", 2) as cluster, PresenceClient.from_url(cluster.url) as presence:
        for node in cluster.nodes.values():
            node.script[Op.GET] = mute
        saved = presence.stats()["retry_tokens"]

        async def caller(user: int) -> None:
            for _ in range(ROUNDS):
                with contextlib.suppress(CallTimeout, NodeUnavailable, Overloaded):
                    assert (await presence.get_many([user])).unknown == (user,)

        await asyncio.gather(*(caller(user) for user in range(CALLERS)))
        calls = CALLERS * ROUNDS
        attempts = sum(node.count(Op.GET) for node in cluster.nodes.values())
        assert 0 < attempts <= calls * (1 + limits.RETRY_BUDGET_RATIO) + saved
