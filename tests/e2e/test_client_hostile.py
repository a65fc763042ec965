"""Nodes that lie: a protocol error, the connection dropped, the node set apart; never a wrong answer."""

import asyncio
from collections.abc import Callable

import pytest
from support.fake_node import FakeCluster, FakeNode, reply_to, until
from support.loops import on_each_loop

from pulsering import (
    CallTimeout,
    NoNodeReachable,
    PresenceClient,
    PresenceError,
    ProtocolError,
    Status,
    messages,
)
from pulsering.wire import ErrorCode, Frame, Op, encode_frame

Lie = Callable[[FakeNode, Frame], bytes]


def with_count(count: int) -> Lie:
    return lambda node, frame: reply_to(frame, messages.encode_get_reply(1, 0, count, b"\x55"))


def twice(node: FakeNode, frame: Frame) -> bytes:
    return node.truth(frame) * 2


def to_nobody(node: FakeNode, frame: Frame) -> bytes:
    body = node.get_reply(frame)
    return encode_frame(Op.GET, frame.request_id ^ 0x5555, 0, body, reply=True)


LIES: dict[str, Lie] = {
    "count 2^32-1": with_count(2**32 - 1),
    "one key too many": with_count(2),
    "no keys": with_count(0),
    "too many states": lambda node, frame: reply_to(frame, messages.encode_get_reply(1, 0, 1, bytes(1000))),
    "ages nobody asked for": lambda node, frame: reply_to(
        frame, messages.encode_get_reply(1, 0, 1, b"\x01", b"\x01")
    ),
    "an unknown request id": to_nobody,
    "a duplicate reply": twice,
    "another op": lambda node, frame: reply_to(frame, node.get_reply(frame), Op.HEARTBEAT),
    "an op that does not exist": lambda node, frame: reply_to(frame, b"\x90", 77),
    "a request of its own": lambda node, frame: encode_frame(Op.PING, 1, 0, b"\x90"),
    "bytes of another protocol": lambda node, frame: b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a body that is no msgpack": lambda node, frame: reply_to(frame, b"\xc1"),
    "a body of a gigabyte": lambda node, frame: reply_to(frame, b"")[:8] + b"\x00\x00\x00\x40" + bytes(4),
    "an error for nobody": lambda node, frame: encode_frame(
        Op.ERROR, frame.request_id ^ 0x5555, 0, messages.encode_error(ErrorCode.BUSY, "x"), reply=True
    ),
    "garbage in GOAWAY": lambda node, frame: encode_frame(Op.GOAWAY, 0, 0, b"\x01", reply=True),
}


@pytest.mark.parametrize("lie", list(LIES))
@on_each_loop
async def test_a_lie_is_a_protocol_error_and_sets_the_node_apart(lie: str) -> None:
    """Scenario 44."""
    async with FakeCluster("a", 1) as cluster, PresenceClient.from_url(cluster.url) as presence:
        node = cluster["a"]
        node.script[Op.GET] = lambda frame: LIES[lie](node, frame)
        if lie == "a duplicate reply":  # the first of the two is as good as any
            assert await presence.get_many([1]) is not None
        else:
            with pytest.raises(NoNodeReachable, match=r"broke the protocol|refused"):
                await presence.get_many([1])
        await until(lambda: presence.stats()["nodes"]["a"]["connections"] == 0)
        asked = node.count(Op.GET)
        assert presence.stats()["nodes"]["a"]["circuit"] == "open"
        with pytest.raises(NoNodeReachable):
            await presence.get_many([1])
        assert node.count(Op.GET) == asked, "a node set apart is left alone"


@on_each_loop
async def test_the_other_owner_answers_for_a_liar() -> None:
    """Scenario 44."""
    async with FakeCluster("ab", 2) as cluster, PresenceClient.from_url(cluster.url) as presence:
        await presence.heartbeat_many(range(100))
        liar = cluster["a"]
        liar.script[Op.GET] = lambda frame: with_count(2**32 - 1)(liar, frame)
        snapshot = await presence.get_many(range(200))
        assert snapshot.online == tuple(range(100))
        assert snapshot.offline == tuple(range(100, 200))


@on_each_loop
async def test_half_a_frame_and_then_the_end_is_a_lost_connection() -> None:
    """Scenario 44."""
    async with FakeCluster("ab", 2) as cluster, PresenceClient.from_url(cluster.url) as presence:
        await presence.heartbeat_many(range(10))
        node = cluster["a"]

        def half(frame: Frame) -> bytes:
            asyncio.get_running_loop().call_soon(node.drop_connections)
            return node.truth(frame)[:-1]

        node.script[Op.GET] = half
        assert (await presence.get_many(range(10))).counts[Status.ONLINE] == 10


@pytest.mark.parametrize(
    "change",
    [
        {"version": 9},
        {"in_flight": 0},
        {"keys_per_frame": 0},
        {"frame_bytes_max": 100},
        {"cluster": "x" * 200},
        {"node": 7},
        {"epoch": -1},
    ],
)
@on_each_loop
async def test_a_welcome_that_cannot_be_is_refused(change: dict[str, object]) -> None:
    """Scenario 44."""
    async with FakeCluster("a", 1) as cluster:
        node = cluster["a"]

        def welcome(frame: Frame) -> bytes:
            fields = {**node.welcome()._asdict(), **change}
            return reply_to(frame, messages.encode_topology(fields))

        node.script[Op.HELLO] = welcome
        with pytest.raises(ProtocolError):
            await PresenceClient.from_url(cluster.url).open()


@on_each_loop
async def test_a_topology_that_cannot_be_is_refused() -> None:
    """Scenario 44."""
    async with FakeCluster("a", 1) as cluster:
        cluster["a"].script[Op.TOPOLOGY] = lambda frame: reply_to(
            frame, messages.encode_topology({"epoch": 1})
        )
        with pytest.raises(ProtocolError, match="topology"):
            await PresenceClient.from_url(cluster.url).open()


@on_each_loop
async def test_a_node_at_another_nodes_address_is_not_believed() -> None:
    """P3: what listens where a node used to be may be another."""
    async with FakeCluster("ab", 1) as cluster:
        cluster["b"].claims = "a"
        async with PresenceClient.from_url(cluster.url) as presence:
            nodes = await presence.status()
            assert [(node.name, node.up) for node in nodes] == [("a", True), ("b", False)]
            assert "answers node a, not b" in nodes[1].error


@pytest.mark.parametrize("op", [Op.HEARTBEAT, Op.LEAVE, Op.COUNT])
@on_each_loop
async def test_lies_about_writes_and_counts_acknowledge_nothing(op: Op) -> None:
    """Scenario 44: outcomes must add up to the keys that were sent."""
    async with FakeCluster("a", 1) as cluster, PresenceClient.from_url(cluster.url) as presence:
        cluster["a"].script[op] = lambda frame: reply_to(
            frame, messages.encode_write_reply(messages.WriteReply(1, 5, 0, 0, 0))
        )
        call = {Op.HEARTBEAT: presence.heartbeat(1), Op.LEAVE: presence.leave(1), Op.COUNT: presence.count()}
        for other, awaitable in call.items():
            if other != op:
                awaitable.close()
        with pytest.raises(PresenceError) as caught:
            await call[op]
        assert isinstance(caught.value, NoNodeReachable | CallTimeout)
