"""Nodes under a service manager: ready when warm, reloads told, the end told, and what hangs is found."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest
from e2e.test_cores import CORES, free_ports, pid_of_core, write_config
from support.manager_stub import ManagerStub, Message
from support.raw_peer import PATIENCE_S, RawPeer

from pulsering.wire import Op
from pulsering_server.local_cluster import LocalCluster, LocalNode
from pulsering_server.service_manager import CLIENTS_BACK_MS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd is on Linux only")

WATCHDOG_S = 3.0
TTL_MS = 1_000


def ready(message: Message) -> bool:
    return message.get("READY") == "1"


def serving(message: Message) -> bool:
    return "serving" in message["STATUS"]


def not_ready(message: Message) -> bool:
    return "READY" not in message


async def one_node(stub: ManagerStub, directory: Path, cores: int = 1) -> LocalNode:
    """A node that has been started by systemd, so to say."""
    config = write_config(directory, free_ports(cores), cores)
    config.write_text(config.read_text().replace("ttl: 2s", f"ttl: 1s\nreplicas: {cores}"))
    node = LocalNode(config, "a")
    await node.start(service=stub.environ)
    return node


@pytest.mark.parametrize("cores", [1, CORES])
async def test_the_life_of_a_service(tmp_path: Path, cores: int) -> None:
    """Warming, then READY; SIGHUP is RELOADING and READY again; SIGTERM is STOPPING, drained, exit 0."""
    async with ManagerStub(tmp_path, WATCHDOG_S) as stub:
        node = await one_node(stub, tmp_path, cores)
        first = await stub.next()
        assert not_ready(first)
        assert int(first["EXTEND_TIMEOUT_USEC"]) > 0
        began_s = asyncio.get_running_loop().time()
        assert serving(await stub.until(ready))
        assert asyncio.get_running_loop().time() - began_s > CLIENTS_BACK_MS / 1000 - 2, (
            "warm, and clients are back"
        )
        assert all("WATCHDOG" in message for message in stub.messages)

        config = tmp_path / "cluster.yaml"
        config.write_text(config.read_text().replace("epoch: 1", "epoch: 2"))
        node.signal(signal.SIGHUP)
        assert "MONOTONIC_USEC" in await stub.until(lambda message: "RELOADING" in message)
        await stub.until(lambda message: ready(message) and (cores > 1 or "epoch 2" in message["STATUS"]))

        host, _, port = node.address.rpartition(":")
        async with RawPeer(host, int(port)) as peer:
            await peer.greet()
            node.signal(signal.SIGTERM)
            await stub.until(lambda message: "STOPPING" in message)
            assert (await peer.frame()).op == Op.GOAWAY
            beats = [await stub.next() for _ in range(2)]
            assert all(beat["WATCHDOG"] == beat["STOPPING"] == "1" for beat in beats), (
                "it lives while it drains"
            )
        assert await asyncio.wait_for(node.wait(), PATIENCE_S) == 0


async def test_a_refused_file_is_said_where_the_operator_looks_first(tmp_path: Path) -> None:
    async with ManagerStub(tmp_path) as stub:
        node = await one_node(stub, tmp_path)
        await stub.until(serving)
        (tmp_path / "cluster.yaml").write_text("version: 1\n")
        node.signal(signal.SIGHUP)
        message = await stub.until(lambda message: "refused" in message["STATUS"])
        assert "cluster.yaml refused: " in message["STATUS"]
        assert await node.terminate(PATIENCE_S) == 0


async def test_a_loop_that_stands_still_is_not_heard_of(tmp_path: Path) -> None:
    """What the watchdog goes by: stopped, the node is silent for longer than it may be."""
    async with ManagerStub(tmp_path, watchdog_s=0.5) as stub:
        node = await one_node(stub, tmp_path)
        await stub.next()
        node.signal(signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            await stub.until(lambda _: False, within_s=2 * 0.5)
        silent_after = len(stub.messages)
        with pytest.raises(TimeoutError):
            await stub.until(lambda _: False, within_s=2 * 0.5)
        assert len(stub.messages) == silent_after
        node.signal(signal.SIGABRT)  # as systemd does
        node.signal(signal.SIGCONT)
        assert await asyncio.wait_for(node.wait(), PATIENCE_S) == -signal.SIGABRT
        assert "Fatal Python error: Aborted" in node.log(), "and the log has where it hung"


async def test_a_core_that_hangs_is_ended_and_started_again(tmp_path: Path) -> None:
    """systemd knows one process of the node; this one minds the others."""
    async with ManagerStub(tmp_path, watchdog_s=1.0) as stub:
        node = await one_node(stub, tmp_path, CORES)
        await stub.until(serving)
        core = pid_of_core(node, "a-1")
        core.send(signal.SIGSTOP)  # so deep that SIGABRT does not reach it: then it is killed
        await stub.until(lambda message: "not running" in message["STATUS"])
        await stub.until(lambda message: message["STATUS"] == f"{CORES} cores: {CORES} serving")
        assert '"event": "core.hangs"' in node.log()
        assert pid_of_core(node, "a-1").pid != core.pid
        assert await node.terminate(PATIENCE_S) == 0


async def test_nodes_do_not_take_the_manager_of_who_started_them_for_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A demo or a test run within a service: its nodes must not say READY for it."""
    async with ManagerStub(tmp_path) as stub:
        for name, value in stub.environ.items():
            monkeypatch.setenv(name, value)
        async with LocalCluster(1, ttl_ms=TTL_MS) as cluster:
            assert cluster.nodes["a"].running
        with pytest.raises(TimeoutError):
            await stub.until(lambda _: True, within_s=0.05)
