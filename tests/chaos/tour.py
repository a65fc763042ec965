"""A tour: a cluster on machines of its own, two services that use it, and one fault after another.

The next fault begins only when all is whole again, as both services see it: every node reached and warm, and
every write of one ttl with all its owners. So there is never more than one fault at a time, however slow the
machine is, and all that is promised for one fault is promised. If that takes too long, the next fault is
judged by heartbeats that all owners had. Invariant: whatever happens, there is a verdict on what was seen.
"""

import asyncio
import random
import sys
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

from chaos.cluster import PORT, REPLICAS, SMALL, Cluster, NodeFailed
from chaos.control import Helper, HelperFailed, python
from chaos.faults import BEYOND, CHANGES, CLIENTS, FAULTS, Stage
from chaos.load import Spec, now_us
from chaos.namespaces import Fabric, FabricFailed
from chaos.verdict import Happening, Tour, document_of, judged
from sim.history import Phase

from pulsering import limits

__all__ = ["FULL", "SHORT", "Plan", "Step", "travel"]

MEMBERS: Final = "abc"
SPARE: Final = "d"
APART_S: Final = 100_000
"""Between the boot clocks of any two machines."""
USERS: Final = 1_000
VISITORS: Final = 100
"""Users of each load who are there once, as a fault begins: what a node hears of them late must not count."""
READS_PER_S: Final = 10.0
"""Calls of each load, 50 users each."""
SETTLE_S: Final = 6.0
"""To be whole again, and five ttls more: a client may take five seconds to come back to a node."""
BREATH_S: Final = 1.0
"""In which nothing is wrong, and nothing may be unknown."""


class Step(NamedTuple):
    """A fault, and for how many ttls it lasts."""

    fault: str
    ttls: float


class Plan(NamedTuple):
    """One tour to be. ``bug`` is one of ``sim.planted``, in all nodes and loads."""

    seed: int
    ttl_ms: int
    timeout_s: float
    """Of each call."""
    steps: tuple[Step, ...]
    bug: str = ""

    def node_of(self, index: int) -> str:
        """Whom a step befalls: one after another, beginning with the seed's."""
        fault = self.steps[index].fault
        if fault in CHANGES:
            return SPARE
        if fault == "memory_capped":
            return SMALL
        return MEMBERS[(self.seed + index) % len(MEMBERS)]


FULL: Final = (
    Step("kill_9", 1.5),
    Step("stop", 1.5),
    Step("cut", 1.5),
    Step("black_hole", 1.5),
    Step("deaf", 1.5),
    Step("mute", 1.5),
    Step("cut_off_from_one", 1.5),
    Step("throttle", 1.5),
    Step("kill_9", 1.5),
    Step("delay", 1.5),
    Step("loss", 1.5),
    Step("stall", 2),
    Step("reset", 1.5),
    Step("truncate", 1.5),
    Step("files_exhausted", 1.5),
    Step("memory_capped", 1.5),
    Step("kill_9", 1.5),
    Step("starve", 1.5),
    Step("restart", 0),
    Step("restart", 0),
    Step("restart", 0),
    Step("join", 1),
    Step("stall", 2),
    Step("part", 1),
    Step("kill_both", 0),
)
SHORT: Final = (
    Step("kill_9", 1.25),
    Step("stall", 1.25),
    Step("black_hole", 1.25),
    Step("stop", 1.25),
    Step("truncate", 1),
    Step("throttle", 1),
    Step("files_exhausted", 1),
    Step("restart", 0),
    Step("join", 0.5),
    Step("part", 0.5),
)


async def travel(plan: Plan, directory: Path) -> dict[str, Any]:
    """The verdict on a tour; its logs and histories are left in ``directory``."""
    return await _Traveller(plan, directory).run()


class _Traveller:
    def __init__(self, plan: Plan, directory: Path) -> None:
        self._plan = plan
        self._directory = directory
        self._began_us = now_us()
        self._phases: list[Phase] = []
        self._happenings: list[Happening] = []
        self._skipped: dict[str, str] = {}
        self._problems: list[str] = []
        self._stage: Stage
        self._whole_us = 0
        """When all nodes were last found reached and warm, for the first time after a fault."""
        self._ttl_s = plan.ttl_ms / 1000

    async def run(self) -> dict[str, Any]:
        facts: dict[str, dict[str, Any]] = {}
        async with AsyncExitStack() as stack:
            self._stage = stage = await self._set_up(stack)
            try:
                await self._take_steps()
            except (NodeFailed, HelperFailed, FabricFailed, TimeoutError) as error:
                self._problems.append(f"the tour ended early: {error!r}")
            for name, load in stage.loads.items():
                facts[name] = await load.ask(do="stop")
            self._problems += stage.cluster.deaths
        self._problems += stage.cluster.problems_logged()
        plan, seconds = self._plan, (now_us() - self._began_us) / 1e6
        tour = Tour(
            plan.seed,
            seconds,
            plan.ttl_ms,
            limits.TICKS_PER_TTL,
            REPLICAS,
            self._phases,
            self._happenings,
            self._skipped,
            facts,
            self._problems,
        )
        return document_of(tour, *judged(tour, map(self._history_of, facts)))

    # -- what there is ---------------------------------------------------------------------------------------

    async def _set_up(self, stack: AsyncExitStack) -> Stage:
        plan = self._plan
        self._phase(0, definite=0, leaves=True, why="warming up")
        fabric = await stack.enter_async_context(Fabric())
        names = MEMBERS + SPARE
        hosts = {
            name: await fabric.add(name, ahead_s=APART_S * (number + 1)) for number, name in enumerate(names)
        }
        web, edge = await fabric.add("web"), await fabric.add("edge", fronted=False)
        await fabric.stand_in_for("edge", tuple(names))
        cluster = Cluster(self._directory, hosts, MEMBERS, plan.ttl_ms, plan.bug)
        stack.push_async_callback(cluster.end)
        await cluster.start()
        ways = [f"{name}={host.address}:{PORT}={host.back_address}:{PORT}" for name, host in hosts.items()]
        proxy = await self._helper(
            stack, "proxy", edge.command(*python("chaos.proxy", str(plan.seed), *ways))
        )
        loads = {}
        for number, (name, host) in enumerate(zip(CLIENTS, (web, edge), strict=True)):
            spec = Spec(
                name=name,
                number=number,
                seed=plan.seed,
                url=cluster.url,
                ttl_ms=plan.ttl_ms,
                ticks=limits.TICKS_PER_TTL,
                replicas=REPLICAS,
                users=USERS,
                loads=len(CLIENTS),
                reads_per_s=READS_PER_S,
                timeout_s=plan.timeout_s,
                record=str(self._history_of(name)),
            )
            command = host.command(*python("chaos.load", spec.as_json(), bug=plan.bug))
            loads[name] = await self._helper(stack, name, command)
        return Stage(fabric, cluster, proxy, loads, random.Random(plan.seed))

    async def _helper(self, stack: AsyncExitStack, name: str, command: tuple[str, ...]) -> Helper:
        helper = await Helper.start(name, command, self._directory / f"{name}.log")
        stack.push_async_callback(helper.end)
        return helper

    def _history_of(self, load: str) -> Path:
        return self._directory / f"history-{load}.jsonl"

    # -- what happens ----------------------------------------------------------------------------------------

    async def _take_steps(self) -> None:
        settled = await self._settle()
        for index, step in enumerate(self._plan.steps):
            name = self._plan.node_of(index)
            self._say(f"{step.fault} {name}" + ("" if settled else " (not settled before)"))
            try:
                settled = await self._take(step, name, settled)
            except FileNotFoundError as error:
                self._skipped[step.fault] = f"no {error.filename} on this machine"
            if settled:
                self._phase(1, definite=2, leaves=True, why="settled")
                await asyncio.sleep(BREATH_S)

    async def _take(self, step: Step, name: str, settled: bool) -> bool:
        """Have one fault befall a node; whether all was whole again in time."""
        stage, leaves = self._stage, step.fault not in CHANGES
        one_at_a_time = settled and step.fault not in BEYOND
        self._phase(1 if one_at_a_time else REPLICAS, definite=0, leaves=leaves, why=step.fault)
        if step.fault in BEYOND:  # what all owners have counts from here on
            await asyncio.sleep(0.6 * self._ttl_s)
        stage.facts = {}
        began_us = now_us()
        async with FAULTS[step.fault](stage, name):
            felt_us = now_us()
            await self._send_visitors()
            await asyncio.sleep(step.ttls * self._ttl_s)
            unreached = await self._who_misses(name)
        healed_us = now_us()
        await self._bury()
        settled = await self._settle(after_change=not leaves)
        whole_s = (self._whole_us - healed_us) / 1e6 if self._whole_us else None
        facts = {"unreached_by": unreached, "whole_s": whole_s, **stage.facts}
        self._happenings.append(
            Happening(step.fault, name, began_us, felt_us, healed_us, now_us(), settled, facts)
        )
        return settled

    async def _send_visitors(self) -> None:
        """Those of each load are watched by the others, to whom the node may be in reach earlier."""
        for name, load in self._stage.loads.items():
            visitors = (await load.ask(do="visit", users=VISITORS))["visitors"]
            for other in self._stage.loads.keys() - {name}:
                await self._stage.loads[other].ask(do="watch", visitors=visitors)

    async def _who_misses(self, name: str) -> list[str]:
        """Loads that do not reach a node now: so it is seen that a fault is one."""
        statuses = {
            client: (await load.ask(do="status"))["nodes"] for client, load in self._stage.loads.items()
        }
        return [client for client, nodes in statuses.items() if not nodes.get(name, {"up": True})["up"]]

    async def _bury(self) -> None:
        """Note who did not survive, and start it again: the tour goes on."""
        cluster = self._stage.cluster
        for name in cluster.members:
            if died := cluster.nodes[name].died:
                self._problems.append(died)
                await cluster.nodes[name].start()

    async def _settle(self, *, after_change: bool = False) -> bool:
        """Wait until all is whole; False if it was not in time.

        After a change of the cluster former owners are asked for one ttl more, who heard of no leaves.
        """
        stage, give_up_s = self._stage, time.monotonic() + SETTLE_S + 5 * self._ttl_s
        self._whole_us = 0
        while time.monotonic() < give_up_s:
            statuses = await asyncio.gather(*(load.ask(do="status") for load in stage.loads.values()))
            reduced_us = max(status["reduced_us"] for status in statuses)
            if not self._whole(statuses):
                self._whole_us = 0
            elif not self._whole_us:
                self._whole_us = now_us()
            if self._whole_us and now_us() - reduced_us > 1.05 * self._ttl_s * 1e6:
                if after_change:
                    await asyncio.sleep(1.1 * self._ttl_s)
                return True
            await asyncio.sleep(self._ttl_s / 40)
        return False

    def _whole(self, statuses: Iterable[dict[str, Any]]) -> bool:
        cluster = self._stage.cluster
        for status in statuses:
            nodes = status["nodes"]
            if status["epoch"] != cluster.epoch or "".join(sorted(nodes)) != cluster.members:
                return False
            if not all(node["ready"] and node["epoch"] == cluster.epoch for node in nodes.values()):
                return False
        return True

    def _phase(self, copies: int, *, definite: int, leaves: bool, why: str) -> None:
        self._phases.append(Phase(now_us(), copies, definite, leaves, why))

    def _say(self, what: str) -> None:
        print(f"{(now_us() - self._began_us) / 1e6:7.1f} s  {what}", file=sys.stderr, flush=True)
