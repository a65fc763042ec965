"""Real nodes that are stopped and go on: what they missed is unknown, and nobody is revived."""

import asyncio
import json
import signal

from e2e.poll import until
from support.raw_peer import RawPeer

from pulsering import PresenceClient, Reason, Status, messages
from pulsering.wire import Op
from pulsering_server.local_cluster import LocalCluster, LocalNode

TTL_MS = 2_000
LIVE = range(200)
GONE = range(1_000, 1_200)
"""Users whose last heartbeat came just before the stop."""


async def settled(presence: PresenceClient) -> bool:
    """Whether all nodes are up and warm."""
    return all(node.up and not node.warming for node in await presence.status())


async def all_offline(presence: PresenceClient) -> bool:
    """Whether it is known of those who left that they did."""
    return set(await presence.get_many(GONE)) == {Status.OFFLINE}


async def stopped_for(node: LocalNode, ms: int) -> None:
    """Stop a process for so long, as a machine without time for it does."""
    loop = asyncio.get_running_loop()
    over = loop.time() + ms / 1000
    node.signal(signal.SIGSTOP)

    async def passed() -> bool:
        return loop.time() > over

    try:
        await until(passed)
    finally:
        node.signal(signal.SIGCONT)


async def test_scenario_22_a_node_is_stopped_under_load_and_goes_on() -> None:
    """No false OFF, no ghost; the stall is logged and measured once."""
    async with (
        LocalCluster(3, ttl_ms=TTL_MS) as cluster,
        PresenceClient.from_url(cluster.url, timeout=3) as presence,
    ):
        await until(lambda: settled(presence))
        await presence.heartbeat_many(LIVE)
        loop = asyncio.get_running_loop()
        seen: set[Status] = set()
        unacknowledged = 0

        async def live() -> None:
            nonlocal unacknowledged
            while True:
                said_at = loop.time()
                unacknowledged += (await presence.heartbeat_many(LIVE)).unacknowledged
                statuses = await presence.get_many(LIVE)
                if loop.time() - said_at < TTL_MS / 1000:  # else they may have expired, on a busy machine
                    seen.update(statuses)

        async with asyncio.TaskGroup() as tasks:
            load = tasks.create_task(live())
            await presence.heartbeat_many(GONE)
            last = loop.time()
            await stopped_for(cluster.nodes["b"], 2 * TTL_MS)
            assert loop.time() - last > 1.1 * TTL_MS / 1000
            for _ in range(20):
                assert Status.ONLINE not in set(await presence.get_many(GONE)), "they left before it went on"
            await until(lambda: all_offline(presence))
            load.cancel()
        assert Status.ONLINE in seen
        assert Status.OFFLINE not in seen
        assert unacknowledged == 0
        lines = [json.loads(line) for line in cluster.nodes["b"].log().splitlines() if "node.stalled" in line]
        assert len([line for line in lines if line["stood_still_ms"] >= 1.9 * TTL_MS]) == 1


async def test_scenario_22_the_only_owner_says_unknown_for_how_long_and_then_knows() -> None:
    """What lay in its sockets meanwhile counts from when it was said, so too old is too old."""
    async with (
        LocalCluster(1, ttl_ms=TTL_MS) as cluster,
        PresenceClient.from_url(cluster.url, timeout=10) as presence,
    ):
        await until(lambda: settled(presence))
        node = cluster.nodes["a"]
        host, _, port = node.address.rpartition(":")
        async with RawPeer(host, int(port)) as peer:
            await peer.greet()
            body = messages.encode_keys_request(1, 0, (7).to_bytes(8, "little"))
            stop = asyncio.create_task(stopped_for(node, 2 * TTL_MS))
            await asyncio.sleep(0)
            reply = await peer.ask(Op.HEARTBEAT, body)
            await stop
            assert messages.decode_write_reply(reply.body, 1).stale == 1, "it waited for two ttls"
            answer = messages.decode_get_reply((await peer.ask(Op.GET, body)).body, 1, want_ages=False)
            assert bytes(answer.states) == b"\x02"
            assert 0 < answer.warming_ms <= 1.1 * TTL_MS
        snapshot = await presence.get_many(GONE)
        assert set(snapshot) == {Status.UNKNOWN}
        assert set(snapshot.reasons) == {Reason.COLD}
        assert all(wait is not None and 0 < wait <= 1.1 * TTL_MS / 1000 for wait in snapshot.retry_after)
        await presence.heartbeat_many(LIVE)
        assert set(await presence.get_many(LIVE)) == {Status.ONLINE}
        await until(lambda: all_offline(presence))
