"""A throw-away cluster on loopback: real node processes with real addresses, for development, demos and
tests.

Each node is ``python -m pulsering_server serve``, exactly as an operator would run it, from a temporary
``cluster.yaml`` with ports that were free a moment before. Its log goes to a file, of which ``LocalNode.log``
gives the end when something is wrong. Invariant: after ``stop``, and also if this process is killed
outright (on Linux), no node is left.
"""

import asyncio
import contextlib
import random
import signal
import socket
import string
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pulsering_server import child
from pulsering_server.child import parse_ready
from pulsering_server.config import ClusterConfig, parse_config
from pulsering_server.units import format_duration_ms

__all__ = ["LocalCluster", "LocalNode", "NodeFailed", "parse_ready"]

READY_S: Final = 20.0
"""A node is up in well under a second; this is for a machine with a hundred other things to do."""

STOP_S: Final = 3.0
"""Then a node is killed: nobody waits for a throw-away cluster to drain."""

LOG_BYTES: Final = 4096
"""The end of a node's log that an error shows."""

_PORTS: Final = range(20_000, 32_000)
"""Below those that the kernel gives to outgoing connections, which could take one between choice and use."""


class NodeFailed(RuntimeError):
    """A node ended, or did not get ready; the message ends with the last lines of its log."""


class LocalNode:
    """One node of the cluster: its process, or how it ended."""

    def __init__(self, config_path: Path, name: str) -> None:
        self.name = name
        self.address = ""
        self.admin = ""
        """Where it answers HTTP; empty if it does not."""
        self._config_path = config_path
        self._log_path = config_path.with_name(f"node-{name}.log")
        self._process: asyncio.subprocess.Process | None = None

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """Its process id; RuntimeError before the first start."""
        if self._process is None:
            raise RuntimeError(f"node {self.name} was never started")
        return self._process.pid

    def log(self) -> str:
        """The end of what it wrote on stderr, over all its starts."""
        try:
            return self._log_path.read_bytes()[-LOG_BYTES:].decode("utf-8", "replace")
        except OSError:
            return ""

    async def start(self, *options: str, service: Mapping[str, str] | None = None) -> None:
        """Start it and wait until it serves; ``options`` go to ``pulsering serve``. Else ``NodeFailed``.

        ``service`` are variables that say to whom it reports, as systemd would set them.
        """
        if self.running:
            raise RuntimeError(f"node {self.name} is already running")
        with self._log_path.open("ab") as log:
            self._process = await child.spawn(
                self._config_path, self.name, *options, stderr=log, service=service
            )
        try:
            ready = await asyncio.wait_for(child.read_ready(self._process), READY_S)
            self.address, self.admin = ready["address"], ready.get("admin", "")
        except (TimeoutError, ValueError, KeyError) as error:
            await self.kill()
            raise NodeFailed(self.describe("did not get ready")) from error
        except BaseException:
            await self.kill()
            raise

    def describe(self, what: str) -> str:
        """A sentence about this node, with its exit code and the end of its log."""
        code = None if self._process is None else self._process.returncode
        return f"node {self.name} {what} (exit code {code})\n{self.log()}".rstrip()

    def signal(self, number: int) -> None:
        """Send its process a signal; nothing if it has ended."""
        if self._process is not None:
            child.send_signal(self._process, number)

    async def wait(self) -> int:
        """Wait for its end; the exit code, negative for a signal."""
        if self._process is None:
            raise RuntimeError(f"node {self.name} was never started")
        code = await self._process.wait()
        assert self._process.stdout is not None
        await self._process.stdout.read()  # its end closes the pipe
        return code

    async def kill(self) -> None:
        """End it as a power cut would: nothing flushed, nobody told."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            await self.wait()

    async def terminate(self, timeout_s: float = STOP_S) -> int:
        """SIGTERM, and SIGKILL if it has not drained in ``timeout_s``; the exit code."""
        self.signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self.wait(), timeout_s)
        except TimeoutError:
            await self.kill()
            return await self.wait()


class LocalCluster:
    """``async with LocalCluster(3) as cluster``: nodes that serve, and their ``url``.

    ``replicas`` is 2 where there are two nodes. ``limits`` are lines of the section of that name, such as
    ``{"connections": 10}``. With ``last_seen``, such as ``"1d"``, nodes remember when who is gone was there.
    With ``admin`` each node has an admin port, any free one. With ``config_path`` it runs the nodes of that
    file instead.
    """

    def __init__(
        self,
        nodes: int = 3,
        *,
        ttl_ms: int = 20_000,
        replicas: int | None = None,
        limits: dict[str, str | int] | None = None,
        last_seen: str | None = None,
        admin: bool = False,
        config_path: Path | None = None,
    ) -> None:
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        if config_path is None:
            self._directory = tempfile.TemporaryDirectory(prefix="pulsering-")
            config_path = Path(self._directory.name, "cluster.yaml")
            replicas = min(2, nodes) if replicas is None else replicas
            text = _cluster_yaml(nodes, ttl_ms, replicas, limits or {}, last_seen, "0" if admin else "off")
            config_path.write_text(text, "utf-8")
        self.config_path = config_path
        self.config: ClusterConfig = parse_config(config_path.read_text("utf-8"), str(config_path))
        self.nodes = {node.name: LocalNode(config_path, node.name) for node in self.config.nodes}

    @property
    def url(self) -> str:
        """What a client connects to: ``presence://127.0.0.1:20001,…``."""
        return "presence://" + ",".join(str(node.address) for node in self.config.nodes)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start all nodes at once; if one fails, none is left and ``NodeFailed`` says why."""
        started = await asyncio.gather(
            *(node.start() for node in self.nodes.values()), return_exceptions=True
        )
        for outcome in started:
            if isinstance(outcome, BaseException):
                await self.stop()
                raise outcome

    async def kill(self, name: str) -> None:
        """SIGKILL one node."""
        await self.nodes[name].kill()

    async def restart(self, name: str) -> None:
        """Start a node that has ended, or end it first; it is cold for one ttl."""
        await self.nodes[name].kill()
        await self.nodes[name].start()

    async def stop(self) -> None:
        """End all nodes and remove the temporary files."""
        running = [node.terminate() for node in self.nodes.values() if node.running]
        try:
            await asyncio.gather(*running)
        finally:
            for node in self.nodes.values():
                node.signal(signal.SIGKILL)
            if self._directory is not None:
                self._directory.cleanup()


def _cluster_yaml(
    nodes: int, ttl_ms: int, replicas: int, limits: dict[str, str | int], last_seen: str | None, admin: str
) -> str:
    lines = [
        "version: 1",
        "cluster: dev",
        "epoch: 1",
        f"ttl: {format_duration_ms(ttl_ms)}",
        f"replicas: {replicas}",
        *([f"last_seen: {last_seen}"] if last_seen else []),
        *(["limits:"] if limits else []),
        *(f"  {key}: {value}" for key, value in limits.items()),
        "nodes:",
    ]
    for index in range(nodes):
        name = string.ascii_lowercase[index] if nodes <= len(string.ascii_lowercase) else f"n{index + 1}"
        host = f"127.0.0.{index + 1}"
        lines.append(f'  - {{name: {name}, address: "{host}:{_free_port(host)}", admin: {admin}}}')
    return "\n".join(lines) + "\n"


def _free_port(host: str) -> int:
    for _ in range(100):
        port = random.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return port
    raise NodeFailed(f"no free port found on {host}")
