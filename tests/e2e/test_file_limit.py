"""Few file descriptors and many connects, on a real node: it starts only if it fits, and never runs out."""

import asyncio
import resource
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from e2e.poll import until
from support.raw_peer import PATIENCE_S, RawPeer

from pulsering import limits
from pulsering.errors import FrameError
from pulsering.wire import ErrorCode, Op
from pulsering_server import child

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits are Linux's")

CONNECTIONS = 10
CONNECTS = 75


@asynccontextmanager
async def node_with(files: int, directory: Path) -> AsyncIterator[Process]:
    """A node that may open so many files and no more."""
    config = directory / "cluster.yaml"
    config.write_text(
        f"version: 1\ncluster: demo\nepoch: 1\nreplicas: 1\nlimits: {{connections: {CONNECTIONS}}}\n"
        "nodes: [{name: a, address: 127.0.0.1:7400}]\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pulsering_server", "serve", "--node", "a", "--port", "0"),
        *("-c", str(config)),
        stdout=PIPE,
        stderr=PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
    )
    try:
        yield process
    finally:
        child.send_signal(process, signal.SIGKILL)
        await process.communicate()


async def is_served(peer: RawPeer) -> bool:
    """Whether HELLO is answered; else by a word of refusal, or a closed door."""
    try:
        await peer.greet()
    except (EOFError, OSError, FrameError):
        return False
    return True


async def test_a_node_whose_connections_do_not_fit_does_not_start(tmp_path: Path) -> None:
    """Scenario 54: RLIMIT_NOFILE 64 is what the node keeps in reserve; it says what is needed."""
    async with node_with(64, tmp_path) as process:
        out, err = await asyncio.wait_for(process.communicate(), 2 * PATIENCE_S)
        assert (process.returncode, out) == (2, b"")
        assert b"limits.connections: 10 connections" in err
        assert b"need 74 file descriptors, but this process may open 64" in err


async def test_more_connects_than_files_cost_only_those_who_are_too_many(tmp_path: Path) -> None:
    """Scenario 54, at the least limit that a node takes: those inside are served, then all is as before."""
    async with node_with(limits.FILES_RESERVED + CONNECTIONS, tmp_path) as process:
        facts = await asyncio.wait_for(child.read_ready(process), 2 * PATIENCE_S)
        host, _, port = facts["address"].rpartition(":")
        async with RawPeer(host, int(port)) as friend:
            await friend.greet()
            async with AsyncExitStack() as stack:
                crowd = [await stack.enter_async_context(RawPeer(host, int(port))) for _ in range(CONNECTS)]
                served = 0
                for peer in crowd:
                    served += await is_served(peer)
                    await friend.ask(Op.PING)
                assert served == CONNECTIONS - 1

            async def there_is_room() -> bool:
                async with RawPeer(host, int(port)) as peer:
                    return await is_served(peer)

            await until(there_is_room)
            await friend.ask(Op.PING)
        process.send_signal(signal.SIGTERM)
        _, err = await asyncio.wait_for(process.communicate(), 2 * PATIENCE_S)
        assert process.returncode == 0
        refusals = [line for line in err.decode().splitlines() if '"conn.closed"' in line]
        assert 0 < len(refusals) <= limits.LOG_LINES_PER_S
        assert all(f'"{ErrorCode.BUSY.name.lower()}"' in line for line in refusals)
        assert b"Traceback" not in err
