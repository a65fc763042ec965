"""``presence.watch`` over real sockets, to nodes that do what a test wants: changes, gaps, what is left."""

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest
from support.fake_node import OFFLINE, ONLINE, FakeCluster, until
from support.loops import on_each_loop

from pulsering import (
    Cause,
    Change,
    ClientClosed,
    NotServed,
    PresenceClient,
    Reason,
    Status,
    Watch,
    WatchOverflow,
    limits,
    messages,
)
from pulsering.wire import ErrorCode, Frame, Op, encode_frame


def key(presence: PresenceClient, user: int) -> int:
    return presence.locate(user).key


def turn(cluster: FakeCluster, presence: PresenceClient, user: int, state: int, cause: Cause) -> None:
    """Let both owners say that a user's state is another one."""
    for node in presence.locate(user).owners:
        cluster[node.name].turn(key(presence, user), state, cause)


async def some(watch: AsyncIterator[Change], count: int) -> list[Change]:
    """The next changes."""
    async with asyncio.timeout(5):
        return [await anext(watch) for _ in range(count)]


def watched(presence: PresenceClient) -> int:
    users: int = presence.stats()["users_watched"]
    return users


@on_each_loop
async def test_the_state_of_each_and_then_each_change() -> None:
    async with FakeCluster() as cluster, PresenceClient.from_url(cluster.url) as presence:
        await presence.heartbeat(1)
        watch = presence.watch([1, "bob"])
        assert watch.watched == 2
        assert sorted(await some(watch, 2), key=str) == [
            Change("bob", Status.OFFLINE, Reason.NONE, Cause.NONE, 1),
            Change(1, Status.ONLINE, Reason.NONE, Cause.NONE, 1),
        ]
        turn(cluster, presence, 1, OFFLINE, Cause.EXPIRED)
        assert await some(watch, 1) == [Change(1, Status.OFFLINE, Reason.NONE, Cause.EXPIRED, 2)]
        watch.add([2])
        assert await some(watch, 1) == [Change(2, Status.OFFLINE, Reason.NONE, Cause.NONE, 1)]
        watch.remove([1])
        turn(cluster, presence, 1, ONLINE, Cause.HEARTBEAT)
        turn(cluster, presence, 2, ONLINE, Cause.HEARTBEAT)
        assert await some(watch, 1) == [Change(2, Status.ONLINE, Reason.NONE, Cause.HEARTBEAT, 2)]
        await watch.aclose()
        assert [change async for change in watch] == []
        await until(lambda: not any(node.watched for node in cluster.nodes.values()))


@on_each_loop
async def test_two_watches_of_a_client_share_a_subscription() -> None:
    async with FakeCluster("a", 1) as cluster, PresenceClient.from_url(cluster.url) as presence:
        async with presence.watch([1]) as first, presence.watch([1, 2]) as second:
            await some(first, 1)
            await some(second, 2)
            assert cluster["a"].watched == watched(presence) == 2
            turn(cluster, presence, 1, ONLINE, Cause.HEARTBEAT)
            assert await some(first, 1) == await some(second, 1)
        assert watched(presence) == 0


@on_each_loop
async def test_a_watch_that_is_dropped_cancelled_or_left_by_break_watches_nobody() -> None:
    async with FakeCluster("ab") as cluster, PresenceClient.from_url(cluster.url) as presence:
        async for change in presence.watch([1, 2]):
            assert change.version == 1
            break
        gc.collect()
        await until(lambda: watched(presence) == 0)

        async def reads() -> None:
            async for _ in presence.watch([1, 2]):
                pass

        task = asyncio.create_task(reads())
        await until(lambda: cluster["a"].watched == 2)
        task.cancel()
        await asyncio.wait([task])
        del task
        gc.collect()
        await until(lambda: watched(presence) == 0 and cluster["a"].watched == 0)


@on_each_loop
async def test_a_cancelled_wait_loses_nothing() -> None:
    async with FakeCluster() as cluster, PresenceClient.from_url(cluster.url) as presence:
        watch = presence.watch([1])
        await some(watch, 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(watch)
        turn(cluster, presence, 1, ONLINE, Cause.HEARTBEAT)
        assert [change.status for change in await some(watch, 1)] == [Status.ONLINE]


@on_each_loop
async def test_a_restarted_node_that_was_alone_is_a_gap_and_then_a_snapshot() -> None:
    async with FakeCluster("a", 1) as cluster, PresenceClient.from_url(cluster.url) as presence:
        await presence.heartbeat_many([1, 2])
        watch = presence.watch([1, 2])
        await some(watch, 2)
        node, port = cluster["a"], cluster["a"].port
        await node.stop()
        gap = await some(watch, 2)
        assert {change[1:] for change in gap} == {(Status.UNKNOWN, Reason.UNREACHABLE, Cause.NONE, 2)}
        node.users.discard(key(presence, 2))
        await node.start(port)
        back = dict(change[:2] for change in await some(watch, 2))
        assert back == {1: Status.ONLINE, 2: Status.OFFLINE}


@on_each_loop
async def test_one_of_two_owners_lost_and_back_is_seen_by_nobody() -> None:
    async with FakeCluster("ab") as cluster, PresenceClient.from_url(cluster.url) as presence:
        await presence.heartbeat(1)
        watch = presence.watch([1, 2])
        await some(watch, 2)
        node, port = cluster["a"], cluster["a"].port
        await node.stop()
        await until(lambda: not presence.stats()["nodes"]["a"]["ready"])
        node.users.clear()
        node.cold = True
        await node.start(port)
        await until(lambda: node.watched == 2)
        turn(cluster, presence, 2, ONLINE, Cause.HEARTBEAT)
        assert await some(watch, 1) == [Change(2, Status.ONLINE, Reason.NONE, Cause.HEARTBEAT, 2)]


@on_each_loop
async def test_a_client_that_is_closed_ends_its_watches() -> None:
    async with FakeCluster("a", 1) as cluster:
        async with PresenceClient.from_url(cluster.url) as presence:
            watch = presence.watch([1])
            await some(watch, 1)
            reader = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(0)
        with pytest.raises(ClientClosed):
            await reader
        with pytest.raises(ClientClosed):
            watch.add([2])
        with pytest.raises(ClientClosed):
            presence.watch([1])


@on_each_loop
async def test_nodes_that_are_too_old_are_said_to_be() -> None:
    def unknown_op(frame: Frame) -> bytes:
        assert len(frame.body) < limits.CONTROL_BODY_BYTES_MAX, "an old node would end the connection"
        body = messages.encode_error(ErrorCode.UNKNOWN_OP, "op 9 is not served here")
        return encode_frame(Op.ERROR, frame.request_id, 0, body, reply=True)

    async with FakeCluster("ab") as cluster, PresenceClient.from_url(cluster.url) as presence:
        for node in cluster.nodes.values():
            node.script[Op.WATCH] = unknown_op
        with pytest.raises(NotServed, match="upgraded before services"):
            await anext(presence.watch(range(10_000)))
        assert watched(presence) == 0
        assert not await presence.is_online(1)


@on_each_loop
async def test_who_reads_too_slowly_is_cut_with_an_error_that_says_so() -> None:
    async with FakeCluster("a", 1) as cluster, PresenceClient.from_url(cluster.url) as presence:
        watch = presence.watch(range(5), buffer=3)
        await some(watch, 5)
        for user in range(5):
            turn(cluster, presence, user, ONLINE, Cause.HEARTBEAT)
        await until(lambda: watched(presence) == 0)
        with pytest.raises(WatchOverflow, match="at most 3 may") as caught:
            await anext(watch)
        assert caught.value.waiting == 4
        assert caught.value.retryable
        await until(lambda: cluster["a"].watched == 0)


@on_each_loop
async def test_a_push_that_nobody_asked_for_is_a_breach() -> None:
    async with FakeCluster("a", 1) as cluster, PresenceClient.from_url(cluster.url) as presence:
        body = messages.encode_watch_push(1, 0, b"", b"", b"")
        cluster["a"].say(encode_frame(Op.WATCH, 0, 0, body, reply=True))
        await until(lambda: presence.stats()["nodes"]["a"]["circuit"] == "open")


@on_each_loop
async def test_what_is_no_id_or_no_buffer_is_refused_before_anything_is_sent() -> None:
    async with FakeCluster("a", 1) as cluster, PresenceClient.from_url(cluster.url) as presence:
        with pytest.raises(TypeError, match="a batch of ids"):
            presence.watch("bob")
        with pytest.raises(ValueError, match="index 1"):
            presence.watch([1, -1])
        with pytest.raises(ValueError, match="buffer"):
            presence.watch([1], buffer=0)
        assert cluster["a"].count(Op.WATCH) == 0


@on_each_loop
async def test_a_hundred_thousand_users_on_one_connection_are_told_of_in_one_go() -> None:
    async with FakeCluster("a", 1) as cluster, PresenceClient.from_url(cluster.url) as presence:
        watch = presence.watch(range(100_000))
        first = await some(watch, 100_000)
        assert len({change.id for change in first}) == 100_000
        assert cluster["a"].connections == 2, "one to learn the topology, and one"
        turn(cluster, presence, 77_777, ONLINE, Cause.HEARTBEAT)
        assert [change.id for change in await some(watch, 1)] == [77_777]
        await watch.aclose()


def test_a_watch_has_one_reader_at_a_time() -> None:
    async def two() -> None:
        async with FakeCluster("a", 1) as cluster, PresenceClient.from_url(cluster.url) as presence:
            watch: Watch = presence.watch([1])
            await some(watch, 1)
            waiting = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="another task"):
                await anext(watch)
            waiting.cancel()
            await asyncio.wait([waiting])

    asyncio.run(two())
