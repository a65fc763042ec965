"""``pulsering demo``, small: the whole story in eight seconds, judged, and nothing left behind."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

SMALL = ("--users", "2000", "--seconds", "8")


def start(*arguments: str, cwd: Path) -> "asyncio.Future[asyncio.subprocess.Process]":
    return asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pulsering_server", "demo", *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env={**os.environ, "COLUMNS": "100"},
        )
    )


def nodes_of(pid: int) -> list[psutil.Process]:
    children: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    return children


async def test_24_a_killed_node_makes_no_answer_wrong(tmp_path: Path) -> None:
    process = await start(*SMALL, "--json", cwd=tmp_path)
    out, err = await process.communicate()
    document: dict[str, Any] = json.loads(out.decode().splitlines()[-1])
    assert (document["ghosts"], document["false_offlines"]) == (0, 0), document["wrong"]
    assert process.returncode == 0, err.decode()
    assert document["reads_checked"] > 10_000
    assert min(document["online"], document["offline"]) > 1_000
    assert document["heartbeats_per_s"] > 1_000
    assert document["gets_per_s"] > 1_000
    assert 0 < document["get_p50_ms"] <= document["get_p99_ms"]
    assert document["users"] == 2_000
    told = " ".join(event["what"] for event in document["events"])
    assert "killed (kill -9)" in told
    assert "started again" in told
    assert b"verdict" in err
    assert b"every answer was right" in err
    assert len(out.splitlines()) == 1


async def test_without_a_kill_nothing_is_killed(tmp_path: Path) -> None:
    process = await start("--users", "300", "--seconds", "4", "--no-kill", "--json", cwd=tmp_path)
    out, _ = await process.communicate()
    document = json.loads(out)
    assert process.returncode == 0, document
    assert not [event for event in document["events"] if "kill" in event["what"]]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
async def test_however_it_ends_no_child_is_left(number: signal.Signals, code: int, tmp_path: Path) -> None:
    process = await start("--users", "300", "--seconds", "20", cwd=tmp_path)
    assert process.stdout is not None
    while b"ghosts" not in await process.stdout.readline():  # it plays: its nodes are there
        pass
    children = nodes_of(process.pid)
    assert len(children) == 3
    process.send_signal(number)
    _, err = await process.communicate()
    assert process.returncode == code
    assert b"Traceback" not in err
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


async def test_a_taken_port_is_said_and_not_a_failure(tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    config = tmp_path / "cluster.yaml"
    config.write_text(
        "version: 1\ncluster: here\nepoch: 1\nttl: 20s\nreplicas: 1\nnodes:\n"
        f"  - {{name: a, address: '127.0.0.1:{port}'}}\n"
    )
    async with server:
        process = await start("--users", "100", "--seconds", "4", "--no-kill", cwd=tmp_path)
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert f"127.0.0.1:{port} cannot be used now: node a listens on 127.0.0.1:" in out.decode()
