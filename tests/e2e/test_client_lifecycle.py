"""Opening, closing, forking, forgetting: a clear error or a warning, never a wrong answer (scenario 45)."""

import asyncio
import gc
import os
import warnings

import pytest
from support.fake_node import FakeCluster, until
from support.loops import LOOPS, on_each_loop

from pulsering import (
    ClientClosed,
    ClusterMismatch,
    ConfigError,
    NoNodeReachable,
    PresenceClient,
    Status,
    _channel,
)


@on_each_loop
async def test_a_client_that_was_not_entered_says_so() -> None:
    client = PresenceClient.from_url("presence://127.0.0.1:1")
    with pytest.raises(ClientClosed, match="async with"):
        await client.heartbeat(1)
    await client.aclose()


@on_each_loop
async def test_use_after_close_is_a_clear_error() -> None:
    """Scenario 45."""
    async with FakeCluster("a", 1) as cluster:
        async with PresenceClient.from_url(cluster.url) as presence:
            await presence.heartbeat(1)
        for call in (presence.heartbeat(1), presence.get_many([1]), presence.count(), presence.open()):
            with pytest.raises(ClientClosed):
                await call
        await presence.aclose()


@on_each_loop
async def test_closing_ends_calls_under_way() -> None:
    async with FakeCluster("a", 1) as cluster:
        presence = await PresenceClient.from_url(cluster.url, timeout=None).__aenter__()
        cluster["a"].holding = True
        calls = [
            asyncio.create_task(call)
            for call in (
                presence.heartbeat(1),
                presence.get_many([1]),
                presence.is_online(1),
                presence.count(),
            )
        ]
        await until(lambda: len(cluster["a"].held) == 4)
        await presence.aclose()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results} == {ClientClosed}


def test_a_client_used_from_two_loops_is_a_clear_error() -> None:
    """Scenario 45."""
    with asyncio.Runner() as one, asyncio.Runner() as other:
        cluster = FakeCluster("a", 1)
        one.run(cluster.__aenter__())
        presence = one.run(PresenceClient.from_url(cluster.url).__aenter__())
        with pytest.raises(ClientClosed, match="event loop"):
            other.run(presence.heartbeat(1))
        with pytest.raises(ClientClosed, match="event loop"):
            other.run(presence.aclose())
        one.run(presence.heartbeat(1))
        one.run(presence.aclose())
        one.run(cluster.__aexit__(None, None, None))


@on_each_loop
async def test_a_client_used_from_the_loop_of_another_thread_is_a_clear_error() -> None:
    """Scenario 45: also while its own loop runs, and a batch of it is open."""
    async with FakeCluster("a", 1) as cluster, PresenceClient.from_url(cluster.url) as presence:
        ours = asyncio.create_task(presence.heartbeat(1))
        await asyncio.sleep(0)
        with pytest.raises(ClientClosed, match="event loop"):
            await asyncio.to_thread(lambda: asyncio.run(presence.heartbeat(2)))
        await ours


@on_each_loop
async def test_a_fork_must_open_its_own_client() -> None:
    """Scenario 45: the child says so, and leaves the parent's sockets alone."""
    async with FakeCluster("a", 1) as cluster, PresenceClient.from_url(cluster.url) as presence:
        await presence.heartbeat(1)
        child = os.fork()
        if not child:
            code = 1
            try:
                presence.heartbeat(2).send(None)
            except ClientClosed as error:
                code = 0 if "fork" in str(error) else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)  # noqa: ASYNC222 - it ends at once
        assert os.waitstatus_to_exitcode(status) == 0
        assert await presence.is_online(1)
        assert not await presence.is_online(2)


@on_each_loop
async def test_a_client_dropped_without_close_warns_and_cleans_up() -> None:
    """Scenario 45."""
    async with FakeCluster("a", 1) as cluster:
        presence = await PresenceClient.from_url(cluster.url).__aenter__()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del presence
            gc.collect()
        assert [warning.category for warning in caught] == [ResourceWarning]
        assert "unclosed" in str(caught[0].message)
        await until(lambda: len(asyncio.all_tasks()) == 1)


@pytest.mark.parametrize("kind", list(LOOPS))
def test_a_client_whose_loop_has_ended_goes_quietly(kind: str) -> None:
    """Scenario 45: a warning, and no noise about a closed loop."""
    with asyncio.Runner(loop_factory=LOOPS[kind]) as runner:
        cluster = FakeCluster("a", 1)
        runner.run(cluster.__aenter__())
        presence = runner.run(PresenceClient.from_url(cluster.url).__aenter__())
        runner.run(cluster.__aexit__(None, None, None))
    with pytest.warns(ResourceWarning, match="unclosed"):  # noqa: PT031 - dropping takes two
        del presence
        gc.collect()


@on_each_loop
async def test_a_cluster_that_cannot_be_found_is_said_with_every_seed() -> None:
    async with FakeCluster("ab") as cluster:
        url = cluster.url
    with pytest.raises(NoNodeReachable, match="is the cluster running") as caught:
        await PresenceClient.from_url(url).open()
    assert len(caught.value.attempts) == 2
    assert caught.value.retryable


@on_each_loop
async def test_one_seed_that_answers_is_enough() -> None:
    async with FakeCluster("abc", 2) as cluster:
        await cluster["a"].stop()
        await cluster["b"].stop()
        async with PresenceClient.from_url(cluster.url) as presence:
            await presence.heartbeat_many(range(10))


@on_each_loop
async def test_another_cluster_is_not_mistaken_for_ours() -> None:
    async with FakeCluster("a", 1) as cluster:
        with pytest.raises(ClusterMismatch, match="'test', not 'prod'"):
            await PresenceClient.from_url(cluster.url + "/prod").open()
        async with PresenceClient.from_url(cluster.url + "/test") as presence:
            await presence.heartbeat(1)


@on_each_loop
async def test_a_silent_seed_holds_nobody_up() -> None:
    """The next seed is tried beside one that accepts and says nothing."""
    async with FakeCluster("ab", 2) as cluster:
        cluster["a"].script[1] = lambda frame: None
        began = asyncio.get_running_loop().time()
        async with PresenceClient.from_url(cluster.url, connect_timeout=0.5) as presence:
            await presence.heartbeat(1)
        assert asyncio.get_running_loop().time() - began < 2


def test_ssl_without_tls_is_refused() -> None:
    import ssl

    with pytest.raises(ConfigError, match="presences"):
        PresenceClient.from_url("presence://h1", ssl=ssl.create_default_context())


def test_the_client_imports_without_server_and_loop_extras() -> None:
    import subprocess
    import sys

    code = (
        "import sys, pulsering; "
        "assert not {'uvloop','numpy','pulsering_server','pydantic','ssl_'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@on_each_loop
async def test_a_crowd_opens_a_second_connection_which_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_channel, "EXTRA_IDLE_S", 0.05)
    async with FakeCluster("a", 1) as cluster, PresenceClient.from_url(cluster.url, timeout=5) as presence:
        node = cluster["a"]
        node.holding = True
        calls = [asyncio.create_task(presence.get_many([user])) for user in range(600)]
        await until(lambda: presence.stats()["nodes"]["a"]["connections"] == 2)
        await until(lambda: len(node.held) == 600)
        assert len(calls) == 600
        node.release()
        await asyncio.gather(*calls)
        await until(lambda: presence.stats()["nodes"]["a"]["connections"] == 1)
        assert (await presence.get_many([1])).counts[Status.OFFLINE] == 1
        assert presence.stats()["nodes"]["a"]["circuit"] == "closed"
