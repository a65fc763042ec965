"""A new topology on its way through the nodes: one after the other, each looked at, then all until warm.

Nodes that join come first, those that leave last (``pulsering_server.reshard``). Each is pushed the file if
there is a command for it, and asked until it follows the new epoch with the same contents. Where nodes follow
etcd (``publish``), one write stands for all pushes, once those that join are there. Invariant: no node is
pushed anything before all those before it follow, so what fails, fails with few nodes changed.
"""

import asyncio
import shlex
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from pulsering.errors import NodeUnavailable, PresenceError
from pulsering.probe import Probe, probe
from pulsering.topology import Node
from pulsering.url import Address, ServiceUrl
from pulsering_server.cli.misuse import Misuse
from pulsering_server.cli.output import duration
from pulsering_server.reshard import NodeChange, Part, Plan, in_order

if TYPE_CHECKING:
    from pulsering_server.config import ClusterConfig

__all__ = ["LOOK_S", "NotApplied", "Rollout", "push_command"]

LOOK_S: Final = 0.25
"""How often a node is asked while something is awaited of it."""


class NotApplied(PresenceError):
    """A node did not get as far as it should in the time there was; the message says what to look at."""


class Rollout:
    """One run of ``apply``; ``url`` says how nodes are reached, ``wait_s`` is for each step of each node."""

    def __init__(
        self,
        made: Plan,
        config: "ClusterConfig",
        file: Path,
        push: str | None,
        *,
        url: ServiceUrl,
        publish: Callable[[], Awaitable[None]] | None = None,
        wait_s: float,
        timeout_s: float,
    ) -> None:
        self._plan = made
        self._file = file
        self._push = push
        self._url = url
        self._publish = publish
        self._wait_s = wait_s
        self._timeout_s = timeout_s
        self._quiet = False
        self._owner = {shard.name: shard.node.name for shard in config.shards}
        self._pushed: set[str] = set()
        self._published = False

    async def run(self, *, quiet: bool = False) -> dict[str, Any]:
        """All steps, a line each on stderr; what was reached, for scripts."""
        self._quiet = quiet
        for change in in_order(self._plan):
            if change.part is not Part.LEAVES:
                await self._bring(change)
        leavers = [change for change in in_order(self._plan) if change.part is Part.LEAVES]
        gone = [change.node.name for change in leavers if not await self._send_away(change)]
        for node in self._plan.new.nodes:
            await self._until_warm(node)
        for change in leavers:
            if change.node.name not in gone:
                await self._until_not_needed(change.node)
        self._say(f"all nodes follow epoch {self._plan.new.epoch} and are warm")
        return {
            "epoch": self._plan.new.epoch,
            "nodes": [node.name for node in self._plan.new.nodes],
            "may_be_stopped": [change.node.name for change in leavers],
            "unreachable": gone,
        }

    def _say(self, line: str) -> None:
        if not self._quiet:
            typer.echo(line, err=True)

    async def _bring(self, change: NodeChange) -> None:
        """Get one node to follow the new topology."""
        node = change.node
        found = await self._look(node)
        if change.part is Part.STAYS and not self._follows(found):
            await self._run_push(node)
            if self._push is None and self._publish is None:
                self._say(f"{node.name}: waits for {self._file.name} to be put in its place")
        elif found is None:
            self._say(f"{node.name}: waits for it to be started with {self._file.name}")
        found = await self._until(node, self._follows)
        if not self._follows(found):
            raise self._failure(node, found)
        assert found is not None
        warming = f", warm in {duration(found.vitals.warming_ms)}" if found.vitals.warming_ms else ""
        self._say(f"{node.name}: follows epoch {self._plan.new.epoch}{warming}")

    async def _send_away(self, change: NodeChange) -> bool:
        """Get a node that leaves to know it; whether it is there at all."""
        node = change.node
        if await self._look(node) is None:
            self._say(f"{node.name}: cannot be reached; it leaves without a word")
            return False
        await self._run_push(node)
        found = await self._until(node, lambda found: found is not None and found.vitals.removed)
        if found is None or not found.vitals.removed:
            raise self._failure(node, found)
        return True

    async def _until_warm(self, node: Node) -> None:
        found = await self._until(node, lambda found: self._follows(found) and not _warming(found))
        if not self._follows(found) or _warming(found):
            raise self._failure(node, found)

    async def _until_not_needed(self, node: Node) -> None:
        found = await self._until(node, lambda found: found is not None and not found.vitals.needed_ms)
        if found is None or found.vitals.needed_ms:
            raise self._failure(node, found)
        self._say(f"{node.name}: may be stopped")

    def _follows(self, found: Probe | None) -> bool:
        if found is None:
            return False
        new = self._plan.new
        if found.welcome.epoch == new.epoch and found.welcome.topology_hash != new.hash:
            raise NotApplied(
                f"{found.welcome.node} follows another topology of epoch {new.epoch}:"
                " give this one a higher epoch"
            )
        if found.welcome.epoch > new.epoch:
            raise NotApplied(
                f"{found.welcome.node} follows epoch {found.welcome.epoch} already,"
                f" which is newer than {new.epoch}"
            )
        return found.welcome.epoch == new.epoch

    async def _run_push(self, node: Node) -> None:
        if self._publish is not None and not self._published:  # for all of them: those that join are there
            self._published = True
            await self._publish()
        name = self._owner.get(node.name, node.name)
        if self._push is None or name in self._pushed:
            return
        self._pushed.add(name)
        filled = push_command(self._push, self._file, name, node)
        self._say(f"{name}: {shlex.join(filled)}")
        try:
            process = await asyncio.create_subprocess_exec(*filled, stdout=sys.stderr)
        except OSError as error:
            raise NotApplied(f"{name}: {filled[0]}: {error.strerror}") from None
        code = await process.wait()
        if code:
            raise NotApplied(f"{name}: the command to push with ended with exit code {code}")

    async def _until(self, node: Node, reached: Callable[[Probe | None], bool]) -> Probe | None:
        """Look until something is so, or the time is over; what was found last."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._wait_s
        while True:
            found = await self._look(node)
            if reached(found) or loop.time() >= deadline:
                return found
            await asyncio.sleep(LOOK_S)

    async def _look(self, node: Node) -> Probe | None:
        try:
            found = await probe(Address(node.host, node.port), self._url, self._timeout_s)
        except NodeUnavailable:
            return None
        if found.welcome.node != node.name:
            raise NotApplied(f"at {node.address} answers node {found.welcome.node}, not {node.name}")
        return found

    def _failure(self, node: Node, found: Probe | None) -> PresenceError:
        if found is None:
            return NodeUnavailable(f"{node.name} ({node.address}) cannot be reached", node=node.name)
        after = duration(self._wait_s * 1000)
        if found.vitals.warming_ms and self._follows(found):
            return NotApplied(
                f"{node.name} is not warm after {after}, but in {duration(found.vitals.warming_ms)}"
            )
        return NotApplied(
            f"{node.name} still follows epoch {found.welcome.epoch} after {after}:"
            " can it read what was put there for it, and does its log say config.refused?"
        )


def push_command(template: str, file: Path, name: str, node: Node) -> list[str]:
    """Fill a command in, word by word, so that nothing in a name is taken for syntax."""
    facts = {"file": str(file), "node": name, "host": node.host, "address": node.address}
    try:
        words = [word.format_map(facts) for word in shlex.split(template)]
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        raise Misuse(f"--push: {{{'}, {'.join(facts)}}} can be filled in, and {error} cannot") from None
    if not words:
        raise Misuse("--push: a command is needed")
    return words


def _warming(found: Probe | None) -> bool:
    return found is None or found.vitals.warming_ms > 0
