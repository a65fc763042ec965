"""Every method of the client against nodes that behave, on both kinds of loop."""

import asyncio
import uuid
from array import array

import pytest
from support.fake_node import FakeCluster
from support.loops import on_each_loop

from pulsering import (
    ClientOverloaded,
    ConfigError,
    Count,
    HeartbeatReport,
    PresenceClient,
    Reason,
    Status,
    UnknownPresence,
)
from pulsering.ids import UserId, key_of
from pulsering.wire import Op


@on_each_loop
async def test_whoever_beat_is_online_and_whoever_left_is_not() -> None:
    async with FakeCluster() as cluster, PresenceClient.from_url(cluster.url) as presence:
        await presence.heartbeat(42)
        assert await presence.is_online(42)
        assert not await presence.is_online(43)
        await presence.leave(42)
        assert not await presence.is_online(42)


@on_each_loop
async def test_batches_answer_in_order_with_duplicates_and_all_kinds_of_ids() -> None:
    ids: list[UserId] = [1, "two", b"three", uuid.UUID(int=4), 1, 2**64 - 1, 0]
    async with FakeCluster() as cluster, PresenceClient.from_url(cluster.url) as presence:
        report = await presence.heartbeat_many(ids[:4])
        assert report == HeartbeatReport(4, 4, 0, 0, 0, 0)
        snapshot = await presence.get_many(ids, ages=True)
        assert [status is Status.ONLINE for status in snapshot] == [True] * 5 + [False] * 2
        assert snapshot.offline == (2**64 - 1, 0)
        assert snapshot.ages == (2.0,) * 5 + (None, None)
        assert (await presence.leave_many(["two"], grace=None)).accepted == 1
        assert (await presence.get_many(iter(ids)))[1] is Status.OFFLINE


@on_each_loop
async def test_buffers_of_integers_are_batches() -> None:
    numpy = pytest.importorskip("numpy")
    async with FakeCluster() as cluster, PresenceClient.from_url(cluster.url) as presence:
        await presence.heartbeat_many(array("Q", [1, 2, 3]))
        await presence.heartbeat_many(numpy.arange(10, 20, dtype="uint64"))
        snapshot = await presence.get_many(numpy.array([1, 4, 15], dtype="uint64"))
        assert snapshot.online == (1, 15)


@on_each_loop
async def test_empty_batches_ask_nobody() -> None:
    async with FakeCluster() as cluster, PresenceClient.from_url(cluster.url) as presence:
        assert await presence.heartbeat_many([]) == HeartbeatReport(0, 0, 0, 0, 0, 0)
        assert len(await presence.get_many([])) == 0
        assert sum(node.count(Op.GET) + node.count(Op.HEARTBEAT) for node in cluster.nodes.values()) == 0


@on_each_loop
async def test_count_counts_each_user_once_also_while_an_owner_is_down() -> None:
    async with FakeCluster() as cluster, PresenceClient.from_url(cluster.url) as presence:
        await presence.heartbeat_many(range(500))
        assert await presence.count() == Count(500, True, (), ())
        await cluster["b"].stop()
        assert await presence.count() == Count(500, True, ("b",), ())


@on_each_loop
async def test_calls_of_one_turn_share_a_frame_per_node() -> None:
    async with FakeCluster("a", 1) as cluster, PresenceClient.from_url(cluster.url) as presence:
        await asyncio.gather(*(presence.heartbeat(user % 100) for user in range(1000)))
        assert cluster["a"].count(Op.HEARTBEAT) == 1
        assert len(cluster["a"].users) == 100
        answers = await asyncio.gather(*(presence.is_online(user) for user in range(200)))
        assert answers == [user < 100 for user in range(200)]
        assert cluster["a"].count(Op.GET) == 1


@on_each_loop
async def test_linger_waits_for_company() -> None:
    async with (
        FakeCluster("a", 1) as cluster,
        PresenceClient.from_url(cluster.url, linger="20ms") as presence,
    ):
        first = asyncio.create_task(presence.heartbeat(1))
        for _ in range(5):
            await asyncio.sleep(0)
        await asyncio.gather(first, presence.heartbeat(2))
        assert cluster["a"].count(Op.HEARTBEAT) == 1


@on_each_loop
async def test_a_bad_id_is_refused_alone_and_spoils_no_batch() -> None:
    async with FakeCluster("a", 1) as cluster, PresenceClient.from_url(cluster.url) as presence:
        good, bad = presence.heartbeat(1), presence.heartbeat(-1)
        results = await asyncio.gather(good, bad, return_exceptions=True)
        assert results[0] is None
        assert isinstance(results[1], ValueError)
        with pytest.raises(TypeError, match="batch"):
            await presence.get_many("alice")


@on_each_loop
async def test_unknown_is_an_error_unless_the_caller_says_what_it_means() -> None:
    async with FakeCluster("ab", 2) as cluster, PresenceClient.from_url(cluster.url) as presence:
        cluster["a"].cold = cluster["b"].cold = True
        with pytest.raises(UnknownPresence) as caught:
            await presence.is_online(1)
        assert caught.value.reason is Reason.COLD
        assert await presence.is_online(1, on_unknown="online")
        assert not await presence.is_online(1, on_unknown="offline")
        with pytest.raises(ValueError, match="on_unknown"):
            await presence.is_online(1, on_unknown="maybe")  # type: ignore[arg-type]


@on_each_loop
async def test_operators_see_each_node_and_where_a_user_lives() -> None:
    async with FakeCluster("abc", 2) as cluster, PresenceClient.from_url(cluster.url) as presence:
        await cluster["b"].stop()
        nodes = await presence.status()
        assert [(node.name, node.up) for node in nodes] == [("a", True), ("b", False), ("c", True)]
        assert nodes[0].uptime == 1.0
        assert nodes[1].error
        place = presence.locate(42)
        assert place.key == key_of(42, 0)
        assert place.owners == cluster.topology.owners_of(place.slot)
        assert presence.topology == cluster.topology
        stats = presence.stats()
        assert stats["nodes"]["a"]["connections"] == 1
        assert stats["keys_pending"] == 0


@on_each_loop
async def test_a_million_heartbeats_in_one_turn_are_one_clear_overload_error() -> None:
    """Scenario 43: some are taken, the others refused at once; what is held is bounded."""
    async with (
        FakeCluster("a", 1) as cluster,
        PresenceClient.from_url(cluster.url, pending_keys_max=1000) as presence,
    ):
        results = await asyncio.gather(
            *(presence.heartbeat(user) for user in range(20_000)), return_exceptions=True
        )
        assert results[:1000] == [None] * 1000
        assert {type(result) for result in results[1000:]} == {ClientOverloaded}
        assert "pending_keys_max" in str(results[-1])
        with pytest.raises(ClientOverloaded):
            await presence.get_many(range(1001))
        await presence.heartbeat(1)
        assert len(cluster["a"].users) == 1000
        assert presence.stats()["keys_pending"] == 0


@on_each_loop
async def test_large_batches_are_cut_to_what_nodes_accept() -> None:
    async with FakeCluster("a", 1) as cluster:
        cluster["a"].keys_per_frame = 100
        cluster["a"].in_flight = 4
        async with PresenceClient.from_url(cluster.url, timeout=5) as presence:
            assert (await presence.heartbeat_many(range(1550))).accepted == 1550
            assert cluster["a"].count(Op.HEARTBEAT) == 16


@on_each_loop
async def test_a_call_may_have_a_timeout_of_its_own() -> None:
    async with FakeCluster("a", 1) as cluster, PresenceClient.from_url(cluster.url) as presence:
        assert len(await presence.get_many([1], timeout=None)) == 1
        with pytest.raises(ConfigError):
            await presence.get_many([1], timeout=0)
        with pytest.raises(ConfigError, match="grace"):
            await presence.leave(1, grace=-1)
        await presence.leave_many([1], grace=0.0)
        await presence.leave(1, grace="5s")
