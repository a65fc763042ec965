"""Nodes that are silent, gone, moving or leaving: bounded waiting, right answers, and recovery."""

import asyncio
import ssl

import pytest
from support.fake_node import FakeCluster, FakeNode, until
from support.loops import on_each_loop

from pulsering import (
    CallTimeout,
    NodeUnavailable,
    NoNodeReachable,
    PresenceClient,
    Reason,
    Status,
    UnknownPresence,
    limits,
    messages,
)
from pulsering.wire import ErrorCode, Frame, Op, encode_frame

SLACK_S = 0.05


def now() -> float:
    return asyncio.get_running_loop().time()


def mute(frame: Frame) -> None:
    return None


def goaway(after_ms: int) -> bytes:
    return encode_frame(
        Op.GOAWAY, 0, 0, messages.encode_error(ErrorCode.DRAINING, "bye", after_ms), reply=True
    )


@on_each_loop
async def test_replicas_1_one_node_down_is_unknown_for_exactly_its_users() -> None:
    """Scenario 29: the others arrive in time; order and length as asked, duplicates included."""
    users = [*range(300), *range(100)]
    async with FakeCluster("abc", 1) as cluster, PresenceClient.from_url(cluster.url) as presence:
        await presence.heartbeat_many(range(300))
        theirs = {user for user in users if presence.locate(user).owners[0].name == "b"}
        await cluster["b"].stop()
        began = now()
        snapshot = await presence.get_many(users)
        assert now() - began < limits.CALL_TIMEOUT_MS / 1000
        assert snapshot.unknown == tuple(user for user in users if user in theirs)
        assert snapshot.online == tuple(user for user in users if user not in theirs)
        assert snapshot.unknown_reasons == {Reason.UNREACHABLE: len(snapshot.unknown)}
        with pytest.raises(UnknownPresence) as caught:
            await presence.is_online(min(theirs))
        assert caught.value.reason is Reason.UNREACHABLE


@on_each_loop
async def test_a_silent_node_costs_the_deadline_and_nothing_is_sent_afterwards() -> None:
    """Scenario 40: at the deadline, within 50 ms."""
    async with FakeCluster("a", 1) as cluster, PresenceClient.from_url(cluster.url) as presence:
        node = cluster["a"]
        node.script = {Op.GET: mute, Op.HEARTBEAT: mute, Op.COUNT: mute}
        for call in (presence.get_many([1]), presence.heartbeat(1), presence.is_online(1)):
            began = now()
            with pytest.raises(CallTimeout) as caught:
                await call
            assert abs(now() - began - 0.25) < SLACK_S
            assert caught.value.attempts[0][0] == "a"
            assert caught.value.elapsed == pytest.approx(0.25, abs=SLACK_S)
        sent = len(node.frames)
        await presence.status()
        assert [frame.op for frame in node.frames[sent:]] == [Op.PING]


@on_each_loop
async def test_the_other_nodes_of_a_silent_one_answer_by_the_deadline() -> None:
    """Scenario 40."""
    async with FakeCluster("abc", 1) as cluster, PresenceClient.from_url(cluster.url) as presence:
        await presence.heartbeat_many(range(100))
        cluster["b"].script[Op.GET] = mute
        began = now()
        snapshot = await presence.get_many(range(100))
        assert abs(now() - began - 0.25) < SLACK_S
        assert snapshot.counts[Status.OFFLINE] == 0
        assert 0 < snapshot.counts[Status.UNKNOWN] < 100


@on_each_loop
async def test_a_node_that_never_answers_opens_its_circuit_and_is_then_only_probed() -> None:
    """Scenario 35: within five timeouts; the other owner answers meanwhile, and then without delay."""
    async with FakeCluster("abc", 2) as cluster, PresenceClient.from_url(cluster.url) as presence:
        await presence.heartbeat_many(range(100))
        silent = cluster["b"]
        silent.script = {Op.GET: mute, Op.HEARTBEAT: mute}
        for _ in range(limits.CIRCUIT_FAILURES):
            snapshot = await presence.get_many(range(100))
            assert snapshot.counts[Status.ONLINE] == 100
        assert presence.stats()["nodes"]["b"]["circuit"] == "open"
        asked = silent.count(Op.GET)
        slow = 0
        for _ in range(200):
            began = now()
            assert (await presence.get_many(range(100))).counts[Status.ONLINE] == 100
            slow += now() - began > SLACK_S
        assert silent.count(Op.GET) - asked <= 5
        assert slow <= 10, "only the calls that carried a probe, and a noisy machine"
        silent.script = {}
        await _until_healed(presence, "b")


async def _until_healed(presence: PresenceClient, name: str) -> None:
    async with asyncio.timeout(8):
        while presence.stats()["nodes"][name]["circuit"] != "closed":
            await presence.get_many(range(100))


@on_each_loop
async def test_heartbeats_are_not_slowed_by_a_dead_second_owner() -> None:
    """Scenario 24: a third of the deadline until the circuit opens, nothing afterwards."""
    async with FakeCluster("ab", 2) as cluster, PresenceClient.from_url(cluster.url) as presence:
        cluster["b"].script = {Op.HEARTBEAT: mute}
        for _ in range(limits.CIRCUIT_FAILURES):
            began = now()
            await presence.heartbeat(1)
            assert now() - began < limits.CALL_TIMEOUT_MS / 1000 / 3 + SLACK_S
        began = now()
        report = await presence.heartbeat_many(range(100))
        assert now() - began < SLACK_S
        assert (report.accepted, report.degraded) == (100, 1.0)


@on_each_loop
async def test_one_node_killed_is_no_error_for_anybody() -> None:
    """Scenario 24."""
    async with FakeCluster("abc", 2) as cluster, PresenceClient.from_url(cluster.url) as presence:
        users = range(1000)
        await presence.heartbeat_many(users)
        calls = [asyncio.create_task(presence.get_many(users)) for _ in range(20)]
        beats = [asyncio.create_task(presence.heartbeat(user)) for user in users]
        await cluster["a"].stop()
        for snapshot in await asyncio.gather(*calls):
            assert snapshot.counts[Status.ONLINE] == 1000
        await asyncio.gather(*beats)


@on_each_loop
async def test_all_nodes_down_is_one_clear_error_and_recovery_needs_no_restart() -> None:
    """Scenario 36: back on the same addresses."""
    async with FakeCluster("ab", 2) as cluster, PresenceClient.from_url(cluster.url) as presence:
        ports = {name: node.port for name, node in cluster.nodes.items()}
        for node in cluster.nodes.values():
            await node.stop()
        with pytest.raises(NodeUnavailable):
            await presence.heartbeat(1)
        with pytest.raises(NoNodeReachable):
            await presence.get_many([1])
        assert not await presence.is_online(1, on_unknown="offline")
        for name, node in cluster.nodes.items():
            await node.start(ports[name])
        await _until_answering(presence)


@on_each_loop
async def test_nodes_that_come_back_at_new_addresses_are_found_through_a_seed() -> None:
    """Scenario 36: one seed stays; the topology is fetched again."""
    async with FakeCluster("ab", 1) as cluster, PresenceClient.from_url(cluster.url) as presence:
        moving = cluster["b"]
        await moving.stop()
        await moving.start()
        for node in cluster.nodes.values():
            node.topology = cluster.topology_of(cluster.nodes.values(), cluster.epoch)
        await until(lambda: presence.stats()["nodes"]["b"]["connections"] == 1, within=8)
        assert (await presence.heartbeat_many(range(100))).accepted == 100


async def _until_answering(presence: PresenceClient) -> None:
    async with asyncio.timeout(6):
        while True:
            try:
                await presence.heartbeat(1)
            except NodeUnavailable:
                await asyncio.sleep(0)
            else:
                return


def follow(cluster: FakeCluster, nodes: list[FakeNode], epoch: int) -> None:
    """All nodes get a newer topology; a node outside of it owns nothing any more."""
    new = cluster.topology_of(nodes, epoch)
    for node in cluster.nodes.values():
        node.topology = new


@on_each_loop
async def test_a_stale_client_is_right_after_one_refresh() -> None:
    """Scenario 32."""
    async with FakeCluster("abc", 1) as cluster:
        follow(cluster, [cluster["a"], cluster["b"]], 1)
        async with PresenceClient.from_url(cluster.url, timeout=2) as presence:
            assert len(presence.topology.nodes) == 2
            follow(cluster, [cluster["c"]], 5)
            for name in "ab":
                cluster[name].moved = _Everything()
            report = await presence.heartbeat_many(range(100))
            assert (report.accepted, report.moved) == (100, 0)
            assert len(cluster["c"].users) == 100
            assert presence.topology.epoch == 5
            assert presence.stats()["topology_refreshes"] == 1
            assert (await presence.get_many(range(100))).counts[Status.ONLINE] == 100


class _Everything(set[int]):
    """Contains every key."""

    def __contains__(self, key: object) -> bool:
        return True


@on_each_loop
async def test_nodes_that_disagree_make_no_loop_and_few_refreshes() -> None:
    """Scenarios 32 and 41: 200 callers, at most two refreshes a second."""
    async with FakeCluster("ab", 1) as cluster, PresenceClient.from_url(cluster.url) as presence:
        confused = cluster["a"]
        confused.moved = _Everything()

        def from_the_future(frame: Frame) -> bytes:
            assert confused.topology is not None
            ours = confused.topology
            confused.topology = cluster.topology_of(cluster.nodes.values(), 9)
            answer = confused.truth(frame)
            confused.topology = ours
            return answer

        confused.script[Op.GET] = from_the_future
        began = now()
        snapshots = await asyncio.gather(*(presence.get_many(range(50)) for _ in range(200)))
        for snapshot in snapshots:
            assert snapshot.unknown_reasons.keys() == {Reason.MOVED}
        assert confused.count(Op.GET) <= 400
        assert presence.stats()["topology_refreshes"] <= 2 * (now() - began) + 1


@on_each_loop
async def test_a_draining_node_finishes_what_it_has_and_gets_no_more() -> None:
    """GOAWAY, before SIGTERM ends it: its slots' other owners are asked, nobody sees an error."""
    async with FakeCluster("ab", 2) as cluster, PresenceClient.from_url(cluster.url, timeout=5) as presence:
        await presence.heartbeat_many(range(100))
        leaving = cluster["a"]
        leaving.holding = True
        under_way = asyncio.create_task(presence.heartbeat_many(range(100, 200)))
        await until(lambda: bool(leaving.held))
        leaving.say(goaway(10_000))
        await until(lambda: not presence.stats()["nodes"]["a"]["ready"])
        assert presence.stats()["nodes"]["a"]["in_flight"] == 1
        assert (await presence.get_many(range(100))).counts[Status.ONLINE] == 100
        asked = leaving.count(Op.GET)
        leaving.release()
        assert (await under_way) == (100, 100, 0, 0, 0, 0)
        assert leaving.count(Op.GET) == asked
        await until(lambda: presence.stats()["nodes"]["a"]["connections"] == 0)


@on_each_loop
async def test_a_busy_node_is_passed_over_for_the_other_owner() -> None:
    async with FakeCluster("ab", 2) as cluster, PresenceClient.from_url(cluster.url) as presence:
        await presence.heartbeat_many(range(100))
        busy = messages.encode_error(ErrorCode.BUSY, "later", 50)
        cluster["a"].script[Op.GET] = lambda frame: encode_frame(
            Op.ERROR, frame.request_id, 0, busy, reply=True
        )
        assert (await presence.get_many(range(100))).counts[Status.ONLINE] == 100
        assert presence.stats()["nodes"]["a"]["circuit"] == "closed", "it answers: it is not broken"


@on_each_loop
async def test_retried_frames_keep_the_moment_they_were_said() -> None:
    """P1: a heartbeat that is sent again must not look younger than it is."""
    async with FakeCluster("a", 1) as cluster, PresenceClient.from_url(cluster.url, timeout=2) as presence:
        node = cluster["a"]
        lost = [True]

        def first_is_refused(frame: Frame) -> bytes:
            if lost:
                lost.clear()
                return encode_frame(
                    Op.ERROR, frame.request_id, 0, messages.encode_error(ErrorCode.BUSY, "later"), reply=True
                )
            return node.truth(frame)

        node.script[Op.HEARTBEAT] = first_is_refused
        await presence.heartbeat(1)
        said = [frame.sender_ms for frame in node.frames if frame.op == Op.HEARTBEAT]
        assert len(said) == 2
        assert said[0] == said[1]


@on_each_loop
async def test_a_plain_node_behind_a_tls_url_is_refused_by_name() -> None:
    async with FakeCluster("a", 1) as cluster:
        url = cluster.url.replace("presence://", "presences://")
        context = ssl.create_default_context()
        with pytest.raises(NoNodeReachable, match=r"127\.0\.0\.1"):
            await PresenceClient.from_url(url, ssl=context).open()


@on_each_loop
async def test_a_hedged_read_does_not_wait_for_the_patience() -> None:
    """Scenario 40: one owner is slow, not dead; the other one answers after the hedge."""
    async with (
        FakeCluster("ab", 2) as cluster,
        PresenceClient.from_url(cluster.url, timeout=3, hedge="20ms") as presence,
    ):
        await presence.heartbeat_many(range(100))
        cluster["a"].script[Op.GET] = mute
        began = now()
        assert (await presence.get_many(range(100))).counts[Status.ONLINE] == 100
        assert now() - began < 0.5, "the patience is a whole second"
        assert presence.stats()["nodes"]["a"]["circuit"] == "closed"


@on_each_loop
async def test_hedging_at_the_95th_percentile_begins_when_it_is_known() -> None:
    async with (
        FakeCluster("ab", 2) as cluster,
        PresenceClient.from_url(cluster.url, timeout=3, hedge="p95") as presence,
    ):
        await presence.heartbeat_many(range(100))
        for _ in range(50):
            assert await presence.is_online(1)
        cluster["a"].script[Op.GET] = mute
        began = now()
        assert (await presence.get_many(range(100))).counts[Status.ONLINE] == 100
        assert now() - began < 0.5
