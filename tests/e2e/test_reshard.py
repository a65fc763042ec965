"""Real nodes whose cluster.yaml changes under load: nobody is called offline, nobody repairs by hand."""

import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from e2e.poll import until

from pulsering import PresenceClient, Status
from pulsering_server.local_cluster import LocalCluster, LocalNode

TTL_MS = 2_000
LIVE = range(300)
"""Users whose heartbeats never stop."""
NEVER = range(10_000, 10_300)
"""Users who never had one."""


class Load:
    """One client that beats, one that reads, and one that is new each time; what they saw."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.unacknowledged = 0
        self.reads = 0
        self.seen: set[Status] = set()
        self.ghosts: set[Status] = set()

    async def beat(self, presence: PresenceClient) -> None:
        while True:
            self.unacknowledged += (await presence.heartbeat_many(LIVE)).unacknowledged

    async def read(self, presence: PresenceClient) -> None:
        while True:
            await self.look(presence)

    async def look(self, presence: PresenceClient) -> None:
        self.seen.update(await presence.get_many(LIVE))
        self.ghosts.update(await presence.get_many(NEVER))
        self.reads += 1

    async def come_anew(self) -> None:
        while True:
            async with PresenceClient.from_url(self.url, timeout=2) as presence:
                await self.look(presence)

    async def more_reads(self, count: int) -> None:
        """Until so many more reads were judged."""
        goal = self.reads + count
        await until(lambda: _is(self.reads >= goal))


async def _is(true: bool) -> bool:
    return true


@asynccontextmanager
async def under_load(cluster: LocalCluster) -> AsyncIterator[tuple[Load, PresenceClient]]:
    """A cluster that is warm and in use; in the end, what the load saw is judged."""
    load = Load(cluster.url)
    async with PresenceClient.from_url(cluster.url, timeout=2) as presence:
        await until(lambda: all_settled(presence, 1))
        await presence.heartbeat_many(LIVE)
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(work)
                for work in (load.beat(presence), load.read(presence), load.come_anew())
            ]
            await load.more_reads(5)
            yield load, presence
            await load.more_reads(5)
            for task in running:
                task.cancel()
    assert Status.OFFLINE not in load.seen
    assert Status.ONLINE not in load.ghosts
    assert load.unacknowledged == 0


async def all_settled(presence: PresenceClient, epoch: int) -> bool:
    """Whether every node follows an epoch and is warm."""
    nodes = await presence.status()
    return all(node.up and node.epoch == epoch and not node.warming for node in nodes)


async def all_are(status: Status, presence: PresenceClient, users: range) -> bool:
    """Whether all users read alike; a machine with no time for its nodes makes them unknown for a while."""
    return set(await presence.get_many(users)) == {status}


async def counted(presence: PresenceClient, online: int) -> bool:
    """Whether a count is exact, and this."""
    count = await presence.count()
    assert not count.exact or count.online == online
    return count.exact


def edit(path: Path, epoch: int, *, add: str = "", remove: str = "") -> None:
    """Write the file anew, with or without a node, as an operator's tool does: whole."""
    lines = re.sub(r"^epoch: \d+", f"epoch: {epoch}", path.read_text("utf-8"), flags=re.M).splitlines()
    lines = [line for line in lines if not (remove and f"name: {remove}," in line)]
    new = path.with_suffix(".new")
    new.write_text("\n".join([*lines, *([add] if add else [])]) + "\n", "utf-8")
    new.replace(path)


async def spare_node(cluster: LocalCluster) -> str:
    """The line of a fourth node, at an address that was free a moment ago."""
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.4", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return f'  - {{name: d, address: "127.0.0.4:{port}"}}'


async def file_ahead(cluster: LocalCluster) -> Path:
    """A copy of the file, with a fourth node, that nobody knows of yet."""
    ahead = cluster.config_path.with_name("ahead.yaml")
    ahead.write_text(cluster.config_path.read_text("utf-8"), "utf-8")
    edit(ahead, 2, add=await spare_node(cluster))
    return ahead


async def test_scenario_30_a_node_comes_and_goes_under_load() -> None:
    """3 to 4 to 3: each node finds the new file by itself; the one removed says when it may be stopped."""
    async with LocalCluster(3, ttl_ms=TTL_MS) as cluster, under_load(cluster) as (load, presence):
        edit(cluster.config_path, 2, add=await spare_node(cluster))
        joined = LocalNode(cluster.config_path, "d")
        await joined.start()
        try:
            await until(lambda: all_settled(presence, 2))
            assert len(await presence.status()) == 4
            await load.more_reads(5)
            await until(lambda: all_are(Status.OFFLINE, presence, NEVER))
            await until(lambda: counted(presence, len(LIVE)))

            edit(cluster.config_path, 3, remove="d")
            await until(lambda: _is("node.removed" in joined.log()))
            async with asyncio.timeout(20):
                await until(lambda: all_settled(presence, 3))
                await until(lambda: _is("node.not_needed" in joined.log()))
            assert joined.running, "it may be stopped; nobody stops it but the operator"
            assert await joined.terminate() == 0
        finally:
            await joined.kill()
        await load.more_reads(5)
        await until(lambda: all_are(Status.OFFLINE, presence, NEVER))


async def test_scenario_31_half_the_nodes_stay_behind_for_several_ttls() -> None:
    """Two files, two epochs: a new owner that nobody told anything is not believed."""
    async with LocalCluster(3, ttl_ms=TTL_MS) as cluster:
        ahead = await file_ahead(cluster)
        joined = LocalNode(ahead, "d")
        async with under_load(cluster) as (load, presence):
            load.url += f",{ahead.read_text('utf-8').rsplit('address: ', 1)[1].split(chr(34))[1]}"
            await joined.start()
            try:
                async with PresenceClient.from_url(load.url.rsplit(",", 1)[0]) as unaware:
                    loop = asyncio.get_running_loop()
                    over = loop.time() + 2.5 * TTL_MS / 1000
                    await until(lambda: _is(loop.time() > over))
                    await load.more_reads(10)
                    assert set(await unaware.get_many(LIVE)) == {Status.ONLINE}
                ahead.replace(cluster.config_path)
                for node in cluster.nodes.values():
                    node.signal(signal.SIGHUP)
                await until(lambda: all_settled(presence, 2))
                await load.more_reads(5)
            finally:
                await joined.kill()


@pytest.mark.parametrize("victim", ["a", "d"])
async def test_scenario_30_a_node_is_killed_in_the_middle_of_a_change(victim: str) -> None:
    """One of those that stay, or the one that comes: with its restart all is well, and nobody was offline."""
    async with LocalCluster(3, ttl_ms=TTL_MS) as cluster, under_load(cluster) as (load, presence):
        ahead = await file_ahead(cluster)
        joined = LocalNode(ahead, "d")
        await joined.start()
        nodes = {**cluster.nodes, "d": joined}
        try:
            ahead.replace(cluster.config_path)
            ahead.symlink_to(cluster.config_path)
            nodes["b"].signal(signal.SIGHUP)
            await until(lambda: _is(presence.topology.epoch == 2))
            await until(lambda: _is(presence.stats()["nodes"]["d"]["ready"]))
            await nodes[victim].kill()
            await load.more_reads(10)
            await nodes[victim].start()
            await until(lambda: all_settled(presence, 2))
        finally:
            await joined.kill()


async def test_the_whole_cluster_restarts_and_is_right_again_after_one_ttl() -> None:
    """Nothing is on disk, so nothing can be restored wrongly: unknown until warm, then right."""
    async with LocalCluster(3, ttl_ms=TTL_MS) as cluster:  # noqa: SIM117 - the url is its
        async with PresenceClient.from_url(cluster.url, timeout=2) as presence:
            await until(lambda: all_settled(presence, 1))
            await presence.heartbeat_many(LIVE)
            for node in cluster.nodes.values():
                await node.kill()
            for node in cluster.nodes.values():
                await node.start()
            await until(lambda: _all_up(presence))
            back = range(100)
            seen: set[Status] = set()
            while not await all_settled(presence, 1):
                await presence.heartbeat_many(back)
                snapshot = await presence.get_many(LIVE)
                waits = [wait for wait in snapshot.retry_after[100:] if wait is not None]
                assert all(0 < wait <= 1.1 * TTL_MS / 1000 for wait in waits)
                seen.update(snapshot[100:])
                assert set(snapshot[:100]) == {Status.ONLINE}, "who is heard again is known again at once"
            assert Status.ONLINE not in seen, "nobody comes back who was not heard"
            await until(lambda: all_are(Status.OFFLINE, presence, LIVE[100:]))


async def _all_up(presence: PresenceClient) -> bool:
    with contextlib.suppress(ConnectionError, TimeoutError):
        return all(node.up for node in await presence.status())
    return False
