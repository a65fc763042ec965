"""Nodes as on machines of their own: each has a file of its own, and the operator's are elsewhere."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

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
    """Four nodes, of which three are a cluster; ``more`` is what every file says besides."""

    def __init__(self, directory: Path, cluster: LocalCluster, more: str) -> None:
        self._text = cluster.config_path.read_text("utf-8") + more
        self._directory = directory
        self.push = f"cp {{file}} {directory}/{{node}}.yaml"
        self.nodes = {name: LocalNode(directory / f"{name}.yaml", name) for name in "abcd"}
        self.url = ""

    def file(self, names: str, epoch: int, heavy: str = "-") -> str:
        """A configuration on the operator's machine; the node ``heavy`` gets twice the share."""
        path = self._directory / f"{names}-{epoch}.yaml"
        path.write_text(self.text(names, epoch, heavy))
        return str(path)

    def text(self, names: str, epoch: int, heavy: str = "-") -> str:
        """The same, as text."""
        text = self._text.replace(f"name: {heavy},", f"name: {heavy}, weight: 2,")
        lines = text.replace("epoch: 1", f"epoch: {epoch}").splitlines()
        gone = [f"name: {name}," for name in set("abcd") - set(names)]
        return "\n".join(line for line in lines if not any(each in line for each in gone)) + "\n"

    async def start(self, name: str, file: str) -> None:
        """Put a file on a machine, and start its node."""
        shutil.copy(file, self._directory / f"{name}.yaml")
        await self.nodes[name].start()


@asynccontextmanager
async def machines_in(directory: Path, more: str = "", *, admin: bool = False) -> AsyncIterator[Machines]:
    """Three warm nodes; all are gone in the end."""
    cluster = LocalCluster(4, ttl_ms=TTL_MS, admin=admin)
    these = Machines(directory, cluster, more)
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
    """What the nodes of a cluster say of themselves."""
    async with PresenceClient.from_url(url, timeout=2) as presence:
        return await presence.status()
