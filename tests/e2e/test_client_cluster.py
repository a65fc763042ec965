"""The client against real node processes: kill -9, restart, rolling restart (scenarios 24 to 26, 36, 37)."""

import asyncio

import pytest
from support.loops import on_each_loop

from pulsering import NodeUnavailable, PresenceClient, Status
from pulsering_server.local_cluster import LocalCluster

TTL_MS = 2_000
USERS = range(300)


async def beating(presence: PresenceClient, stop: asyncio.Event) -> int:
    """Say of all users that they are alive, again and again; returns how often some were not acknowledged."""
    failed = 0
    while not stop.is_set():
        failed += (await presence.heartbeat_many(USERS)).unacknowledged > 0
        await presence.get_many(USERS)
    return failed


async def statuses_until(presence: PresenceClient, wanted: Status, within: float) -> set[Status]:
    """Read until all users have one status; returns every status that was seen on the way."""
    seen: set[Status] = set()
    async with asyncio.timeout(within):
        while True:
            snapshot = await presence.get_many(USERS)
            seen.update(snapshot)
            if snapshot.counts[wanted] == len(USERS):
                return seen


@on_each_loop
async def test_kill_9_of_one_node_is_no_error_and_no_false_offline() -> None:
    """Scenario 24."""
    async with (
        LocalCluster(3, ttl_ms=TTL_MS) as cluster,
        PresenceClient.from_url(cluster.url, timeout=1) as presence,
    ):
        await presence.heartbeat_many(USERS)
        stop = asyncio.Event()
        beats = asyncio.create_task(beating(presence, stop))
        await cluster.kill("a")
        for _ in range(100):
            assert Status.OFFLINE not in set(await presence.get_many(USERS))
        assert await statuses_until(presence, Status.ONLINE, 2.0) <= {Status.ONLINE, Status.UNKNOWN}
        await cluster.restart("a")
        seen = await statuses_until(presence, Status.ONLINE, 5.0)
        assert Status.OFFLINE not in seen
        stop.set()
        assert await beats == 0


@on_each_loop
async def test_both_owners_killed_is_unknown_until_they_are_warm_and_never_offline() -> None:
    """Scenarios 25 and 26: then, one ttl after the restart, offline is known again."""
    async with (
        LocalCluster(2, ttl_ms=TTL_MS) as cluster,
        PresenceClient.from_url(cluster.url, timeout=1) as presence,
    ):
        await statuses_until(presence, Status.OFFLINE, 10.0)
        await presence.heartbeat_many(USERS)
        for name in "ab":
            await cluster.kill(name)
        with pytest.raises(NodeUnavailable):
            await presence.get_many(USERS)
        for name in "ab":
            await cluster.restart(name)
        await _until_all_are_up(presence)
        snapshot = await presence.get_many(USERS)
        assert snapshot.counts[Status.ONLINE] == 0
        await statuses_until(presence, Status.OFFLINE, 10.0)


@on_each_loop
async def test_a_rolling_restart_is_no_error_for_anybody() -> None:
    """Scenario 37: each node drains, ends, and comes back."""
    async with (
        LocalCluster(3, ttl_ms=TTL_MS) as cluster,
        PresenceClient.from_url(cluster.url, timeout=1) as presence,
    ):
        await presence.heartbeat_many(USERS)
        stop = asyncio.Event()
        beats = asyncio.create_task(beating(presence, stop))
        for node in cluster.nodes.values():
            assert await node.terminate() == 0
            await node.start()
            await _until_all_are_up(presence)
            assert Status.OFFLINE not in await statuses_until(presence, Status.ONLINE, 5.0)
        stop.set()
        assert await beats == 0


async def _until_all_are_up(presence: PresenceClient) -> None:
    async with asyncio.timeout(10):
        while not all(node.up for node in await presence.status()):
            pass
