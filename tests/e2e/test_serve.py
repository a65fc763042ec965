"""``pulsering serve`` and ``pulsering dev`` as real processes: ready line, signals, exit codes, no orphan."""

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.raw_peer import PATIENCE_S, RawPeer

from pulsering import limits, messages
from pulsering.wire import ErrorCode, Op
from pulsering_server.local_cluster import LocalCluster, LocalNode, NodeFailed, parse_ready


def where(node: LocalNode) -> tuple[str, int]:
    host, _, port = node.address.rpartition(":")
    return host, int(port)


@asynccontextmanager
async def one_node(**options: int) -> AsyncIterator[LocalNode]:
    """A cluster of one, with ``limits``."""
    async with LocalCluster(1, limits=dict(options)) as cluster:
        yield cluster.nodes["a"]


async def run(*arguments: str) -> tuple[int, str, str]:
    """Run the command to its end: exit code, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pulsering_server", *arguments, stdout=PIPE, stderr=PIPE
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    except TimeoutError:
        process.kill()
        await process.communicate()
        raise
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_ready_line_has_the_real_port() -> None:
    """`--port 0` takes any free port, and the one line on stdout says which."""
    async with LocalCluster(1) as cluster:
        node = cluster.nodes["a"]
        configured = node.address
        assert configured == str(cluster.config.nodes[0].address)
        await node.kill()
        await node.start("--port", "0")
        assert node.address != configured
        async with RawPeer(*where(node)) as peer:
            assert (await peer.greet()).node == "a"


async def states_of(peer: RawPeer, get: bytes) -> bytes:
    """The packed states of a GET of one key."""
    reply = await peer.ask(Op.GET, get)
    return bytes(messages.decode_get_reply(reply.body, 1, want_ages=False).states)


async def test_a_restarted_node_is_cold_until_one_ttl_has_passed() -> None:
    """Scenario 26, on real processes: UNK for absent keys after the restart, and the vitals say so."""
    get = messages.encode_keys_request(1, 0, bytes(8))
    async with one_node() as node:
        async with RawPeer(*where(node)) as peer:
            boot = (await peer.greet()).boot_id
            await peer.ask(Op.HEARTBEAT, get)
            assert await states_of(peer, get) == b"\x01"
        await node.kill()
        await node.start()
        async with RawPeer(*where(node)) as peer:
            welcome = await peer.greet()
            assert welcome.boot_id != boot
            assert welcome.warming_ms > 0
            assert await states_of(peer, get) == b"\x02"


async def test_sigterm_with_idle_busy_and_half_open_clients_exits_0() -> None:
    """Scenario 56: GOAWAY, served to the last, exit 0 as soon as all have left."""
    async with one_node() as node:
        async with (
            RawPeer(*where(node)) as idle,
            RawPeer(*where(node)) as busy,
            RawPeer(*where(node)) as half,
        ):
            await idle.greet()
            await busy.greet()
            node.signal(signal.SIGTERM)
            away = await idle.frame()
            assert away.op == Op.GOAWAY
            assert messages.decode_error(away.body).after_ms == limits.DRAIN_MS
            assert (await half.error()).code == ErrorCode.DRAINING
            assert (await busy.frame()).op == Op.GOAWAY
            for _ in range(10):
                assert (await busy.ask(Op.PING)).op == Op.PING
            assert node.running
        started = asyncio.get_running_loop().time()
        assert await asyncio.wait_for(node.wait(), PATIENCE_S) == 0
        assert asyncio.get_running_loop().time() - started < limits.DRAIN_MS / 2000
        assert "node.stopped" in node.log()


async def test_sigterm_without_clients_exits_0_at_once() -> None:
    async with one_node() as node:
        assert await node.terminate() == 0


async def test_a_second_signal_ends_the_node_at_once() -> None:
    """Scenario 56: within 1 s, with a client that stays; the exit code says it was cut short."""
    async with one_node() as node, RawPeer(*where(node)) as peer:
        await peer.greet()
        node.signal(signal.SIGTERM)
        assert (await peer.frame()).op == Op.GOAWAY
        started = asyncio.get_running_loop().time()
        node.signal(signal.SIGINT)
        assert await asyncio.wait_for(node.wait(), PATIENCE_S) == 1
        assert asyncio.get_running_loop().time() - started < 1.0


async def test_a_port_in_use_is_said_and_exits_1() -> None:
    async with LocalCluster(1) as cluster:
        code, out, err = await run("serve", "-c", str(cluster.config_path), "--node", "a")
    assert (code, out) == (1, "")
    assert "cannot listen on 127.0.0.1" in err
    assert "Traceback" not in err


async def test_a_node_that_is_not_in_the_file_exits_2(tmp_path: Path) -> None:
    config = tmp_path / "cluster.yaml"
    config.write_text(
        "version: 1\ncluster: demo\nepoch: 1\nreplicas: 1\nnodes: [{name: left, address: 127.0.0.1:7400}]\n"
    )
    code, out, err = await run("serve", "-c", str(config), "--node", "lefd")
    assert (code, out) == (2, "")
    assert "did you mean 'left'?" in err


async def test_a_broken_configuration_exits_2_with_every_error(tmp_path: Path) -> None:
    config = tmp_path / "cluster.yaml"
    config.write_text("version: 1\ncluster: demo\nepoch: 0\nttl: 20\nnodes: []\n")
    code, out, err = await run("serve", "-c", str(config), "--node", "a")
    assert (code, out) == (2, "")
    assert err.count("cluster.yaml:") >= 3
    assert "Traceback" not in err


async def test_what_a_valid_file_may_not_mean_is_logged_at_the_start(tmp_path: Path) -> None:
    """As `config validate` warns of it; the node starts all the same, here as far as its port."""
    nodes = [f"  - {{name: {name}, address: 127.0.0.1:1, zone: z}}\n" for name in "ab"]
    nodes[1] = nodes[1].replace(":1,", ":2,")
    file = tmp_path / "cluster.yaml"
    file.write_text("version: 1\ncluster: c\nepoch: 1\nreplicas: 2\nnodes:\n" + "".join(nodes))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, out, err = await run("serve", "-c", str(file), "--node", "a", "--port", port)
    assert (code, out) == (1, "")
    advice = [json.loads(line) for line in err.splitlines() if "config.advice" in line]
    assert [(line["level"], line["at"]) for line in advice] == [("warning", f"{file}:4:11")]
    assert "lose them together" in advice[0]["what"]


async def test_connections_beyond_the_file_limit_exit_2() -> None:
    """Scenario 54, before it can happen: settled at start, with the number and what to do."""
    with pytest.raises(NodeFailed, match=r"limits\.connections.*1000064 file descriptors"):
        async with LocalCluster(1, limits={"connections": 1_000_000}):
            pass


async def read_line(process: Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 2 * PATIENCE_S)).decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_dev_prints_its_url_and_leaves_no_child(number: int) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pulsering_server", "dev", "--nodes", "2", "--ttl", "2s"), stdout=PIPE
    )
    try:
        url = await read_line(process)
        addresses = url.strip().removeprefix("presence://").split(",")
        assert len(addresses) == 2
        for address in addresses:
            host, _, port = address.rpartition(":")
            async with RawPeer(host, int(port)) as peer:
                assert (await peer.greet()).cluster == "dev"
        process.send_signal(number)
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
        assert process.stdout is not None
        assert await process.stdout.read() == b"", "the pipe is closed, so no child has it"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    for address in addresses:
        host, _, port = address.rpartition(":")
        with pytest.raises(OSError, match=r"refused|Connect"):
            async with RawPeer(host, int(port)):
                pass


async def test_a_cluster_whose_node_dies_is_told_with_its_log() -> None:
    async with LocalCluster(2) as cluster:
        await cluster.kill("b")
        assert not cluster.nodes["b"].running
        assert "node.ready" in cluster.nodes["b"].describe("was killed")
        await cluster.restart("b")
        async with RawPeer(*where(cluster.nodes["b"])) as peer:
            assert (await peer.greet()).node == "b"


@pytest.mark.parametrize("line", ["", "ready", "hello node=a", "ready node"])
def test_only_a_ready_line_is_one(line: str) -> None:
    if line == "ready":
        assert parse_ready(line) == {}
        return
    with pytest.raises(ValueError, match="not a ready line"):
        parse_ready(line)


@pytest.mark.skipif(not os.path.exists("/proc"), reason="parents are asked of /proc")
async def test_nodes_die_with_whoever_started_them() -> None:
    """Killed outright, a test run or a terminal leaves no node behind."""
    script = (
        "import asyncio\n"
        "from pulsering_server.local_cluster import LocalCluster\n"
        "async def main():\n"
        "    async with LocalCluster(1) as cluster:\n"
        "        print(cluster.nodes['a'].pid, cluster.nodes['a'].address, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=PIPE)
    try:
        _, address = (await read_line(process)).split()
        host, _, port = address.rpartition(":")
        async with RawPeer(host, int(port)) as peer:
            await peer.greet()
            process.kill()
            await process.wait()
            await peer.rest()  # ends when the node does
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
