"""Each verb against real nodes, as a person would type it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from pulsering_server.local_cluster import LocalCluster


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    async with LocalCluster(3, ttl_ms=60_000) as running:
        yield running


async def pulsering(cluster: LocalCluster | None, *arguments: str) -> tuple[int, str, str]:
    """Run one command; the exit code and what it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "PULSERING_URL"}
    if cluster is not None:
        environment["PULSERING_URL"] = cluster.url
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pulsering_server", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    out, err = await process.communicate()
    assert b"Traceback" not in err
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def ask(cluster: LocalCluster, *arguments: str) -> tuple[int, object]:
    code, out, err = await pulsering(cluster, *arguments, "-o", "json")
    assert not err
    return code, json.loads(out)


async def test_tell_ask_and_say_goodbye(cluster: LocalCluster) -> None:
    code, report = await ask(cluster, "heartbeat", "42", "alice")
    assert code == 0
    assert isinstance(report, dict)
    assert (report["accepted"], report["total"]) == (2, 2)

    code, answers = await ask(cluster, "get", "42", "alice")
    assert code == 0
    assert isinstance(answers, list)
    assert [(answer["id"], answer["status"]) for answer in answers] == [(42, "online"), ("alice", "online")]
    assert all(0 <= answer["age_ms"] < 60_000 for answer in answers)

    assert (await pulsering(cluster, "leave", "42"))[:2] == (0, "1 acknowledged\n")
    code, out, _ = await pulsering(cluster, "get", "42", "alice")
    # The nodes are still cold: who said goodbye is as unknown to them as who never came.
    assert [line.split()[:2] for line in out.splitlines()[-2:]] == [["42", "unknown"], ["'alice'", "online"]]
    assert code == 1


async def test_42_and_its_text_are_different_users_and_a_cold_node_says_unknown(
    cluster: LocalCluster,
) -> None:
    assert (await pulsering(cluster, "heartbeat", "42"))[:2] == (0, "1 acknowledged\n")
    code, answers = await ask(cluster, "get", "42", "--string")
    assert code == 1
    assert isinstance(answers, list)
    assert 0 < answers[0].pop("retry_after_ms") <= 60_750
    assert answers == [{"id": "42", "status": "unknown", "reason": "cold", "age_ms": None}]


async def test_leave_with_grace_keeps_the_user_online_for_now(cluster: LocalCluster) -> None:
    await pulsering(cluster, "heartbeat", "7")
    assert (await pulsering(cluster, "leave", "7", "--grace", "30s"))[0] == 0
    _, out, _ = await pulsering(cluster, "get", "7")
    assert "online" in out


async def test_count_is_a_lower_bound_while_nodes_are_cold(cluster: LocalCluster) -> None:
    await pulsering(cluster, "heartbeat", "1", "2", "3")
    code, count = await ask(cluster, "count")
    assert isinstance(count, dict)
    assert (code, count["online"], count["exact"], count["warming"]) == (1, 3, False, ["a", "b", "c"])
    assert (await pulsering(cluster, "count"))[1] == "at least 3 online; still warming: a, b, c\n"


async def test_status_shows_a_line_a_node_and_who_is_down(cluster: LocalCluster) -> None:
    await cluster.kill("b")
    code, nodes = await ask(cluster, "status")
    assert isinstance(nodes, list)
    assert [(node["state"], node["name"], node["up"]) for node in nodes] == [
        ("UW", "a", True),
        ("DN", "b", False),
        ("UW", "c", True),
    ]
    assert code == 1
    code, out, _ = await pulsering(cluster, "status")
    assert code == 1
    assert out.startswith("cluster dev  epoch 1  2 replicas  ttl 1m  2 of 3 up  at least 0 online\n")
    rows = [line.split()[:2] for line in out.splitlines() if line[:2] in ("UW", "DN")]
    assert rows == [["UW", "a"], ["DN", "b"], ["UW", "c"]]
    *_, down, warming = out.splitlines()
    assert down.startswith("! b ")
    assert warming.startswith("! a, c are warming, for ")


async def test_locate_names_key_slot_and_owners(cluster: LocalCluster) -> None:
    code, place = await ask(cluster, "locate", "42")
    assert isinstance(place, dict)
    assert code == 0
    assert place["slot"] == int(place["key"], 16) >> 50
    assert len({owner["name"] for owner in place["owners"]}) == 2
    _, out, _ = await pulsering(cluster, "locate", "42")
    assert out.splitlines()[:3] == ["user   42", f"key    {place['key']}", f"slot   {place['slot']}"]


async def test_a_verb_beside_its_cluster_yaml_needs_no_url(cluster: LocalCluster) -> None:
    code, out, err = await pulsering(None, "heartbeat", "1", "--config", str(cluster.config_path))
    assert (code, out, err) == (0, "1 acknowledged\n", "")


async def test_a_url_with_another_clusters_name_is_refused(cluster: LocalCluster) -> None:
    code, out, err = await pulsering(None, "get", "1", "--url", f"{cluster.url}/other")
    assert code == 2
    assert err.startswith("pulsering: ")
    assert not out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_dev_prints_a_url_that_works_and_ends_with_all_its_nodes(number: signal.Signals) -> None:
    dev = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pulsering_server", "dev", "--nodes", "2", "--ttl", "5s"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert dev.stdout is not None
    url = (await dev.stdout.readline()).decode().strip()
    assert url.count("127.0.0.") == 2
    assert (await pulsering(None, "heartbeat", "1", "--url", url))[0] == 0
    dev.send_signal(number)
    await dev.communicate()
    assert dev.returncode == 0
    assert (await pulsering(None, "count", "--url", url, "--timeout", "300ms"))[0] == 3
