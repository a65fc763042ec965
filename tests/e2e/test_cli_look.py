"""The verbs that look at a cluster, against real nodes with and without admin ports, as they are typed."""

import asyncio
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from e2e.poll import until
from e2e.test_cli_e2e import ask, pulsering
from support.raw_peer import PATIENCE_S

from pulsering import PresenceClient
from pulsering_server.local_cluster import LocalCluster


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    async with LocalCluster(3, ttl_ms=1000, admin=True) as running:
        yield running


def at(cluster: LocalCluster) -> list[str]:
    """Options that say where the admin ports are."""
    return [f"--admin={node.name}={node.admin}" for node in cluster.nodes.values()]


async def warm(cluster: LocalCluster) -> None:
    async with PresenceClient.from_url(cluster.url, timeout=5) as presence:

        async def done() -> bool:
            return not any(node.warming for node in await presence.status())

        await until(done)


# --- check ----------------------------------------------------------------------------------------------


async def test_a_check_goes_from_ok_to_warning_to_critical(cluster: LocalCluster) -> None:
    await warm(cluster)
    limits = ["--limit", "ping=off", "--limit", "lag=off", "--limit", "get=off"]  # of a busy machine
    code, out, err = await pulsering(cluster, "check", "-o", "nagios", *at(cluster), *limits)
    assert (code, err) == (0, "")
    assert out.startswith("PULSERING OK | down=0;1;;0 ")
    assert " memory=" in out

    await cluster.kill("b")
    code, out, _ = await pulsering(cluster, "check", "-o", "json", *at(cluster), *limits)
    document = json.loads(out)
    assert (code, document["grade"]) == (1, "warning")
    assert document["summary"] == "WARNING: down: 1 of 3 down: b"

    await cluster.kill("c")
    code, out, _ = await pulsering(cluster, "check", *at(cluster), *limits)
    assert code == 2
    assert "CRITICAL\n" in out
    assert re.search(r"^unowned: \S+ % of users have no owner that answers$", out, re.MULTILINE)

    await cluster.kill("a")
    code, out, _ = await pulsering(cluster, "check", "-o", "nagios", "--timeout", "500ms")
    assert code == 2
    assert out.startswith("PULSERING CRITICAL: reach: ")


async def test_a_check_for_prometheus_replaces_its_file_in_one_step(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    file = tmp_path / "pulsering.prom"
    file.write_text("old\n")
    before = file.stat().st_ino
    await pulsering(cluster, "check", "-o", "prometheus", "--file", str(file), *at(cluster))
    assert 'pulsering_check_value{check="down",unit="nodes"} 0.0\n' in file.read_text()
    assert file.stat().st_ino != before
    assert os.listdir(tmp_path) == ["pulsering.prom"]


# --- status, top, conns, latency ----------------------------------------------------------------------------


async def test_top_shows_rates_of_nodes_that_tell_and_users_of_all(cluster: LocalCluster) -> None:
    async with PresenceClient.from_url(cluster.url, timeout=5) as presence:
        await presence.heartbeat_many(range(1000))
        await presence.get_many(range(1000))
        code, out, err = await pulsering(cluster, "top", "-n", "1", *at(cluster)[:2])
    assert (code, err) == (0, "")
    lines = {line.split()[1]: line.split() for line in out.splitlines() if re.match(r"U[NW] ", line)}
    assert list(lines) == ["a", "b", "c"]
    beats, gets = lines["a"][3:5]
    assert float(beats.removesuffix("k"))
    assert float(gets.removesuffix("k"))
    assert lines["c"][3:5] == ["-", "-"]
    assert re.search(r"^ +all ", out, re.MULTILINE)
    assert "! c: a URL does not tell admin ports: give --config cluster.yaml, or --admin" in out


async def test_conns_names_who_is_connected_and_who_did_not_tell(cluster: LocalCluster) -> None:
    async with PresenceClient.from_url(cluster.url, agent="[red]shop\x1b[2J") as presence:
        await presence.heartbeat(1)
        code, found = await ask(cluster, "conns", *at(cluster))
        assert isinstance(found, dict)
        assert code == 0
        assert {each["node"] for each in found["connections"]} == {"a", "b", "c"}
        assert {each["client"] for each in found["connections"]} == {"[red]shop\\x1b[2J"}
        sent = [each["sent_bytes"] for each in found["connections"]]
        assert sent == sorted(sent, reverse=True)
        code, out, _ = await pulsering(cluster, "conns", "-n", "1", *at(cluster))
        assert code == 0
        assert "[red]shop\\x1b[2J" in out
        assert "\n1 of 3 connections of 3 of 3 nodes\n" in out
    code, out, _ = await pulsering(None, "conns", "--config", str(cluster.config_path))
    assert code == 3
    assert out.startswith("! a, b, c: 'admin: 0' is any free port, which cluster.yaml does not tell: ")


async def test_latency_measures_each_node_and_counts_what_a_dead_one_lost(cluster: LocalCluster) -> None:
    await cluster.kill("b")
    code, found = await ask(cluster, "latency", "--for", "400ms", "--every", "10ms", "--page", "50")
    assert isinstance(found, dict)
    assert code == 1
    by_name = {each["name"]: each for each in found["nodes"]}
    for name in "ac":
        for kind in ("ping", "get"):
            figures = by_name[name][kind]
            assert (figures["answered"], figures["lost"]) == (20, 0)
            assert 0 < figures["min_ms"] <= figures["p50_ms"] <= figures["p99_ms"] <= figures["max_ms"]
    assert (by_name["b"]["ping"]["answered"], by_name["b"]["ping"]["lost"]) == (0, 20)
    assert by_name["b"]["error"].startswith("b (")


async def test_a_node_that_stands_still_is_lost_in_time_and_the_others_are_measured(
    cluster: LocalCluster,
) -> None:
    cluster.nodes["b"].signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(2 * PATIENCE_S):
            code, found = await ask(cluster, "latency", "--for", "300ms", "--timeout", "300ms")
    finally:
        cluster.nodes["b"].signal(signal.SIGCONT)
    assert isinstance(found, dict)
    assert code == 1
    assert [each["ping"]["answered"] for each in found["nodes"]] == [15, 0, 15]


# --- Again and again --------------------------------------------------------------------------------------


async def test_watching_outlives_a_node_and_ends_with_0() -> None:
    """On Ctrl-C, after having said what it saw: a node up, and then nobody."""
    async with LocalCluster(1) as cluster:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pulsering_server", "status", "--watch", "50ms", "-o", "json"),
            *("--url", cluster.url, "--timeout", "300ms"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        async with asyncio.timeout(2 * PATIENCE_S):
            first = json.loads(await process.stdout.readline())
            assert [node["state"] for node in first] == ["UW"]
            await cluster.kill("a")
            assert (await process.stderr.readline()).startswith(b"pulsering: ")
            process.send_signal(signal.SIGINT)
            await process.communicate()
        assert process.returncode == 0


# --- On a terminal ----------------------------------------------------------------------------------------


async def on_terminal(*arguments: str, **environment: str) -> str:
    """What a command writes on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pulsering_server", *arguments),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=kept | {"TERM": "xterm-256color", "COLUMNS": "80"} | environment,
    )
    os.close(theirs)
    written = bytearray()

    def drain() -> None:
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:  # the other end is closed
                return
            written.extend(data)

    await asyncio.gather(asyncio.to_thread(drain), process.wait())
    os.close(ours)
    return written.decode()


COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7][0-9;]*m")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


async def test_colours_on_a_terminal_unless_no_color_is_set_and_every_line_fits(
    cluster: LocalCluster,
) -> None:
    where = ("--url", cluster.url)
    for verb in (
        ("status",),
        ("check", *at(cluster)),
        ("top", "-n", "1", *at(cluster)),
        ("conns", *at(cluster)),
    ):
        coloured = await on_terminal(*verb, *where)
        assert COLOUR.search(coloured) or verb[0] == "conns", verb
        plain = await on_terminal(*verb, *where, NO_COLOR="1")
        assert not COLOUR.search(plain), verb
        for line in ESCAPES.sub("", plain).splitlines():
            assert len(line.rstrip()) <= 80, line
            assert "…" not in line, line


COMPLETE = """
eval "$(pulsering --show-completion)"
for line in "check -o nag" "conns --node b" "latency -c other.yaml --node x" "drain a" \\
    "serve -c broken.yaml --node a"; do
    COMP_WORDS=(pulsering $line); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _pulsering_completion pulsering
    echo "${COMPREPLY[@]}"
done
"""
NODES = """
version: 1
cluster: c
epoch: 1
nodes:
  - {name: a, address: 'h1:1'}
  - {name: bee, address: 'h2:1', cores: 2}
"""


@pytest.mark.skipif(
    not (shutil.which("bash") and shutil.which("pulsering")), reason="no bash or no script here"
)
def test_bash_completes_once_it_has_the_script(tmp_path: Path) -> None:
    """Names of nodes are those of the file that is meant; where it is broken there are none, and no noise."""
    (tmp_path / "cluster.yaml").write_text(NODES)
    (tmp_path / "broken.yaml").write_text(NODES.replace("epoch: 1", "epoch: x"))
    (tmp_path / "other.yaml").write_text(NODES.replace("bee", "x.y"))
    done = subprocess.run(
        ["bash", "-c", COMPLETE], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert (done.stdout.splitlines(), done.stderr) == (["nagios", "bee-0 bee-1", "x.y-0 x.y-1", "a", ""], "")


# --- support-dump -----------------------------------------------------------------------------------------


async def test_a_support_dump_has_every_page_of_every_node(tmp_path: Path) -> None:
    async with LocalCluster(2, admin=True) as cluster:
        code, out, err = await pulsering(cluster, "support-dump", str(tmp_path / "x.tar.gz"), *at(cluster))
        assert (code, err) == (0, "")
        assert out.endswith("written, 11 files; MANIFEST.txt in it tells of each\n")
    with tarfile.open(tmp_path / "x.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / "x"
    for name in ("a", "b"):
        assert json.loads((folder / "nodes" / name / "status.json").read_text())["node"] == name
        assert "connections" in json.loads((folder / "nodes" / name / "connections.json").read_text())
        assert "pulsering_users_online" in (folder / "nodes" / name / "metrics.txt").read_text()
    assert json.loads((folder / "check.json").read_text())["checks"]
    assert "Everything could be gathered." in (folder / "MANIFEST.txt").read_text()
