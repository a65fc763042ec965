"""Runs a plan: boots its cluster, lets it happen, and has the history judged.

What a client is asked, and what it answers, is recorded at the moment it happens, in true time; so is what is
promised meanwhile, which depends on the faults. After the history everything is closed, and what is left over
is a breach of P5. Invariant: a plan gives the same history in any process.
"""

import asyncio
import gc
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sim.checker import Bounds, Violation, judge
from sim.cluster import PORT, ClientProcess, NodeProcess, Shape, simulated, topology_of
from sim.faults import Faults
from sim.history import BEAT, COUNT, LEAVE, READ, Begin, End, Phase, Record
from sim.network import Network
from sim.page import Page
from sim.plan import CANCEL, CLIENTS, MS, SECOND, Action, Plan
from sim.watch_checker import judge_watches
from sim.world import World

from pulsering.errors import PresenceError, UnknownPresence
from pulsering.options import ClientOptions
from pulsering.status import Reason, Status
from pulsering.url import Address

if TYPE_CHECKING:
    from pulsering.snapshot import Snapshot

__all__ = ["Result", "Run", "run_plan"]

ROUNDING_US: Final = 5 * MS
"""Frames and tables keep whole milliseconds, a few times over."""

CALM_AFTER_US: Final = 6_500 * MS
"""P6: 5 s after a fault heals; and a call that began then may have a second to end."""

DEAD_AFTER_US: Final = 2 * SECOND
"""P6: 2 s after a node died."""

FRAMES_PER_CALL: Final = 40
"""More than all owners and all repeats of a call together, in any second; a loop sends more."""

FRAMES_PER_FORMER: Final = 13
"""So many more for each former topology whose owners are asked too: three rounds to four nodes, and one."""


class Result(NamedTuple):
    """What became of a plan."""

    plan: Plan
    records: list[Record]
    violations: list[Violation]
    tally: Counter[str]
    trace_hash: int
    log: list[tuple[int, str]]
    """Faults as they came and went."""


class Run:
    """One history in the making."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.records: list[Record] = []
        self.log: list[tuple[int, str]] = []
        self.violations: list[Violation] = []
        self.world = World(plan.seed)
        self.network = self.world.network = Network(self.world)
        self.network.chopped = plan.chopped
        self.shape = Shape(ttl_ms=plan.ttl_ms, ticks=plan.ticks, replicas=plan.replicas)
        self.topology = topology_of(self.shape, plan.nodes, 1)
        self.nodes = {
            name: NodeProcess(self.world, self.network, name, self.topology, plan.ppm[name])
            for name in plan.nodes + plan.spare
        }
        for name in plan.probed:
            self.nodes[name].probed = True
        self.clients = {name: self._client(name) for name in CLIENTS}
        self._calls = 0
        self._counted: dict[str, tuple[object, int, int, int, int]] = {}
        self._faults = Faults(self)
        self._pages = [Page(self, name, number) for number, name in enumerate(plan.watching)]

    def _client(self, name: str) -> ClientProcess:
        plan = self.plan
        options = ClientOptions(
            timeout=plan.timeout_ms / 1000, hedge=plan.hedge_ms / 1000 if plan.hedge_ms else None
        )
        seeds = [Address(f"node-{node}", PORT) for node in plan.nodes]
        return ClientProcess(self.world, self.network, name, seeds, options, plan.ppm[name])

    def restart_client(self, name: str) -> None:
        """A killed service is started again."""
        self.clients[name] = self._client(name)
        self.clients[name].start()

    def run(self) -> Result:
        """Let it happen."""
        plan, world = self.plan, self.world
        with simulated(world):
            for name in plan.nodes:
                self.nodes[name].start()
            for client in self.clients.values():
                world.after(50 * MS, client.start)
            for action in plan.actions:
                world.at(action.at_us, self._act, action)
            self._faults.schedule()
            for page in self._pages:
                page.begin()
            world.after(SECOND, self._count_frames)
            world.run(plan.ends_at_us)
            self._check_bounds()
            self._close()
        bounds = self.bounds()
        verdict = judge(self.records, bounds)
        violations = [*verdict.violations, *self.violations]
        if self._pages:
            watched = judge_watches(self.records, bounds)
            violations += watched.violations
            verdict.tally.update(watched.tally)
        violations += [Violation("fault", world.now_us, problem) for problem in world.problems]
        return Result(plan, self.records, violations, verdict.tally, world.trace_hash, self.log)

    def bounds(self) -> Bounds:
        """What a node can know at best, in this history."""
        ttl_us = self.plan.ttl_ms * MS
        drift_us = ttl_us * 3 // 1000
        return Bounds(
            ttl_us=ttl_us,
            tick_us=-(-ttl_us // self.plan.ticks),
            late_us=self.network.hello_us_max + drift_us + ROUNDING_US,
            early_us=drift_us + ROUNDING_US,
            replicas=self.plan.replicas,
        )

    def note(self, what: str) -> None:
        """Put something in the log, and in the trace."""
        self.log.append((self.world.now_us, what))
        self.world.trace(what)

    def phase(self, copies: int, *, definite: int, leaves: bool, why: str) -> None:
        """From now on other things are promised."""
        self.records.append(Phase(self.world.now_us, copies, definite, leaves, why))

    # -- calls -----------------------------------------------------------------------------------------------

    def _act(self, action: Action) -> None:
        client = self.clients[action.client]
        if client.process.alive and client.client is not None:
            client.process.post(lambda: self._begin(client, action))

    def _begin(self, client: ClientProcess, action: Action) -> None:
        if action.kind == CANCEL:
            client.process.loop.create_task(self._cancel(client, action))
        elif action.single and action.kind != COUNT:
            for user in dict.fromkeys(action.users):
                client.process.loop.create_task(self._call(client, action._replace(users=(user,))))
        else:
            client.process.loop.create_task(self._call(client, action))

    async def _cancel(self, client: ClientProcess, action: Action) -> None:
        """A read that is cancelled on its way, and another one right behind it on the same connections."""
        asked = client.process.loop.create_task(self._call(client, action._replace(kind=READ, single=False)))
        await asyncio.sleep(self.world.rng.uniform(0, 0.005))
        asked.cancel()
        await self._call(client, action._replace(kind=READ, users=action.users[::-1], single=False))

    async def _call(self, client: ClientProcess, action: Action) -> None:
        world = self.world
        self._calls += 1
        call = self._calls
        begin = Begin(world.now_us, call, action.kind, action.users, action.grace_ms * MS)
        self.records.append(begin)
        try:
            answer = await self._ask(client.client, action)
            end = End(world.now_us, call, *answer)
        except asyncio.CancelledError:
            raise  # by its caller, or with its process: a call without an end
        except PresenceError as error:
            end = End(world.now_us, call, error=type(error).__name__)
        except Exception as error:
            world.problems.append(f"{action.kind} raised {error!r}")
            end = End(world.now_us, call, error=type(error).__name__)
        world.trace(end)
        self.records.append(end)

    async def _ask(self, client: Any, action: Action) -> tuple[int, bytes | None, int | None]:
        users, grace = action.users, action.grace_ms / 1000 or None
        if action.kind == COUNT:
            count = await client.count()
            return 0, None, count.online if count.exact else None
        if action.kind == READ:
            return 0, await self._read(client, users, single=action.single), None
        if action.single:
            if action.kind == BEAT:
                await client.heartbeat(users[0])
            else:
                await client.leave(users[0], grace=grace)
            return 1, None, None
        if action.kind == BEAT:
            report = await client.heartbeat_many(users)
        else:
            assert action.kind == LEAVE
            report = await client.leave_many(users, grace=grace)
        if report.accepted < report.total:
            return 0, None, None
        return 1 if report.reduced else client.topology.replicas, None, None

    async def _read(self, client: Any, users: tuple[int, ...], *, single: bool) -> bytes:
        if single:
            try:
                return bytes([Status.ONLINE if await client.is_online(users[0]) else Status.OFFLINE])
            except UnknownPresence:
                return bytes([Status.UNKNOWN])
        snapshot: Snapshot = await client.get_many(users)
        for status, reason in zip(snapshot.statuses, snapshot.reasons, strict=True):
            if (status == Status.UNKNOWN) != (reason != Reason.NONE):
                what = f"{Status(status).name} with the reason {reason.name}"
                self.violations.append(Violation("P3", self.world.now_us, what))
        return snapshot.statuses

    # -- the end ---------------------------------------------------------------------------------------------

    def _count_frames(self) -> None:
        """P5: no call sends more and more frames."""
        for name, process in self.clients.items():
            client = process.client
            if client is None:
                continue
            driver = client._driver
            now_former = len(driver.cluster.retired)
            who, calls, frames, running, former = self._counted.get(name, (None, 0, 0, 0, 0))
            if who is client:
                calls, frames = driver.calls - calls, driver.frames - frames
                allowed = FRAMES_PER_CALL + FRAMES_PER_FORMER * max(former, now_former)
                if frames > allowed * (calls + running):
                    self._exceeds(f"client {name}: {frames} frames in a second, for {calls + running} calls")
            self._counted[name] = client, driver.calls, driver.frames, driver.running, now_former
        self.world.after(SECOND, self._count_frames)

    def _check_bounds(self) -> None:
        """P5: nothing has piled up."""
        users = len({user for action in self.plan.actions for user in action.users})
        for name, client in self.clients.items():
            if client.client is None:
                self._exceeds(f"client {name} has not opened")
                continue
            stats = client.process.loop.inside(client.client.stats)
            for what in ("calls_running", "keys_pending"):
                if stats[what]:
                    self._exceeds(f"client {name}: {what} is {stats[what]} a second after the last call")
            if stats["topology_refreshes"] > self.plan.ends_at_us / SECOND * 1.3 + 5:
                self._exceeds(f"client {name}: {stats['topology_refreshes']} topology refreshes")
        for name, node in self.nodes.items():
            if node.process is not None:
                if node.core.table.entries > users:
                    self._exceeds(f"node {name}: {node.core.table.entries} entries for {users} users")
                if node.core.stats.connections_open > 16:
                    self._exceeds(f"node {name}: {node.core.stats.connections_open} connections")

    def _close(self) -> None:
        for client in self.clients.values():
            if client.client is not None:
                client.process.loop.create_task(client.client.aclose())
        self.world.run(self.world.now_us + 3 * SECOND)
        for name, client in self.clients.items():
            if client.client is not None and client.process.alive:
                left = [task.get_name() for task in client.process.loop.tasks]
                if left:
                    self._exceeds(f"client {name} left tasks behind: {left}")
                if self.network.endpoints.get(client.process):
                    self._exceeds(f"client {name} left connections behind")
            client.end()
        for node in self.nodes.values():
            node.end()

    def _exceeds(self, what: str) -> None:
        self.violations.append(Violation("P5", self.world.now_us, what))


def run_plan(plan: Plan) -> Result:
    """Run a plan, with the collector off: what is freed when must not depend on what ran before."""
    gc.disable()
    try:
        return Run(plan).run()
    finally:
        gc.enable()
