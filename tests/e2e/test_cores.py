"""A node of several cores as real processes: one ready line, one process a core, one end for all."""

import asyncio
import os
import random
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from e2e.poll import until
from support.http import TOKEN, ask
from support.raw_peer import PATIENCE_S, RawPeer

from pulsering import PresenceClient, Status
from pulsering.wire import ErrorCode, Op
from pulsering_server.admin_tokens import VARIABLE
from pulsering_server.local_cluster import LocalCluster, LocalNode

HOST = "127.0.0.1"
CORES = 2


def free_ports(count: int) -> int:
    """The first of ``count`` consecutive ports that are free."""
    for _ in range(1000):
        first = random.randrange(20_000, 32_000 - count)
        with ExitStack() as stack, suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind((HOST, port))
            return first
    raise AssertionError("no free ports")


def write_config(directory: Path, port: int, cores: int = CORES, admin: str = "off") -> Path:
    config = directory / "cluster.yaml"
    config.write_text(
        "version: 1\ncluster: demo\nepoch: 1\nttl: 2s\nlimits: {connections: 20}\n"
        f"nodes: [{{name: a, address: '{HOST}:{port}', cores: {cores}, admin: {admin}}}]\n"
    )
    return config


@asynccontextmanager
async def one_machine(directory: Path) -> AsyncIterator[tuple[LocalCluster, LocalNode, int]]:
    """A cluster of one node with ``CORES`` cores: the node is the process that keeps them."""
    port = free_ports(CORES)
    async with LocalCluster(config_path=write_config(directory, port)) as cluster:
        yield cluster, cluster.nodes["a"], port


async def name_at(port: int) -> str | None:
    """Who serves there; None if nobody does."""
    try:
        async with RawPeer(HOST, port) as peer:
            return (await peer.greet()).node
    except (OSError, EOFError):
        return None


async def nobody_is_left(port: int) -> bool:
    return [await name_at(port + core) for core in range(CORES)] == [None] * CORES


async def test_each_core_is_a_process_and_a_node(tmp_path: Path) -> None:
    async with one_machine(tmp_path) as (_, node, port):
        assert node.address == f"{HOST}:{port}"
        assert [await name_at(port + core) for core in range(CORES)] == ["a-0", "a-1"]
        log = node.log()
        for name in ("a", "a-0", "a-1"):
            assert f'"node": "{name}"' in log
        assert '"connections": 10,' in log, "a core has its share of the connections of the node"
        assert await node.terminate(PATIENCE_S) == 0
        assert await nobody_is_left(port)


async def test_the_client_knows_cores_as_nodes(tmp_path: Path) -> None:
    users = range(1000)
    async with (
        one_machine(tmp_path) as (cluster, node, _),
        PresenceClient.from_url(cluster.url, timeout=5) as presence,
    ):
        report = await presence.heartbeat_many(users)
        assert (report.accepted, report.reduced) == (1000, 0)
        assert (await presence.get_many(users)).counts[Status.ONLINE] == 1000
        assert (await presence.count()).online == 1000
        assert {node.name for node in await presence.status()} == {"a-0", "a-1"}
        assert node.running


async def epoch_at(port: int) -> int:
    async with RawPeer(HOST, port) as peer:
        return (await peer.greet()).epoch


async def test_sighup_to_the_node_has_all_its_cores_read_the_file(tmp_path: Path) -> None:
    """The file is not watched here: its time stamp and size are those of before."""
    async with one_machine(tmp_path) as (cluster, node, port):
        before = cluster.config_path.stat()
        text = cluster.config_path.read_text()
        with cluster.config_path.open("r+") as file:
            file.write(text.replace("epoch: 1", "epoch: 2"))
        os.utime(cluster.config_path, ns=(before.st_atime_ns, before.st_mtime_ns))
        node.signal(signal.SIGHUP)

        async def all_follow() -> bool:
            return [await epoch_at(port + core) for core in range(CORES)] == [2] * CORES

        await until(all_follow)
        assert node.running


async def test_one_core_can_be_run_alone(tmp_path: Path) -> None:
    port = free_ports(CORES)
    node = LocalNode(write_config(tmp_path, port), "a-1")
    await node.start()
    try:
        assert node.address == f"{HOST}:{port + 1}"
        assert await name_at(port) is None
        assert await name_at(port + 1) == "a-1"
    finally:
        assert await node.terminate(PATIENCE_S) == 0


@pytest.mark.skipif(not Path("/proc").exists(), reason="children are asked of /proc")
async def test_a_core_that_dies_is_started_again_while_the_others_serve(tmp_path: Path) -> None:
    async with one_machine(tmp_path) as (_, node, port), RawPeer(HOST, port) as friend:
        await friend.greet()
        async with RawPeer(HOST, port + 1) as victim:
            boot = (await victim.greet()).boot_id
            pid_of_core(node, "a-1").send(signal.SIGKILL)
            await victim.rest()
        await friend.ask(Op.PING)

        async def is_back() -> bool:
            return await name_at(port + 1) == "a-1"

        await until(is_back)
        async with RawPeer(HOST, port + 1) as again:
            assert (await again.greet()).boot_id != boot
        await friend.ask(Op.PING)
        log = node.log()
        assert '"core": "a-1", "exit_code": -9' in log
        assert node.running


async def test_a_core_that_is_drained_rests_until_the_node_is_told_and_with_the_last_the_node_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, TOKEN)
    port = free_ports(2 * CORES)
    admin = port + CORES
    config = write_config(tmp_path, port, admin=str(admin))
    async with LocalCluster(config_path=config) as cluster:
        node = cluster.nodes["a"]

        async def drain(core: int) -> None:
            answer = await ask(HOST, admin + core, "/-/drain", "POST", token=TOKEN)
            assert answer.status == 202

        async def rests() -> bool:
            return '"core": "a-1", "again": "SIGHUP to the node"' in node.log()

        async def is_back() -> bool:
            return await name_at(port + 1) == "a-1"

        await drain(1)
        await until(rests)
        assert [await name_at(port + core) for core in range(CORES)] == ["a-0", None]
        node.signal(signal.SIGHUP)
        await until(is_back)
        assert await name_at(port) == "a-0"
        for core in range(CORES):
            await drain(core)
        assert await asyncio.wait_for(node.wait(), PATIENCE_S) == 0
        assert "core.ended" not in node.log()


class Pid:
    """A process that is somebody else's child."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def send(self, number: int) -> None:
        os.kill(self.pid, number)


def pid_of_core(node: LocalNode, name: str) -> Pid:
    """The process of a core: the child of the node's that was started for it."""
    children = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
    for child in children:
        if Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[-2] == name.encode():
            return Pid(int(child))
    raise AssertionError(f"{name} is no child of {node.pid}")


@pytest.mark.skipif(sys.platform != "linux", reason="children die with their parent on Linux only")
async def test_no_core_outlives_the_process_that_keeps_it(tmp_path: Path) -> None:
    async with one_machine(tmp_path) as (_, node, port), AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(RawPeer(HOST, port + core)) for core in range(CORES)]
        for peer in peers:
            await peer.greet()
        await node.kill()
        for peer in peers:
            await peer.rest()  # ends when the core does

        async def nobody() -> bool:
            return await nobody_is_left(port)

        await until(nobody)


async def test_sigterm_drains_every_core_and_a_second_ends_them_at_once(tmp_path: Path) -> None:
    """Scenario 56, for all cores: GOAWAY from each, and clients that stay are not waited for twice."""
    async with one_machine(tmp_path) as (_, node, port), AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(RawPeer(HOST, port + core)) for core in range(CORES)]
        for peer in peers:
            await peer.greet()
        node.signal(signal.SIGTERM)
        for peer in peers:
            assert (await peer.frame()).op == Op.GOAWAY
        for peer in peers:
            assert (await peer.ask(Op.PING)).op == Op.PING
        node.signal(signal.SIGTERM)
        assert await asyncio.wait_for(node.wait(), PATIENCE_S) == 1
        assert await nobody_is_left(port)


async def test_sigterm_while_starting_leaves_nobody(tmp_path: Path) -> None:
    port = free_ports(CORES)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pulsering_server", "serve", "--node", "a"),
        *("-c", str(write_config(tmp_path, port))),
        stdout=PIPE,
        stderr=PIPE,
    )
    assert process.stderr is not None
    assert process.stdout is not None
    await asyncio.wait_for(process.stderr.readline(), 2 * PATIENCE_S)  # the first core serves
    process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(process.communicate(), 2 * PATIENCE_S)  # ends when nobody has our pipes
    assert process.returncode == 0
    assert await nobody_is_left(port)


async def test_a_core_that_cannot_listen_ends_the_start_of_all(tmp_path: Path) -> None:
    port = free_ports(CORES)
    with socket.socket() as squatter:
        squatter.bind((HOST, port + 1))
        squatter.listen()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pulsering_server", "serve", "--node", "a"),
            *("-c", str(write_config(tmp_path, port))),
            stdout=PIPE,
            stderr=PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 2 * PATIENCE_S)
    assert (process.returncode, out) == (1, b"")
    assert f"node a-1 cannot listen on {HOST}:{port + 1}".encode() in err
    assert await name_at(port) is None


async def test_connections_are_a_share_of_those_of_the_node(tmp_path: Path) -> None:
    async with one_machine(tmp_path) as (_, _, port), AsyncExitStack() as stack:
        for _ in range(10):
            peer = await stack.enter_async_context(RawPeer(HOST, port))
            await peer.greet()
        one_more = await stack.enter_async_context(RawPeer(HOST, port))
        assert (await one_more.error()).code == ErrorCode.BUSY
        assert await name_at(port + 1) == "a-1"
