"""``pulsering bench scale``: what more nodes cost, for the nodes and for the client.

*Measured*: 1, 2, 4 real nodes, all on the server's core, and the real client on the other. A call is cut into
one frame a node, so more nodes mean smaller frames; users a second of the nodes' CPU says what that costs,
and the client's CPU what cutting and joining costs. One node with fewer users than all says how cost grows
with users, whose lines the caches hold ever fewer of. *Measured on a stub*: the client alone against up to 64
stub nodes. *Calculated*, and said so: nodes that this machine has no cores for, by the line through the
measured costs of a frame and a user. Invariant: no calculated figure is shown without the word.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any, Final

import numpy as np
import uvloop
from numpy.typing import NDArray

from pulsering import PresenceClient, Status
from pulsering_bench.client import stub_cluster
from pulsering_bench.drive import limit_of
from pulsering_bench.machine import machine_facts
from pulsering_bench.quotients import per, shown
from pulsering_bench.usage import Watch, cores, pin, tree_of
from pulsering_server.local_cluster import LocalCluster

__all__ = ["Plan", "Point", "line_through", "run_scale", "scale"]

TTL_MS: Final = 3_600_000
CALLS_AT_ONCE: Final = 4
POOL: Final = 64
LOAD: Final = 8192

Ids = NDArray[np.uint64]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to measure, and what to calculate."""

    users: int = 2_000_000
    shares: tuple[float, ...] = (1 / 16, 1 / 4)
    """Of the users, with which one node is measured as well."""

    batch: int = 1000
    seconds: float = 3.0
    nodes: tuple[int, ...] = (1, 2, 4)
    stub_nodes: tuple[int, ...] = (1, 4, 16, 64)
    calculated_nodes: tuple[int, ...] = (8, 16, 64, 256, 1024)
    seed: int = 1


@dataclass(frozen=True)
class Point:
    """One workload on so many nodes; without a rate or a cost where nobody was served."""

    nodes: int
    what: str
    users_per_node_cpu_s: float | None
    client_cpu_s_per_million: float | None
    users_per_s: float
    limit: str
    wrong: int


class _Load:
    """Calls of one workload in a closed loop, each answer judged."""

    def __init__(self, presence: PresenceClient, ids: Ids, plan: Plan) -> None:
        self.presence = presence
        self.ids = ids
        self.plan = plan
        self.wrong = 0
        self.random = np.random.default_rng(plan.seed)

    async def load(self) -> None:
        for at in range(0, len(self.ids), LOAD):
            await self.refresh(self.ids[at : at + LOAD])

    async def refresh(self, ids: Ids) -> None:
        report = await self.presence.heartbeat_many(ids)
        self.wrong += report.total - report.accepted

    async def get(self, ids: Ids) -> None:
        snapshot = await self.presence.get_many(ids)
        self.wrong += len(ids) - snapshot.counts[Status.ONLINE]

    async def run(
        self, nodes: int, what: str, call: Callable[[Ids], Awaitable[None]], pids: list[int]
    ) -> Point:
        batch = self.plan.batch
        pool = [self.random.choice(self.ids, batch) for _ in range(POOL)]
        users, self.wrong = 0, 0
        watch = Watch(pids)
        until = perf_counter() + self.plan.seconds

        async def caller(turn: int) -> None:
            nonlocal users
            while perf_counter() < until:
                await call(pool[turn % POOL])
                turn += 1
                users += batch

        await asyncio.gather(*(caller(turn) for turn in range(CALLS_AT_ONCE)))
        wall, server, client = watch.stop()
        return Point(
            nodes,
            what,
            per(users, server.cpu_s) if users else None,
            per(client.cpu_s, users, 1e6),
            users / wall,
            limit_of(server, client),
            self.wrong,
        )


async def _on_nodes(plan: Plan, nodes: int, core: int) -> list[Point]:
    async with LocalCluster(nodes, ttl_ms=TTL_MS, replicas=1) as cluster:
        pids = [pid for node in cluster.nodes.values() for pid in tree_of(node.pid)]
        for pid in pids:
            pin(core, pid)
        async with PresenceClient.from_url(cluster.url, timeout=30) as presence:
            load = _Load(presence, np.arange(plan.users, dtype=np.uint64), plan)
            await load.load()
            return [
                await load.run(nodes, "refresh", load.refresh, pids),
                await load.run(nodes, "get", load.get, pids),
            ]


async def _on_stub(plan: Plan, nodes: int, url: str) -> list[Point]:
    async with PresenceClient.from_url(url, timeout=30) as presence:
        load = _Load(presence, np.arange(plan.users, dtype=np.uint64), plan)
        return [
            await load.run(nodes, "refresh", load.refresh, []),
            await load.run(nodes, "get", load.get, []),
        ]


def line_through(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """Seconds a frame and seconds a user, by least squares over frames of several sizes; neither below 0."""
    per_user, per_frame = np.polyfit(np.array(sizes), np.array(costs), 1)
    if per_user < 0:
        return float(np.mean(costs)), 0.0
    if per_frame < 0:
        return 0.0, float(np.mean(np.array(costs) / np.array(sizes)))
    return float(per_frame), float(per_user)


def calculated(plan: Plan, points: Sequence[Point], what: str) -> list[dict[str, float]]:
    """What a core of so many nodes would do, by the line through what was measured."""
    sizes, costs = [], []
    for point in points:
        size = plan.batch / point.nodes
        cost = per(size, point.users_per_node_cpu_s)
        if point.what == what and cost is not None:
            sizes.append(size)
            costs.append(cost)
    if len(set(sizes)) < 2:
        return []
    per_frame, per_user = line_through(sizes, costs)
    found = []
    for nodes in plan.calculated_nodes:
        size = max(1.0, plan.batch / nodes)
        rate = size / (per_frame + size * per_user)
        found.append(
            {"nodes": nodes, "users_per_frame": size, "users_per_node_cpu_s": rate, "of_all": rate * nodes}
        )
    return found


def scale(plan: Plan, tell: Tell = lambda _: None) -> dict[str, Any]:
    """Measure, then calculate; the results as JSON has them."""
    server_core, own_core = cores()
    facts = machine_facts()
    points: list[Point] = []
    by_users: list[tuple[int, Point]] = []
    stubbed: list[Point] = []
    release = pin(own_core)
    try:
        for users in (max(plan.batch, int(share * plan.users)) for share in plan.shares):
            tell(f"1 real node with {users:,} users")
            found = uvloop.run(_on_nodes(replace(plan, users=users), 1, server_core))
            by_users += [(users, point) for point in found]
        for nodes in plan.nodes:
            tell(f"{nodes} real node{'s' if nodes > 1 else ''} on one core")
            points += uvloop.run(_on_nodes(plan, nodes, server_core))
        for nodes in plan.stub_nodes:
            tell(f"the client against {nodes} stub node{'s' if nodes > 1 else ''}")
            with stub_cluster(nodes, 1, server_core) as url:
                stubbed += uvloop.run(_on_stub(plan, nodes, url))
    finally:
        release()
    return {
        "machine": facts,
        "plan": asdict(plan),
        "measured": [asdict(point) for point in points],
        "measured_by_users": [{"users": users} | asdict(point) for users, point in by_users],
        "measured_on_stub": [asdict(point) for point in stubbed],
        "calculated": {what: calculated(plan, points, what) for what in ("refresh", "get")},
        "wrong_answers": sum(point.wrong for point in [*points, *stubbed, *(point for _, point in by_users)]),
    }


def run_scale(plan: Plan, *, as_json: bool) -> int:
    """Measure, show; exit code 1 if an answer was wrong."""
    results = scale(plan, lambda line: print(f"  {line}", file=sys.stderr, flush=True))
    print(json.dumps(results, indent=1) if as_json else text_of(results))
    return 1 if results["wrong_answers"] else 0


def text_of(results: dict[str, Any]) -> str:
    """For people."""
    plan = results["plan"]
    lines = [f"calls of {plan['batch']:,} of {plan['users']:,} users; all nodes share one core", ""]
    lines += [
        f"measured    {point['nodes']:5} nodes  {point['what']:8} "
        f"{shown(point['users_per_node_cpu_s'], '8.2f', 1e-6)} M users/s of node CPU  "
        f"client {shown(point['client_cpu_s_per_million'], '.3f')} CPU s a million  limit: {point['limit']}"
        for point in results["measured"]
    ]
    lines += [
        f"measured    {point['users']:10,} users on 1 node  {point['what']:8} "
        f"{shown(point['users_per_node_cpu_s'], '8.2f', 1e-6)} M users/s of node CPU"
        for point in results["measured_by_users"]
    ]
    lines += [
        f"stub        {point['nodes']:5} nodes  {point['what']:8} client "
        f"{shown(point['client_cpu_s_per_million'], '.3f')} CPU s a million"
        for point in results["measured_on_stub"]
    ]
    lines += [
        f"calculated  {row['nodes']:5} nodes  {what:8} {row['users_per_node_cpu_s'] / 1e6:8.2f} M users/s a "
        f"core, {row['of_all'] / 1e6:,.0f} M of all"
        for what, found in results["calculated"].items()
        for row in found
    ]
    return "\n".join([*lines, "", f"wrong answers: {results['wrong_answers']}"])
