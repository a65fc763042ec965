"""``plan``, ``apply`` and ``drain`` on real nodes, each with a file of its own as on its own machine."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio
from e2e.poll import until

from pulsering import PresenceClient
from pulsering_server.local_cluster import LocalCluster, LocalNode

TTL_MS = 2_000
COMMAND_S = 60.0
"""For a command that waits for nodes; it ends by itself long before."""


async def pulsering(*arguments: str) -> tuple[int, str, str]:
    """Run one command; the exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pulsering_server", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={key: value for key, value in os.environ.items() if key != "PULSERING_URL"},
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), COMMAND_S)
    except TimeoutError:
        process.kill()
        await process.communicate()
        raise
    assert b"Traceback" not in err
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


class Machines:
    """Four nodes, of which three are a cluster; ``three`` and ``four`` are configurations of an epoch."""

    def __init__(self, directory: Path, cluster: LocalCluster) -> None:
        self._text = cluster.config_path.read_text("utf-8")
        self._directory = directory
        self.push = f"cp {{file}} {directory}/{{node}}.yaml"
        self.nodes = {name: LocalNode(directory / f"{name}.yaml", name) for name in "abcd"}
        self.url = ""

    def file(self, names: str, epoch: int, heavy: str = "-") -> str:
        """A configuration on the operator's machine; the node ``heavy`` gets twice the share."""
        path = self._directory / f"{names}-{epoch}.yaml"
        text = self._text.replace(f"name: {heavy},", f"name: {heavy}, weight: 2,")
        lines = text.replace("epoch: 1", f"epoch: {epoch}").splitlines()
        gone = [f"name: {name}," for name in set("abcd") - set(names)]
        path.write_text("\n".join(line for line in lines if not any(each in line for each in gone)) + "\n")
        return str(path)

    async def start(self, name: str, file: str) -> None:
        """Put a file on a machine, and start its node."""
        shutil.copy(file, self._directory / f"{name}.yaml")
        await self.nodes[name].start()


@pytest_asyncio.fixture
async def machines(tmp_path: Path) -> AsyncIterator[Machines]:
    """Three warm nodes."""
    cluster = LocalCluster(4, ttl_ms=TTL_MS)
    these = Machines(tmp_path, cluster)
    await cluster.stop()  # it was never started: only its file was wanted
    try:
        three = these.file("abc", 1)
        await asyncio.gather(*(these.start(name, three) for name in "abc"))
        these.url = f"presence://{','.join(these.nodes[name].address for name in 'abc')}"
        yield these
    finally:
        for node in these.nodes.values():
            await node.kill()


async def statuses(url: str) -> list[Any]:
    async with PresenceClient.from_url(url, timeout=2) as presence:
        return await presence.status()


async def test_a_node_joins_and_leaves_by_apply_and_may_then_be_stopped(machines: Machines) -> None:
    """Scenario 30, as an operator does it."""
    three, four = machines.file("abc", 1), machines.file("abcd", 2)
    async with PresenceClient.from_url(machines.url, timeout=2) as presence:
        await presence.heartbeat_many(range(1000))
    code, out, _ = await pulsering("plan", three, four, "--timeout", "5s", "-o", "json")
    plan = json.loads(out)
    assert code == 0
    assert plan["users_online"] is not None
    assert {node["part"] for node in plan["nodes"]} == {"stays", "joins"}
    assert all(node["users_before"] is not None for node in plan["nodes"] if node["part"] == "stays")

    await machines.start("d", four)
    code, out, err = await pulsering("apply", four, "--push", machines.push, "--yes", "-o", "json")
    assert code == 0, err
    assert json.loads(out) == {
        "epoch": 2, "nodes": ["a", "b", "c", "d"], "may_be_stopped": [], "unreachable": [],
    }  # fmt: skip
    assert [(node.epoch, node.warming) for node in await statuses(machines.url)] == [(2, 0.0)] * 4

    code, out, _ = await pulsering("drain", "d", "--config", four)
    assert (code, out.split(":")[0]) == (1, "d is part of the cluster at epoch 2")

    again = machines.file("abc", 3)
    applying = asyncio.create_task(
        pulsering("apply", again, "--push", machines.push, "--yes", "--config", four)
    )
    await until(lambda: _log_has(machines.nodes["d"], "node.removed"))
    code, out, _ = await pulsering("drain", "d", "--config", four)
    assert (code, out) == (0, "d may be stopped\n")
    code, out, err = await applying
    assert code == 0, err
    assert [line.split(":")[0] for line in err.splitlines() if "follows epoch 3" in line] == ["a", "b", "c"]
    assert "d: may be stopped" in err
    assert await machines.nodes["d"].terminate() == 0

    code, out, err = await pulsering("apply", again, "--wait", "5s")
    assert code == 0, "what is done is found done"


async def _log_has(node: LocalNode, event: str) -> bool:
    return event in node.log()


async def test_apply_stops_at_the_first_node_that_does_not_follow(machines: Machines) -> None:
    """Few nodes are changed, the message says what to look at, and a second run finishes the work."""
    again = machines.file("abc", 2, heavy="b")
    code, out, err = await pulsering("apply", again, "--push", "false", "--yes", "-o", "json")
    assert (code, out) == (1, "")
    assert "exit code 1" in err
    lost = machines.push.replace("{node}", "lost")
    code, _, err = await pulsering("apply", again, "--push", lost, "--yes", "--wait", "1s")
    assert code == 1
    assert "a still follows epoch 1 after 1s" in err
    assert [node.epoch for node in await statuses(machines.url)] == [1, 1, 1]
    code, _, err = await pulsering("apply", again, "--push", machines.push)
    assert code == 2, "nobody can be asked, and nobody said --yes"
    code, _, err = await pulsering("apply", again, "--push", machines.push, "--yes")
    assert code == 0, err


async def test_apply_refuses_what_running_nodes_would_not_follow(machines: Machines) -> None:
    same_epoch = machines.file("ab", 1)
    code, _, err = await pulsering("apply", same_epoch, "--push", machines.push, "--yes")
    assert code == 2
    assert "epoch: 1 is taken by another topology" in err
    assert [node.epoch for node in await statuses(machines.url)] == [1, 1, 1]
