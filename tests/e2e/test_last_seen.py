"""Last seen through the real client: in memory, on a clock of the test's own, and with two nodes that die."""

from itertools import compress
from pathlib import Path

import pytest
from e2e.poll import until
from e2e.test_cores import free_ports
from support.loops import on_each_loop

from pulsering import ConfigError, PresenceClient, Snapshot, Status
from pulsering.sync import PresenceClient as BlockingClient
from pulsering.testing import MemoryCluster
from pulsering_server.local_cluster import LocalCluster

CONFIG = """\
version: 1
cluster: dev
epoch: 1
ttl: 1s
last_seen: 7d
limits: {last_seen: 8MiB}
nodes:
  - {name: a, address: "127.0.0.1:PORT", admin: off}
  - {name: b, address: "127.0.0.2:PORT", admin: off}
"""


@on_each_loop
async def test_last_seen_from_the_heartbeat_to_the_end_of_memory() -> None:
    cluster = MemoryCluster(last_seen="1h")
    async with PresenceClient.from_url(cluster.url) as presence:
        await presence.heartbeat(42)
        snapshot = await presence.get_many([42, 7], last_seen=True)
        assert snapshot.last_seen == (None, None)
        cluster.clock.advance(600)
        snapshot = await presence.get_many([42, "nobody", 42], last_seen=True, ages=True)
        assert snapshot.last_seen == (600.0, None, 600.0)
        assert snapshot.ages == (None, None, None)
        assert all(listened is not None and listened >= 600 for listened in snapshot.listened)
        await presence.heartbeat(42)
        await presence.leave(42)
        assert (await presence.get_many([42], last_seen=True)).last_seen == (0.0,)
        cluster.clock.advance(3_700)
        snapshot = await presence.get_many([42], last_seen=True)
        assert (snapshot.last_seen, snapshot.listened) == ((None,), (3_600.0,))


@on_each_loop
async def test_a_cluster_that_does_not_remember_says_so() -> None:
    async with PresenceClient.from_url("memory://") as presence:
        snapshot = await presence.get_many([42], last_seen=True)
        assert (snapshot[0], snapshot.last_seen, snapshot.listened) == (Status.OFFLINE, (None,), (0.0,))


def test_the_blocking_client_has_it_too_and_memory_by_url() -> None:
    with BlockingClient.from_url("memory://?last_seen=24h") as presence:
        presence.heartbeat(42)
        presence.leave(42)
        assert presence.get_many([42], last_seen=True).last_seen[0] in (0.0, 1.0)


def test_a_memory_that_no_cluster_has_is_refused() -> None:
    for last_seen in ("1s", "10000h"):
        with pytest.raises(ConfigError, match="not 60 s to 90 days"):
            MemoryCluster(last_seen=last_seen)


async def test_the_owner_that_is_left_knows_and_those_who_are_new_make_nothing_up(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(CONFIG.replace("PORT", str(free_ports(1))))
    async with (
        LocalCluster(config_path=path) as cluster,
        PresenceClient.from_url(cluster.url, timeout="2s") as presence,
    ):
        snapshot: Snapshot

        async def all_offline() -> bool:
            nonlocal snapshot
            snapshot = await presence.get_many([1, 2, 3, 4], last_seen=True)
            assert all(seen is None for seen in compress(snapshot.last_seen, snapshot))  # ONLINE or UNKNOWN
            return set(snapshot) == {Status.OFFLINE}

        await presence.heartbeat_many([1, 2, 3])
        await presence.leave_many([1, 2, 3])
        await until(all_offline, 20)
        await cluster.nodes["a"].kill()
        await until(all_offline, 20)
        *known, nobody = snapshot.last_seen
        assert all(seen is not None and 0 <= seen < 60 for seen in known)
        assert nobody is None
        assert snapshot.listened[3] is not None
        await cluster.nodes["b"].kill()
        await cluster.nodes["a"].start()
        await cluster.nodes["b"].start()
        await until(all_offline, 20)
        assert snapshot.last_seen == (None,) * 4
        assert all(listened is not None and listened < 60 for listened in snapshot.listened)
