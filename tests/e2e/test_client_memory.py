"""``memory://`` and ``pulsering.testing``: the real client and the real node core, with no socket between."""

import asyncio
import gc
import ssl
import subprocess
import sys
import threading
from array import array

import pytest
from support.fake_node import until
from support.loops import on_each_loop

from pulsering import (
    ClientClosed,
    ConfigError,
    HeartbeatReport,
    NodeUnavailable,
    PresenceClient,
    PresenceError,
    Reason,
    Status,
    UnknownPresence,
)
from pulsering.testing import Clock, MemoryCluster

WITHOUT_THE_SERVER = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pydantic", "structlog", "uvloop", "typer", "rich", "ruamel"):
            raise ModuleNotFoundError(f"no module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from pulsering import ConfigError, PresenceClient
from pulsering.testing import MemoryCluster
for make in (lambda: PresenceClient.from_url("memory://"), MemoryCluster):
    try:
        make()
    except ConfigError as error:
        assert "'server' extra" in str(error) and "pulsering[server]" in str(error), error
    else:
        sys.exit("it was made without the server extra")
"""


@on_each_loop
async def test_a_memory_cluster_answers_from_the_first_moment_on() -> None:
    """Nothing was there before it, so it starts warm."""
    async with PresenceClient.from_url("memory://") as presence:
        assert not await presence.is_online(42)
        await presence.heartbeat(42)
        assert await presence.is_online(42)
        assert (await presence.heartbeat_many(array("Q", range(20_000)))).accepted == 20_000
        assert (await presence.get_many(range(20_001))).offline == (20_000,)
        total = await presence.count()
        assert (total.online, total.exact) == (20_000, True)
        await presence.leave(42)
        assert not await presence.is_online(42)
        (node,) = await presence.status()
        assert (node.up, node.warming) == (True, 0)


@on_each_loop
async def test_memory_without_a_name_is_private_and_a_name_is_shared() -> None:
    async with (
        PresenceClient.from_url("memory://") as mine,
        PresenceClient.from_url("memory://") as yours,
        PresenceClient.from_url("memory://ours?ttl=2s") as one,
        PresenceClient.from_url("memory://ours?timeout=1s") as other,
    ):
        await mine.heartbeat(1)
        assert not await yours.is_online(1)
        await one.heartbeat(1)
        assert await other.is_online(1)
        assert other.topology.ttl_ms == 2000
        with pytest.raises(ConfigError, match="ttl of 2"):
            PresenceClient.from_url("memory://ours?ttl=3s")


@on_each_loop
async def test_a_named_cluster_is_gone_with_its_last_client() -> None:
    async with PresenceClient.from_url("memory://fleeting") as presence:
        await presence.heartbeat(1)
    del presence
    gc.collect()
    async with PresenceClient.from_url("memory://fleeting") as presence:
        assert not await presence.is_online(1)


def test_clients_on_different_loops_share_a_cluster() -> None:
    cluster = MemoryCluster()

    async def beat(first: int) -> HeartbeatReport:
        async with PresenceClient.from_url(cluster.url) as presence:
            for user in range(first, first + 100):
                await presence.heartbeat(user)
            return await presence.heartbeat_many(range(first, first + 100))

    threads = [threading.Thread(target=lambda i=i: asyncio.run(beat(i * 100))) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def online() -> int:
        async with PresenceClient.from_url(cluster.url) as presence:
            return (await presence.count()).online

    assert asyncio.run(online()) == 800


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("memory://x/y", "path"),
        ("memory://?ttl=0", "ttl"),
        ("memory://?ttl=1ms", "ttl_ms"),
        ("memory://?tll=20s", "tll"),
        ("memory://" + "x" * 64, "63"),
        ("memory://#x", "fragment"),
    ],
)
def test_a_memory_url_is_refused_by_the_part_that_is_wrong(url: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        PresenceClient.from_url(url)


def test_tls_is_not_for_memory() -> None:
    with pytest.raises(ConfigError, match="presences"):
        PresenceClient.from_url("memory://", ssl=ssl.create_default_context())


def test_without_the_server_extra_the_error_names_it() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_THE_SERVER], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@on_each_loop
async def test_offline_comes_one_ttl_after_the_last_heartbeat_when_the_clock_says_so() -> None:
    cluster = MemoryCluster()
    async with PresenceClient.from_url(cluster.url) as presence:
        await presence.heartbeat(42)
        cluster.clock.advance(19.5)
        assert await presence.is_online(42)
        assert (await presence.get_many([42], ages=True)).ages == (19.5,)
        cluster.clock.advance("1s")
        assert not await presence.is_online(42)
        await presence.heartbeat(42)
        cluster.clock.advance("24h")
        assert (await presence.get_many([42]))[0] is Status.OFFLINE


@on_each_loop
async def test_a_heartbeat_is_fresh_however_far_the_clock_was_moved() -> None:
    """The sender's clock moves with the node's, or a heartbeat would look late by as much."""
    cluster = MemoryCluster(ttl="2s")
    async with PresenceClient.from_url(cluster.url) as presence:
        for _ in range(10):
            await presence.heartbeat(1)
            cluster.clock.advance(1.9)
            assert await presence.is_online(1)


@on_each_loop
async def test_a_node_that_went_cold_says_unknown_and_then_knows_again() -> None:
    cluster = MemoryCluster()
    async with PresenceClient.from_url(cluster.url) as presence:
        await presence.heartbeat(1)
        cluster.go_cold()
        assert await presence.is_online(1)
        with pytest.raises(UnknownPresence) as caught:
            await presence.is_online(2)
        assert caught.value.reason is Reason.COLD
        cluster.clock.advance(21)
        assert not await presence.is_online(2)


@on_each_loop
async def test_a_stopped_node_is_an_error_and_is_found_again() -> None:
    cluster = MemoryCluster()
    async with PresenceClient.from_url(cluster.url) as presence:
        await presence.heartbeat(1)
        cluster.stop()
        with pytest.raises(NodeUnavailable):
            await presence.heartbeat(1)
        with pytest.raises(NodeUnavailable):
            await PresenceClient.from_url(cluster.url).open()
        cluster.start()
        await until(lambda: presence.stats()["nodes"]["memory"]["ready"])
        assert await presence.is_online(1)
        cluster.restart()
        await until(lambda: presence.stats()["nodes"]["memory"]["connects"] == 3)
        assert (await presence.get_many([1]))[0] is Status.UNKNOWN


@on_each_loop
async def test_closing_ends_calls_under_way_and_leaves_nothing() -> None:
    presence = PresenceClient.from_url("memory://")
    async with presence:
        calls = [asyncio.ensure_future(presence.heartbeat(user)) for user in range(10)]
        await asyncio.sleep(0)
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(result is None or isinstance(result, PresenceError) for result in results)
    with pytest.raises(ClientClosed):
        await presence.heartbeat(1)


def test_time_never_goes_back() -> None:
    with pytest.raises(ConfigError, match="duration"):
        Clock().advance(-1)


async def test_the_memory_fixture_is_a_cluster_with_a_clock(presence_memory: MemoryCluster) -> None:
    async with PresenceClient.from_url(presence_memory.url) as presence:
        await presence.heartbeat(1)
        presence_memory.clock.advance(21)
        assert not await presence.is_online(1)


async def test_the_url_fixture_is_a_real_node(presence_url: str) -> None:
    assert presence_url.startswith("presence://127.")
    async with PresenceClient.from_url(presence_url) as presence:
        await presence.heartbeat(1)
        assert await presence.is_online(1)


@pytest.mark.presence(nodes=2, ttl="2s")
async def test_the_mark_says_how_many_nodes_and_which_ttl(presence_url: str) -> None:
    async with PresenceClient.from_url(presence_url) as presence:
        assert len(presence.topology.nodes) == 2
        assert presence.topology.ttl_ms == 2000
