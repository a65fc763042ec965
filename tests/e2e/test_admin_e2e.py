"""The admin port of real nodes: what deploy/ asks for is there, and a drain goes its way in order."""

import asyncio
import shutil
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from e2e.poll import until
from e2e.test_cores import CORES, HOST, free_ports
from e2e.test_serve import run, where
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support.deployed import DEPLOY, metrics_asked_for
from support.http import TOKEN, Answer, ask, parse_openmetrics
from support.raw_peer import PATIENCE_S, RawPeer

from pulsering import PresenceClient, limits
from pulsering.wire import Op
from pulsering_server.admin_tokens import VARIABLE
from pulsering_server.local_cluster import LocalCluster, LocalNode
from pulsering_server.metrics import FAMILIES, PREFIX

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


async def at(node: LocalNode, path: str, method: str = "GET", **options: Any) -> Answer:
    """One request to the admin port of a node."""
    host, _, port = node.admin.rpartition(":")
    return await ask(host, int(port), path, method, **options)


@asynccontextmanager
async def one_node(**options: Any) -> AsyncIterator[LocalNode]:
    async with LocalCluster(1, admin=True, **options) as cluster:
        yield cluster.nodes["a"]


def sample_names(text: str) -> set[str]:
    return {sample.name for metric in parse_text(text) for sample in metric.samples}


@pytest.mark.skipif(not DEPLOY.is_dir(), reason="only the wheel is here, no sources")
async def test_every_metric_that_rules_and_dashboard_ask_for_is_in_a_real_scrape() -> None:
    """Of a node that nobody has used yet: an alert must not wait for its metric to appear."""
    async with one_node() as node:
        text = (await at(node, "/metrics")).text
    missing = metrics_asked_for() - sample_names(text)
    assert not missing
    assert len(metrics_asked_for()) > 40


async def test_the_scrape_of_a_node_at_work_is_valid_and_says_what_was_done() -> None:
    async with (
        LocalCluster(2, admin=True) as cluster,
        PresenceClient.from_url(cluster.url, timeout=5) as presence,
    ):
        await presence.heartbeat_many(range(1000))
        await presence.get_many(range(2000))
        await presence.leave_many(range(100))
        total = 0.0
        for node in cluster.nodes.values():
            answer = await at(node, "/metrics", Accept=OPENMETRICS)
            found = {metric.name: metric for metric in parse_openmetrics(answer.text)}
            assert {PREFIX + family.name for family in FAMILIES} <= found.keys()
            (first,) = found["pulsering_users_online_first"].samples
            total += first.value
        assert total == 900 == (await presence.count()).online


@pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not here: apt-get install -y --no-install-recommends prometheus",
)
async def test_promtool_finds_nothing_in_a_real_scrape() -> None:
    async with one_node() as node:
        text = (await at(node, "/metrics")).text
    promtool = await asyncio.create_subprocess_exec("promtool", "check", "metrics", stdin=PIPE, stderr=PIPE)
    _, told = await promtool.communicate(text.encode())
    assert (promtool.returncode, told) == (0, b"")


async def test_ready_once_warm_and_healthy_all_the_while() -> None:
    async with one_node(ttl_ms=1000) as node:
        assert (await at(node, "/-/healthy")).status == 200
        cold = await at(node, "/-/ready")
        assert (cold.status, cold.text.split(",")[0]) == (503, "not ready: warming")

        async def ready() -> bool:
            return (await at(node, "/-/ready")).status == 200

        await until(ready)
        status = (await at(node, "/status")).json
        assert (status["address"], status["admin"]) == (node.address, node.admin)
        assert status["ready"]


async def test_a_drain_is_not_ready_then_goaway_then_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenario 56, asked for over HTTP: whoever stays is served until the end, which comes in time."""
    monkeypatch.setenv(VARIABLE, TOKEN)
    async with one_node() as node:
        assert (await at(node, "/-/drain", "POST")).status == 401
        async with RawPeer(*where(node)) as peer:
            await peer.greet()
            started = asyncio.get_running_loop().time()
            assert (await at(node, "/-/drain", "POST", token=TOKEN)).status == 202
            assert (await peer.frame()).op == Op.GOAWAY
            gone = await at(node, "/-/ready")
            assert (gone.status, gone.text) == (503, "not ready: draining\n")
            assert (await peer.ask(Op.PING)).op == Op.PING
            assert (await at(node, "/status")).json["draining"]
        assert await asyncio.wait_for(node.wait(), PATIENCE_S) == 0
        assert asyncio.get_running_loop().time() - started < limits.DRAIN_MS / 1000


async def test_a_drain_ends_in_12_s_with_a_client_that_stays_and_one_that_hangs_at_the_admin_port() -> None:
    """Scenario 56: exit 0 within 12 s, whatever peers do."""
    async with one_node() as node, RawPeer(*where(node)) as peer:
        await peer.greet()
        host, _, port = node.admin.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /status HTTP/1.1\r\n")
        started = asyncio.get_running_loop().time()
        assert await node.terminate(12.0) == 0
        assert asyncio.get_running_loop().time() - started >= limits.DRAIN_MS / 1000 - 0.1
        writer.transport.abort()


async def test_a_reload_by_hand_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, TOKEN)
    async with LocalCluster(1, admin=True) as cluster:
        node = cluster.nodes["a"]
        good = cluster.config_path.read_text()
        cluster.config_path.write_text(good.replace("epoch: 1", "epoch: 0"))
        bad = await at(node, "/-/reload", "POST", token=TOKEN)
        assert bad.status == 409
        assert any("epoch" in problem for problem in bad.json["problems"])
        cluster.config_path.write_text(good.replace("epoch: 1", "epoch: 2"))
        loaded = await at(node, "/-/reload", "POST", token=TOKEN)
        assert (loaded.status, loaded.json["epoch"]) == (200, 2)


# --- Where it listens ---------------------------------------------------------------------------------------


def write(directory: Path, admin: str, cores: int = 1, more: str = "") -> tuple[Path, int]:
    """The configuration of one node, and its port."""
    port = free_ports(2 * CORES)
    path = directory / "cluster.yaml"
    path.write_text(
        f"version: 1\ncluster: demo\nepoch: 1\nttl: 2s\nreplicas: 1\n{more}"
        f"nodes: [{{name: a, address: '{HOST}:{port}', cores: {cores}, admin: {admin}}}]\n"
    )
    return path, port


async def test_each_core_has_its_admin_port_after_the_one_before(tmp_path: Path) -> None:
    path, port = write(tmp_path, "PORT", CORES)
    path.write_text(path.read_text().replace("PORT", str(port + CORES)))
    async with LocalCluster(config_path=path) as cluster:
        assert cluster.nodes["a"].admin == f"{HOST}:{port + CORES}"
        names = [(await ask(HOST, port + CORES + core, "/status")).json["node"] for core in range(CORES)]
        assert names == ["a-0", "a-1"]


async def test_a_node_without_an_admin_port_has_none_and_says_none(tmp_path: Path) -> None:
    path, _ = write(tmp_path, "off")
    async with LocalCluster(config_path=path) as cluster:
        assert cluster.nodes["a"].admin == ""


async def test_a_port_that_is_taken_ends_the_start_with_1(tmp_path: Path) -> None:
    async with one_node() as other:
        path, _ = write(tmp_path, f"'{other.admin}'")
        code, out, err = await run("serve", "-c", str(path), "--node", "a")
    assert (code, out) == (1, "")
    assert f"cannot listen on {other.admin}, which 'admin' says" in err
    assert "Traceback" not in err


async def test_beyond_loopback_a_token_must_be_there_or_it_must_be_said(tmp_path: Path) -> None:
    """Scenario 58, for the admin port: refused with what to do, exit code 2."""
    path, _ = write(tmp_path, "'0.0.0.0:0'")
    code, out, err = await run("serve", "-c", str(path), "--node", "a")
    assert (code, out) == (2, "")
    assert "is beyond loopback, and there is no token" in err
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    path, _ = write(tmp_path, "'0.0.0.0:0'", more="admin: {token_file: token}\n")
    async with LocalCluster(config_path=path) as cluster:
        node = cluster.nodes["a"]
        node.admin = node.admin.replace("0.0.0.0", HOST)
        assert (await at(node, "/status")).status == 401
        assert (await at(node, "/status", token=TOKEN)).status == 200
        assert (await at(node, "/-/healthy")).status == 200


async def test_a_token_file_that_is_not_there_ends_the_start_with_2(tmp_path: Path) -> None:
    path, _ = write(tmp_path, "0", more="admin: {token_file: token}\n")
    code, out, err = await run("serve", "-c", str(path), "--node", "a")
    assert (code, out) == (2, "")
    assert "admin.token_file" in err
    assert "cannot be read" in err
