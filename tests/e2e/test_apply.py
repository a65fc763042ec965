"""``plan``, ``apply`` and ``drain`` on real nodes, each with a file of its own as on its own machine."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from e2e.machines import Machines, machines_in, pulsering, statuses
from e2e.poll import until

from pulsering import PresenceClient
from pulsering_server.local_cluster import LocalNode


@pytest_asyncio.fixture
async def machines(tmp_path: Path) -> AsyncIterator[Machines]:
    async with machines_in(tmp_path) as these:
        yield these


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
