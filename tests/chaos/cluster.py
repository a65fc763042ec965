"""Real nodes, ``pulsering serve``, each on a host of its own with its own copy of ``cluster.yaml``.

A node is started as an operator would, only that it listens on every address of its host. Its process is the
node itself, so a signal reaches it and nothing else. Invariant: whoever ends a node says so first; one that
ends by itself is in ``deaths``.
"""

import asyncio
import contextlib
import re
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path
from typing import Final

from chaos.control import LOG_BYTES, environment, python
from chaos.namespaces import Host

from pulsering_server import child

__all__ = ["PORT", "SMALL", "Cluster", "Node", "NodeFailed"]

PORT: Final = 7400
READY_S: Final = 30.0
DRAIN_S: Final = 20.0
"""A drain takes 12 s at most; this is for a busy machine."""
REPLICAS: Final = 2
SMALL: Final = "c"
"""The node that has little memory, in its own copy of the file."""
SMALL_MEMORY: Final = "1MiB"
MEMORY: Final = "64MiB"
CONNECTIONS: Final = 200
"""More than all clients make, and fewer than any limit on files."""


class NodeFailed(RuntimeError):
    """A node did not do what it was told; the message ends with its log."""


class Node:
    """One node: its host, and its process while it runs."""

    def __init__(self, name: str, host: Host, directory: Path, bug: str) -> None:
        self.name = name
        self.host = host
        self.config_path = directory / f"cluster-{name}.yaml"
        self.log_path = directory / f"node-{name}.log"
        self._bug = bug
        self._process: Process | None = None
        self._ending = False

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None
        return self._process.pid

    @property
    def died(self) -> str:
        """How it ended if nobody asked it to; empty otherwise."""
        code = None if self._process is None or self._ending else self._process.returncode
        return "" if code is None else f"node {self.name} ended by itself, exit code {code}"

    def log(self) -> str:
        """The end of what it wrote."""
        with contextlib.suppress(OSError):
            return self.log_path.read_bytes()[-LOG_BYTES:].decode("utf-8", "replace")
        return ""

    async def start(self) -> None:
        """Start it and wait until it serves."""
        serve = ("serve", "--config", str(self.config_path), "--node", self.name)
        listen = ("--host", "0.0.0.0", "--port", str(PORT))
        command = self.host.command(*python("pulsering_server", *serve, *listen, bug=self._bug))
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=DEVNULL, stdout=PIPE, stderr=log, env=environment()
            )
        self._ending = False
        try:
            await asyncio.wait_for(child.read_ready(self._process), READY_S)
        except (TimeoutError, ValueError) as error:
            await self.kill()
            raise NodeFailed(f"node {self.name} did not get ready\n{self.log()}") from error

    def signal(self, number: int) -> None:
        """Send it a signal; nothing if it has ended."""
        if self._process is not None:
            child.send_signal(self._process, number)

    async def kill(self) -> None:
        """End it as a power cut would, but for its host."""
        self._ending = True
        self.signal(signal.SIGKILL)
        if self._process is not None:
            await self._process.communicate()

    async def drain(self) -> None:
        """SIGTERM, and wait for the orderly end."""
        assert self._process is not None
        self._ending = True
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.communicate(), DRAIN_S)
        except TimeoutError:
            await self.kill()
            raise NodeFailed(f"node {self.name} did not drain in {DRAIN_S} s\n{self.log()}") from None
        if self._process.returncode:
            code = self._process.returncode
            raise NodeFailed(f"node {self.name} drained with exit code {code}\n{self.log()}")


class Cluster:
    """The nodes that are or will be; ``members`` are those that the file names now."""

    def __init__(
        self, directory: Path, hosts: dict[str, Host], members: str, ttl_ms: int, bug: str = ""
    ) -> None:
        self.epoch = 0
        self.members = ""
        self.nodes = {name: Node(name, host, directory, bug) for name, host in hosts.items()}
        self._ttl_ms = ttl_ms
        self.follow(members)

    @property
    def url(self) -> str:
        """What a client connects to."""
        hosts = [self.nodes[name].host for name in self.members]
        return "presence://" + ",".join(f"{host.address}:{PORT}" for host in hosts)

    @property
    def deaths(self) -> list[str]:
        """Nodes that ended by themselves."""
        return [node.died for node in self.nodes.values() if node.died]

    def follow(self, members: str) -> None:
        """Write a new epoch with these nodes, each file whole, as a tool does; nodes find it themselves."""
        self.epoch += 1
        self.members = members
        for node in self.nodes.values():
            new = node.config_path.with_suffix(".new")
            new.write_text(self._config(SMALL_MEMORY if node.name == SMALL else MEMORY), "utf-8")
            new.replace(node.config_path)

    def _config(self, memory: str) -> str:
        hosts = [self.nodes[name].host for name in self.members]
        lines = [
            "version: 1",
            "cluster: chaos",
            f"epoch: {self.epoch}",
            f"ttl: {self._ttl_ms}ms",
            f"replicas: {REPLICAS}",
            f"limits: {{connections: {CONNECTIONS}, memory: {memory}}}",
            "auth: {insecure_no_token: true}",
            "nodes:",
            *(f'  - {{name: {host.name}, address: "{host.address}:{PORT}"}}' for host in hosts),
        ]
        return "\n".join(lines) + "\n"

    async def start(self) -> None:
        """Start the members; the first that does not start is raised once all have or have not."""
        starts = [self.nodes[name].start() for name in self.members]
        for outcome in await asyncio.gather(*starts, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def end(self) -> None:
        """End all; whatever stopped them goes on first."""
        for node in self.nodes.values():
            await node.kill()

    def problems_logged(self) -> list[str]:
        """What no node may ever write: a traceback, or a fault of its own."""
        found = []
        for node in self.nodes.values():
            with contextlib.suppress(OSError):
                text = node.log_path.read_text("utf-8", "replace")
                lines = re.findall(r".*(?:Traceback|conn\.fault|loop\.exception|node\.failed).*", text)
                found += [f"node {node.name}: {line[:300]}" for line in lines[:3]]
        return found
