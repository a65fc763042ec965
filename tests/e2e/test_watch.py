"""``presence.watch`` against real nodes: dots that turn, and faults that turn none."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from e2e.poll import until
from e2e.test_reshard import all_settled, edit, spare_node

from pulsering import Cause, Change, PresenceClient, Reason, Status, Watch, WatchOverflow
from pulsering.sync import PresenceClient as BlockingClient
from pulsering_server.local_cluster import LocalCluster, LocalNode

pytestmark = pytest.mark.asyncio(loop_scope="module")

TTL_MS = 2_000
LIVE = range(200)
"""Users whose heartbeats never stop."""
NEVER = range(10_000, 10_200)
"""Users who never had one."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[LocalCluster]:
    async with LocalCluster(3, ttl_ms=TTL_MS) as running:
        async with PresenceClient.from_url(running.url, timeout=2) as presence:
            await until(lambda: all_settled(presence, 1))
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def presence(cluster: LocalCluster) -> AsyncIterator[PresenceClient]:
    async with PresenceClient.from_url(cluster.url, timeout=2) as client:
        await until(lambda: all_settled(client, client.topology.epoch))
        yield client


async def some(watch: Watch, count: int) -> list[Change]:
    """The next changes."""
    async with asyncio.timeout(10):
        return [await anext(watch) for _ in range(count)]


class Page:
    """What a page of users shows: the last change of each, and every status it ever showed."""

    def __init__(self) -> None:
        self.shown: dict[object, Change] = {}
        self.seen: dict[object, set[Status]] = {}
        self.changes = 0

    async def follow(self, watch: Watch) -> None:
        async for change in watch:
            last = self.shown.get(change.id)
            assert change.version > (last.version if last is not None else 0)
            self.shown[change.id] = change
            self.seen.setdefault(change.id, set()).add(change.status)
            self.changes += 1

    def all_are(self, status: Status, users: Iterable[int]) -> bool:
        return all(user in self.shown and self.shown[user].status is status for user in users)

    def ever(self, users: Iterable[int]) -> set[Status]:
        return set().union(*(self.seen[user] for user in users))


@asynccontextmanager
async def page_under_load(cluster: LocalCluster) -> AsyncIterator[Page]:
    """A page of users some of whom beat all the time, watched by another service than the one that beats."""
    page = Page()
    async with (
        PresenceClient.from_url(cluster.url, timeout=2) as writer,
        PresenceClient.from_url(cluster.url) as reader,
        reader.watch([*LIVE, *NEVER]) as watch,
    ):

        async def beat() -> None:
            while True:
                with contextlib.suppress(ConnectionError, TimeoutError):
                    await writer.heartbeat_many(LIVE)
                await asyncio.sleep(TTL_MS / 20_000)

        tasks = [asyncio.create_task(beat()), asyncio.create_task(page.follow(watch))]
        try:
            await until(lambda: _is(page.all_are(Status.ONLINE, LIVE)))
            await until(lambda: _is(page.all_are(Status.OFFLINE, NEVER)))
            page.seen.clear()
            for user, change in page.shown.items():
                page.seen[user] = {change.status}
            yield page
            await until(lambda: _is(page.all_are(Status.ONLINE, LIVE)))
            await until(lambda: _is(page.all_are(Status.OFFLINE, NEVER)))
            assert not any(task.done() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def _is(true: bool) -> bool:
    return true


async def test_what_one_service_hears_turns_the_dot_in_another(
    cluster: LocalCluster, presence: PresenceClient
) -> None:
    async with PresenceClient.from_url(cluster.url) as other, presence.watch(["ann"]) as watch:
        assert await some(watch, 1) == [Change("ann", Status.OFFLINE, Reason.NONE, Cause.NONE, 1)]
        # From all owners: one that hears late of the heartbeat would turn the dot once more after the leave.
        assert (await other.heartbeat_many(["ann"], timeout=5)).reduced == 0
        assert await some(watch, 1) == [Change("ann", Status.ONLINE, Reason.NONE, Cause.HEARTBEAT, 2)]
        await other.leave("ann")
        assert await some(watch, 1) == [Change("ann", Status.OFFLINE, Reason.NONE, Cause.LEFT, 3)]
        await other.heartbeat("ann")
        await other.leave("ann", grace=0.2)
        turned = await some(watch, 2)
        assert [change[1:4:2] for change in turned] == [
            (Status.ONLINE, Cause.HEARTBEAT),
            (Status.OFFLINE, Cause.LEFT),
        ]


async def test_who_stops_beating_turns_offline_without_a_word_from_anybody(presence: PresenceClient) -> None:
    async with presence.watch(["bob"]) as watch:
        await some(watch, 1)
        await presence.heartbeat("bob")
        assert [change.cause for change in await some(watch, 2)] == [Cause.HEARTBEAT, Cause.EXPIRED]
        assert await presence.is_online("bob") is False


async def test_a_slow_watch_gets_the_latest_state_and_is_cut_at_its_limit(presence: PresenceClient) -> None:
    users = range(20_000, 20_020)
    async with presence.watch(users, buffer=10) as watch:
        await some(watch, len(users))
        for _ in range(3):
            await presence.heartbeat_many(users[:5])
            await presence.leave_many(users[:5])
        await presence.heartbeat_many(users[:5])
        await until(lambda: _is(watch.waiting == 5))
        last = {}
        while watch.waiting:
            [change] = await some(watch, 1)
            last[change.id] = change
        assert {change.status for change in last.values()} <= {Status.ONLINE, Status.OFFLINE}
        assert all(change.version > 1 for change in last.values())
        await presence.heartbeat_many(users)
        with pytest.raises(WatchOverflow, match="at most 10 may"):
            await some(watch, 20)
        await presence.leave_many(users)


async def test_blocking_code_watches_too(cluster: LocalCluster, presence: PresenceClient) -> None:
    def watches() -> list[Change]:
        with BlockingClient.from_url(cluster.url) as blocking, blocking.watch(iter(["cy"])) as watch:
            seen = [next(watch)]
            blocking.heartbeat("cy")
            seen.append(next(watch))
            watch.add(["dan"])
            for change in watch:
                seen.append(change)
                break
            watch.remove(["cy", "dan"])
            assert watch.watched == 0
            watch.close()
            assert list(watch) == []
            return seen

    seen = await asyncio.to_thread(watches)
    assert [(change.id, change.status, change.version) for change in seen] == [
        ("cy", Status.OFFLINE, 1),
        ("cy", Status.ONLINE, 2),
        ("dan", Status.OFFLINE, 1),
    ]
    await presence.leave("cy")


async def test_the_command_prints_a_line_a_change(cluster: LocalCluster, presence: PresenceClient) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pulsering_server", "watch", "7", "eve", "-o", "json"),
        *("-n", "3", "--url", cluster.url),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    first = [json.loads(await process.stdout.readline()) for _ in range(2)]
    assert sorted((line["id"], line["status"]) for line in first if line["id"] == 7) == [(7, "offline")]
    await presence.heartbeat("eve")
    line = json.loads(await process.stdout.readline())
    assert line == {"id": "eve", "status": "online", "reason": None, "cause": "heartbeat", "version": 2}
    assert await process.wait() == 0
    await presence.leave("eve")


async def test_one_node_killed_and_back_turns_nobodys_dot(cluster: LocalCluster) -> None:
    """Scenario 24. A machine without time for its nodes may make somebody unknown, and nobody wrong."""
    async with page_under_load(cluster) as page:
        await cluster.nodes["b"].kill()
        async with PresenceClient.from_url(cluster.url, timeout=2) as other:
            await until(lambda: _is(not other.stats()["nodes"]["b"]["ready"]))
            await cluster.nodes["b"].start()
            await until(lambda: all_settled(other, 1))
    assert Status.OFFLINE not in page.ever(LIVE)
    assert Status.ONLINE not in page.ever(NEVER)


async def test_all_nodes_killed_is_a_gap_that_is_seen_and_ends_by_itself(cluster: LocalCluster) -> None:
    """Scenario 36."""
    async with page_under_load(cluster) as page:
        for node in cluster.nodes.values():
            await node.kill()
        await until(lambda: _is(page.all_are(Status.UNKNOWN, [*LIVE, *NEVER])))
        assert {change.reason for change in page.shown.values()} == {Reason.UNREACHABLE}
        await asyncio.gather(*(node.start() for node in cluster.nodes.values()))
    assert Status.OFFLINE not in page.ever(LIVE)
    assert Status.ONLINE not in page.ever(NEVER)


async def test_a_node_that_joins_turns_nobodys_dot(cluster: LocalCluster) -> None:
    """Scenario 30. The last test here: the cluster is another one after it."""
    async with page_under_load(cluster) as page:
        edit(cluster.config_path, 2, add=await spare_node(cluster))
        joined = LocalNode(cluster.config_path, "d")
        await joined.start()
        try:
            async with PresenceClient.from_url(cluster.url, timeout=2) as other:
                await until(lambda: all_settled(other, 2))
                await until(lambda: _is(page.all_are(Status.ONLINE, LIVE)))
        finally:
            await joined.kill()
        await until(lambda: _is(page.all_are(Status.ONLINE, LIVE)))
        assert Status.OFFLINE not in page.ever(LIVE)
        assert Status.ONLINE not in page.ever(NEVER)
        edit(cluster.config_path, 3, remove="d")
