"""The README's Python runs as it stands, and its console lines are verbs that exist."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from pulsering_server.cli.app import run
from pulsering_server.local_cluster import LocalCluster

README = Path(__file__).parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("block", blocks("python"))
async def test_the_ten_lines_run(block: str) -> None:
    async with LocalCluster(3) as cluster:
        code = block.replace("presence://127.0.0.1:7400", cluster.url)
        assert code != block
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-W", "error", "-c", code),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    assert output.startswith(b"True (42, 150) () ('alice',)"), output


def test_every_verb_exists() -> None:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    verbs = {match[1] for line in lines if (match := re.match(r"pulsering ([a-z]+)", line))}
    assert verbs
    for verb in verbs:
        assert run([verb, "--help"]) == 0, verb
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    for verb in {match[1] for line in lines if (match := re.match(r"make ([a-z]+)", line))}:
        assert re.search(rf"^{verb}:", makefile, re.MULTILINE), verb
