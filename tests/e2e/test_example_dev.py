"""``make example``: it says where it is, serves, and on Ctrl-C nothing of it is left."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
from support.raw_peer import PATIENCE_S

from examples.api_server.__main__ import main as serve
from examples.api_server.dev import main as run
from examples.api_server.serving import listen
from pulsering_bench.usage import tree_of


def still_there(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


async def test_it_starts_a_cluster_and_the_server_and_ctrl_c_ends_all_of_it() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.api_server.dev", "--port", "0", "--ttl", "2"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        url = (await asyncio.wait_for(process.stdout.readline(), 2 * PATIENCE_S)).decode().strip()
        nodes = tree_of(process.pid)[1:]
        assert len(nodes) == 3
        async with aiohttp.ClientSession() as http:
            async with http.get(url) as page:
                assert page.status == 200
                assert "script-src 'self'" in page.headers["Content-Security-Policy"]
            async with http.get(url + "healthz") as health:
                assert (await health.json())["nodes"] == 3
    finally:
        process.send_signal(signal.SIGINT)
        rest, complaints = await asyncio.wait_for(process.communicate(), 2 * PATIENCE_S)
    assert (process.returncode, rest, complaints) == (0, b"", b"")
    assert still_there(nodes) == []


def test_a_port_that_is_taken_is_said_before_anything_starts() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        assert run(["--port", port]) == 1
        assert serve(["--port", port]) == 1


def test_a_server_without_a_cluster_ends_at_once() -> None:
    command = (sys.executable, "-m", "examples.api_server", "--port", "0", "--url", "presence://127.0.0.1:1")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "NoNodeReachable" in done.stderr
