"""A client among nodes that do not agree yet, and nodes whose names lead to new addresses."""

import asyncio
import socket
from typing import Any

import pytest
from support.fake_node import FakeCluster, FakeNode, until
from support.loops import on_each_loop

from pulsering import PresenceClient, Reason, Status, limits
from pulsering.topology import Node, Topology


def follow(topology: Topology, *nodes: FakeNode) -> None:
    """Let nodes load a topology."""
    for node in nodes:
        node.topology = topology


@on_each_loop
async def test_scenario_31_a_new_client_learns_the_older_topology_that_a_node_follows() -> None:
    """Writers that have not heard of d tell b and c; a reader that came by d asks them too."""
    async with FakeCluster("bcde", 2) as cluster:
        old = cluster.topology_of([cluster["b"], cluster["c"]], 1)
        new = cluster.topology_of([cluster["d"], cluster["e"]], 2)
        follow(old, cluster["b"], cluster["c"])
        follow(new, cluster["d"], cluster["e"])
        async with (
            PresenceClient.from_url(f"presence://127.0.0.1:{cluster['b'].port}") as writer,
            PresenceClient.from_url(f"presence://127.0.0.1:{cluster['d'].port}") as reader,
        ):
            await writer.heartbeat_many(range(50))
            assert reader.topology == new
            assert set(await reader.get_many(range(50))) == {Status.OFFLINE}, "it met no follower of the old"
        # A topology that keeps one of the old nodes leads to the others.
        both = cluster.topology_of([cluster["d"], cluster["b"]], 2)
        follow(both, cluster["d"])
        async with PresenceClient.from_url(f"presence://127.0.0.1:{cluster['d'].port}") as reader:
            assert reader.topology == both
            async with asyncio.timeout(10):
                while (snapshot := await reader.get_many(range(50))).counts[Status.ONLINE] < 50:
                    assert snapshot.offline == ()
                    assert set(snapshot.unknown_reasons) <= {Reason.MOVED, Reason.UNREACHABLE}
            assert await reader.is_online(7)
            assert not await reader.is_online(99), "both owners of before and both of now deny it"


@on_each_loop
async def test_scenario_31_a_node_that_stays_behind_is_asked_until_it_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also a client that asks it nothing hears of it, with the pings; then one ttl later all is over."""
    monkeypatch.setattr(limits, "PING_MS", 20)
    async with FakeCluster("bcd", 1) as cluster:
        old = cluster.topology_of([cluster["b"], cluster["c"]], 1, ttl_ms=1_000)
        new = cluster.topology_of([cluster["b"], cluster["d"]], 2, ttl_ms=1_000)
        follow(old, *cluster.nodes.values())
        async with PresenceClient.from_url(f"presence://127.0.0.1:{cluster['b'].port}") as reader:
            assert reader.topology == old
            loop = asyncio.get_running_loop()
            follow(new, cluster["b"], cluster["d"])
            await until(lambda: reader.topology == new)
            held = loop.time() + 3 * old.ttl_ms / 1000
            await until(lambda: loop.time() > held)
            assert "c" in reader.stats()["nodes"], "it has not moved on: somebody may tell it of users"
            cluster["c"].users = cluster["d"].users = set()
            follow(new, cluster["c"])
            await until(lambda: "c" not in reader.stats()["nodes"])


@on_each_loop
async def test_scenario_30_who_comes_after_a_change_is_told_of_it_before_the_first_read() -> None:
    """All nodes follow the new topology; the users who have not beaten since are where they were."""
    async with FakeCluster("bcd", 1) as cluster:
        old = cluster.topology_of([cluster["b"], cluster["c"]], 1)
        new = cluster.topology_of([cluster["b"], cluster["d"]], 2)
        follow(old, *cluster.nodes.values())
        async with PresenceClient.from_url(f"presence://127.0.0.1:{cluster['b'].port}") as writer:
            await writer.heartbeat_many(range(50))
        follow(new, *cluster.nodes.values())
        for node in cluster.nodes.values():
            node.former = old
        async with PresenceClient.from_url(f"presence://127.0.0.1:{cluster['d'].port}") as reader:
            assert reader.topology == new
            assert set(await reader.get_many(range(50))) == {Status.ONLINE}
            assert not await reader.is_online(99)


class NamesLoop(asyncio.SelectorEventLoop):
    """A loop with a name service of its own, as a cluster of containers has."""

    addresses: dict[str, str]

    async def getaddrinfo(self, host: Any, port: Any, **hints: Any) -> Any:
        """Look ``host`` up among ``addresses``."""
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (self.addresses[host], port))]


def test_scenario_36_a_name_is_looked_up_again_for_every_connection() -> None:
    """The same name at another address: no new topology, no restart, no seed is needed."""

    async def moves() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, NamesLoop)
        loop.addresses = {"pod-a": "127.0.0.1"}
        first, second = FakeNode("a"), FakeNode("a")
        port = await first.start()
        topology = Topology("test", 1, 20_000, 80, 1, 0, (Node("a", "pod-a", port),))
        follow(topology, first, second)
        try:
            async with PresenceClient.from_url(f"presence://pod-a:{port}") as presence:
                await presence.heartbeat(1)
                loop.addresses = {"pod-a": "127.0.0.2"}
                await second.start(port, "127.0.0.2")
                await first.stop()
                await until(lambda: second.connections > 0 and presence.stats()["nodes"]["a"]["ready"], 10.0)
                await presence.heartbeat(2)
                assert len(second.users) == 1
                assert presence.topology.epoch == 1
        finally:
            await first.stop()
            await second.stop()

    with asyncio.Runner(loop_factory=NamesLoop) as runner:
        runner.run(moves())
