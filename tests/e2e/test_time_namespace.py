"""Nodes whose clocks have nothing in common, and a reporter that dies without a goodbye, on real nodes."""

import asyncio
import shutil
import signal
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from e2e.poll import until
from support.raw_peer import PATIENCE_S

from pulsering import PresenceClient, Status
from pulsering_server.local_cluster import LocalCluster, parse_ready

TTL_MS = 2_000
AHEAD_S = 100_000
UNSHARE = (
    "unshare",
    "--time",
    "--boottime",
    str(AHEAD_S),
    "--monotonic",
    str(AHEAD_S),
    "--fork",
    "--kill-child",
)
USERS = range(200)


def may_unshare() -> bool:
    """Whether this process may make a time namespace."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


@asynccontextmanager
async def in_another_time(cluster: LocalCluster, name: str) -> AsyncIterator[Process]:
    """A node of the cluster whose boot clock is more than a day ahead of the others'."""
    process = await asyncio.create_subprocess_exec(
        *(*UNSHARE, sys.executable, "-m", "pulsering_server", "serve"),
        *("--config", str(cluster.config_path), "--node", name),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=DEVNULL,
    )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 2 * PATIENCE_S)
        assert parse_ready(line.decode())["node"] == name
        yield process
    finally:
        process.kill()
        await process.communicate()


async def all_are(status: Status, presence: PresenceClient) -> bool:
    return set(await presence.get_many(USERS)) == {status}


@pytest.mark.skipif(not may_unshare(), reason="no time namespaces for this user")
async def test_scenario_20_clocks_a_day_apart_change_no_answer() -> None:
    """An absolute time in a frame or a table would make everybody online for a day, or nobody ever."""
    async with LocalCluster(2, ttl_ms=TTL_MS) as cluster:
        await cluster.nodes["b"].kill()
        async with (
            in_another_time(cluster, "b"),
            PresenceClient.from_url(cluster.url, timeout=2) as presence,
        ):
            await until(lambda: all_are(Status.OFFLINE, presence))
            loop = asyncio.get_running_loop()
            until_s = loop.time() + 2 * TTL_MS / 1000
            while loop.time() < until_s:
                assert (await presence.heartbeat_many(USERS)).accepted == len(USERS)
                assert await all_are(Status.ONLINE, presence)
            last = loop.time()
            await until(lambda: all_are(Status.OFFLINE, presence))
            assert loop.time() - last >= TTL_MS / 1000, "not a moment sooner"


REPORTER = """
import asyncio, sys
from pulsering import PresenceClient

async def main():
    async with PresenceClient.from_url(sys.argv[1], timeout=5) as presence:
        while True:
            await presence.heartbeat_many(range(200))
            print("beat", flush=True)

asyncio.run(main())
"""


async def test_scenario_12_a_reporter_is_killed_and_its_users_are_offline_in_time() -> None:
    async with (
        LocalCluster(2, ttl_ms=TTL_MS) as cluster,
        PresenceClient.from_url(cluster.url, timeout=2) as presence,
    ):
        await until(lambda: all_are(Status.OFFLINE, presence))
        reporter = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", REPORTER, cluster.url), stdin=DEVNULL, stdout=PIPE
        )
        try:
            assert reporter.stdout is not None
            assert await asyncio.wait_for(reporter.stdout.readline(), PATIENCE_S) == b"beat\n"
            assert await all_are(Status.ONLINE, presence)
        finally:
            reporter.send_signal(signal.SIGKILL)
            await reporter.communicate()
        await until(lambda: all_are(Status.OFFLINE, presence))
