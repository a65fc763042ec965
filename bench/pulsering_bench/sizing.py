"""``pulsering size``: what a cluster for so many users needs, every figure with its arithmetic.

A profile is what one core was measured to do, of ``pulsering bench compare --json`` or of the plan below; all
else is arithmetic on it and on what the operator says. Each step is a ``Step``: a name, a value, the formula
with its numbers in it, and where the numbers come from, so that nobody has to believe anything. Invariant: no
constant is used that is not shown.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from pulsering import limits
from pulsering.topology import Node, Topology

__all__ = ["Demand", "Profile", "Sizing", "Step", "load_profile", "size_of"]

HEADER_BYTES: Final = 16
BODY_BYTES: Final = 10
"""Around the keys of a request, and about as much in a reply: array, epoch, argument, ext header."""

PACKET_BYTES: Final = 1448
"""Payload of a TCP segment in an Ethernet frame of 1500 with timestamps; 66 bytes of headers come on top."""

PACKET_HEADER_BYTES: Final = 66
KEY_BYTES: Final = 8
PLANNED_SHARE: Final = 60
"""Percent of a core that is planned with; the rest is for peaks, recovery and the sweep."""

MEMORY_SHARE: Final = 80
"""Percent of a machine's memory that is planned with; the rest is for buffers, kernel and growth."""


@dataclass(frozen=True)
class Profile:
    """What one core does, and where that was measured.

    A frame costs the node something beside its users; two batch sizes tell the two apart.
    """

    refresh_user_s: float
    get_user_s: float
    frame_s: float
    bytes_per_user: float
    client_refresh_per_core: float
    client_get_per_core: float
    source: str


PLANNED: Final = Profile(
    refresh_user_s=1 / 12e6,
    get_user_s=1 / 10e6,
    frame_s=2e-6,
    bytes_per_user=8.0,
    client_refresh_per_core=8e6,
    client_get_per_core=6e6,
    source="the plan, conservative; measure yours: pulsering bench compare --json",
)


@dataclass(frozen=True)
class Demand:
    """What is asked of the cluster; rates follow from it."""

    users: float = 1e9
    online: float = 1e9
    interval_s: float = 10.0
    replicas: int = 2
    gets_per_s: float | None = None
    """Users asked for a second; None: as many as there are heartbeats."""

    batch: int = 1000
    """Users in a call of an API server."""

    api_servers: int = 1000
    cores_per_node: int = 16
    memory_bytes: float = 64e9
    """Of a node."""

    zones: int = 3
    ttl_s: float = 20.0
    connections: int = limits.CONNECTIONS


class Step(NamedTuple):
    """One figure: ``arithmetic`` has the numbers that made it, ``source`` says where they are from."""

    name: str
    value: float
    unit: str
    arithmetic: str
    source: str


@dataclass
class Sizing:
    """All figures, in the order in which they follow from one another."""

    steps: list[Step] = field(default_factory=list)

    def add(self, name: str, value: float, unit: str, arithmetic: str, source: str = "") -> float:
        """Note a figure; returns it."""
        self.steps.append(Step(name, value, unit, arithmetic, source))
        return value

    def __getitem__(self, name: str) -> float:
        return next(step.value for step in self.steps if step.name == name)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {step.name: step._asdict() for step in self.steps}


def load_profile(path: Path | None) -> Profile:
    """The profile of a ``bench compare --json``, or the plan; ValueError if the file is something else."""
    if path is None:
        return PLANNED
    try:
        results = json.loads(path.read_text("utf-8"))
        ours = results["peers"]["pulsering"]
        machine = results["machine"]
        large, small = (ours["raw"][name] for name in ("refresh", "refresh_small"))
        gets = min(ours["raw"][name]["users_per_server_cpu_s"] for name in ("get_hits", "get_half"))
        frame_s, refresh_user_s = _split(_call(large), _call(small))
        users_per_get = ours["raw"]["get_hits"]["users"] / ours["raw"]["get_hits"]["calls"]
        return Profile(
            refresh_user_s=refresh_user_s,
            get_user_s=max(0.0, 1 / gets - frame_s / users_per_get),
            frame_s=frame_s,
            bytes_per_user=float(ours["bytes_per_user"]),
            client_refresh_per_core=float(ours["client"]["refresh"]["users_per_caller_cpu_s"]),
            client_get_per_core=float(ours["client"]["get_half"]["users_per_caller_cpu_s"]),
            source=f"{path.name}: {machine['date'][:10]}, {machine['cpu']}, {ours_at(results)}",
        )
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(
            f"{path} is no profile ({type(error).__name__}: {error}); make one with "
            "'pulsering bench compare --json > measured.json'"
        ) from None


def ours_at(results: Mapping[str, Any]) -> str:
    """How many users a profile was measured with."""
    return f"{results['work']['users']:,} users"


def _call(measure: Mapping[str, Any]) -> tuple[float, float]:
    """Users in a call of a measure, and the server's CPU seconds of it."""
    users = measure["users"] / measure["calls"]
    return users, users / measure["users_per_server_cpu_s"]


def _split(large: tuple[float, float], small: tuple[float, float]) -> tuple[float, float]:
    """The line through two points: seconds a frame, seconds a user."""
    user_s = (large[1] - small[1]) / (large[0] - small[0])
    return max(0.0, small[1] - small[0] * user_s), max(user_s, 0.0)


def size_of(demand: Demand, profile: Profile) -> Sizing:
    """Everything, step by step."""
    sizing = Sizing()
    _load(sizing, demand)
    _nodes(sizing, demand, profile)
    _network(sizing)
    _clients(sizing, demand, profile)
    _losses(sizing, demand)
    return sizing


def _load(sizing: Sizing, demand: Demand) -> None:
    beats = sizing.add(
        "heartbeats",
        demand.online / demand.interval_s,
        "users/s",
        f"{demand.online:,.0f} online / {demand.interval_s:g} s",
        "--online, --interval",
    )
    sizing.add(
        "refreshes",
        beats * demand.replicas,
        "users/s",
        f"{beats:,.0f} heartbeats/s x {demand.replicas} replicas: the client sends to every owner",
        "--replicas",
    )
    gets = beats if demand.gets_per_s is None else demand.gets_per_s
    sizing.add(
        "gets",
        gets,
        "users/s",
        "as many as heartbeats"
        if demand.gets_per_s is None
        else f"{gets:,.0f} asked for; a read asks one owner",
        "--gets",
    )


def _nodes(sizing: Sizing, demand: Demand, profile: Profile) -> None:
    share = PLANNED_SHARE / 100
    usable = demand.memory_bytes * MEMORY_SHARE / 100
    memory = sizing.add(
        "memory",
        demand.users * demand.replicas * profile.bytes_per_user,
        "bytes",
        f"{demand.users:,.0f} users x {demand.replicas} replicas x {profile.bytes_per_user:.2f} bytes",
        profile.source,
    )
    nodes = by_memory = max(1, math.ceil(memory / usable))
    nodes = max(nodes, demand.replicas)
    while _work(sizing, demand, profile, nodes).cores > share * nodes * demand.cores_per_node:
        nodes += 1
        if nodes * demand.cores_per_node > limits.NODES_MAX:
            raise ValueError(
                f"more than {limits.NODES_MAX:,} cores would be needed, the most that a topology has: "
                "several clusters, larger batches, or fewer replicas"
            )
    work = _work(sizing, demand, profile, nodes)
    shards = nodes * demand.cores_per_node
    sizing.add(
        "nodes",
        nodes,
        "machines",
        f"the fewest for {memory / 1e9:,.1f} GB in {demand.memory_bytes / 1e9:,.1f} GB x {MEMORY_SHARE} % "
        f"(= {by_memory}), for {demand.replicas} replicas, and for {work.cores:.1f} cores of work at "
        f"{PLANNED_SHARE} % of {demand.cores_per_node} cores",
        "--memory, --cores-per-node",
    )
    sizing.add(
        "shards", shards, "processes", f"{nodes:,} nodes x {demand.cores_per_node} cores", "docs/node.md"
    )
    sizing.add(
        "users_per_shard",
        demand.users * demand.replicas / shards,
        "users",
        f"{demand.users:,.0f} x {demand.replicas} / {shards:,}",
    )
    largest = _largest_share(demand, nodes)
    sizing.add(
        "users_of_the_largest_shard",
        demand.users * largest,
        "users",
        f"{demand.users:,.0f} x {largest:.3%}: of {shards:,} equal shards, placed as clients do, the "
        f"largest owns {largest * shards / demand.replicas:.2f} times the mean",
        "docs/protocol.md; pulsering plan shows your own nodes' shares",
    )
    for name, users, made in (
        ("users_per_refresh_frame", work.refresh_users, f"{demand.batch:,} x {demand.replicas} replicas"),
        ("users_per_get_frame", work.get_users, f"{demand.batch:,}"),
    ):
        sizing.add(
            name,
            users,
            "users",
            f"{made} users of a call spread over {shards:,} shards, at least 1, at most "
            f"{limits.KEYS_PER_FRAME:,}",
            "--batch; pulsering.limits",
        )
    sizing.add(
        "frames",
        work.frames,
        "frames/s",
        f"{sizing['refreshes']:,.0f} / {work.refresh_users:,.1f} + {sizing['gets']:,.0f} / "
        f"{work.get_users:,.1f}",
    )
    sizing.add("frames_per_shard", work.frames / shards, "frames/s", f"{work.frames:,.0f} / {shards:,}")
    sizing.add(
        "work",
        work.cores,
        "cores",
        f"{sizing['refreshes']:,.0f} x {1e9 * profile.refresh_user_s:.1f} ns + {sizing['gets']:,.0f} x "
        f"{1e9 * profile.get_user_s:.1f} ns + {work.frames:,.0f} frames x {1e6 * profile.frame_s:.2f} us",
        profile.source,
    )
    sizing.add(
        "load_of_a_core",
        work.cores / shards,
        "of a core",
        f"{work.cores:.2f} cores of work / {shards:,} shards; {share:g} is planned with",
    )


def _largest_share(demand: Demand, nodes: int) -> float:
    """The part of all users that the largest shard holds: slots are many, but not endlessly many."""
    ports = range(7400, 7400 + demand.cores_per_node)
    zones = min(demand.zones, nodes)
    shards = tuple(
        Node(f"n{node}-{port}", f"10.0.{node >> 8}.{node & 255}", port, zone=f"z{node % zones}")
        for node in range(nodes)
        for port in ports
    )
    ttl_ms, ticks = limits.TTL_MS, limits.TICKS_PER_TTL
    topology = Topology("size", 1, ttl_ms, ticks, demand.replicas, 0, shards)
    return max(topology.shares(None).values())


class _Work(NamedTuple):
    refresh_users: float
    get_users: float
    frames: float
    cores: float


def _work(sizing: Sizing, demand: Demand, profile: Profile, nodes: int) -> _Work:
    """What so many nodes have to do: the more there are, the smaller the frames that a call is cut into."""
    shards = nodes * demand.cores_per_node
    refreshes, gets = sizing["refreshes"], sizing["gets"]
    refresh_users = _frame_users(demand.batch * demand.replicas / shards)
    get_users = _frame_users(demand.batch / shards)
    frames = refreshes / refresh_users + gets / get_users
    cores = refreshes * profile.refresh_user_s + gets * profile.get_user_s + frames * profile.frame_s
    return _Work(refresh_users, get_users, frames, cores)


def _frame_users(share: float) -> float:
    return max(1.0, min(float(limits.KEYS_PER_FRAME), share))


def _network(sizing: Sizing) -> None:
    overhead = HEADER_BYTES + BODY_BYTES
    inbound = 0.0
    parts = []
    for rate, frame in (("refreshes", "users_per_refresh_frame"), ("gets", "users_per_get_frame")):
        users = sizing[frame]
        frames = sizing[rate] / users
        request = overhead + KEY_BYTES * users
        packets = math.ceil(request / PACKET_BYTES)
        inbound += frames * 8 * (request + PACKET_HEADER_BYTES * packets)
        parts.append(
            f"{frames:,.0f} frames/s x ({overhead} + {KEY_BYTES} x {users:,.1f} + {PACKET_HEADER_BYTES} x "
            f"{packets} bytes)"
        )
    sizing.add(
        "network_in",
        inbound,
        "bit/s",
        f"8 x ({' + '.join(parts)}); headers of frame and packets; frames that share a packet need less",
        "docs/protocol.md",
    )
    nodes = sizing["nodes"]
    sizing.add("network_in_per_node", inbound / nodes, "bit/s", f"{inbound:,.0f} / {nodes:,.0f}")


def _clients(sizing: Sizing, demand: Demand, profile: Profile) -> None:
    pool = sizing.add(
        "max_connections",
        max(1.0, float(demand.connections // demand.api_servers)),
        "connections",
        f"{demand.connections:,} a node accepts / {demand.api_servers:,} API servers: the largest "
        "max_connections of a client that never fills a node",
        "limits.connections; --api-servers",
    )
    used = min(pool, 2.0)
    sizing.add(
        "connections_per_api_server",
        used * sizing["shards"],
        "connections",
        f"{used:g} (the client's default is 2) x {sizing['shards']:,.0f} shards",
    )
    sizing.add(
        "connections_per_shard",
        used * demand.api_servers,
        "connections",
        f"{used:g} x {demand.api_servers:,} API servers; a shard accepts {demand.connections:,}",
    )
    sizing.add(
        "client_cores",
        sizing["heartbeats"] / profile.client_refresh_per_core + sizing["gets"] / profile.client_get_per_core,
        "cores",
        f"{sizing['heartbeats']:,.0f} / {profile.client_refresh_per_core:,.0f} + {sizing['gets']:,.0f} / "
        f"{profile.client_get_per_core:,.0f} users/s a core, spread over all API servers",
        profile.source,
    )


def _losses(sizing: Sizing, demand: Demand) -> None:
    nodes, load = sizing["nodes"], sizing["load_of_a_core"]
    owned = demand.users * demand.replicas / nodes
    if demand.replicas > 1:
        effect = "their other owners answer; no status is lost"
    else:
        effect = f"they are unknown until their next heartbeat, at most {demand.interval_s:g} s"
    sizing.add(
        "users_of_a_lost_node",
        owned,
        "users",
        f"{demand.users:,.0f} x {demand.replicas} / {nodes:,.0f} nodes: {effect}",
        "docs/protocol.md, GET",
    )
    rest = nodes - 1
    sizing.add(
        "load_after_a_lost_node",
        load * nodes / rest if rest else math.inf,
        "of a core",
        f"{load:.2f} x {nodes:,.0f} / {rest:,.0f}, once it is taken out of the topology; before, its reads "
        "go to the other owners",
    )
    left = nodes * (demand.zones - 1) / demand.zones
    safe = demand.zones >= demand.replicas > 1
    sizing.add(
        "load_after_a_lost_zone",
        load * nodes / left if left else math.inf,
        "of a core",
        f"{load:.2f} x {nodes:,.0f} / {left:,.1f} nodes in the {demand.zones - 1} zones left; "
        + ("no status is lost: owners are in different zones" if safe else "statuses become unknown"),
        "--zones",
    )
    sizing.add(
        "recovery",
        demand.interval_s,
        "s",
        "a node that replaces another holds everybody after one heartbeat interval; until one ttl "
        f"({demand.ttl_s:g} s) has passed it says unknown, never offline, for those it does not hold",
        "docs/protocol.md, GET",
    )


def text_of(sizing: Sizing, demand: Demand, profile: Profile) -> str:
    """Figures with their arithmetic, for people."""
    lines = [
        f"{demand.users:,.0f} users, {demand.online:,.0f} online, a heartbeat each {demand.interval_s:g} s"
    ]
    lines += [f"one core: {profile.source}", ""]
    for step in sizing.steps:
        lines.append(f"{step.name.replace('_', ' '):28} {_shown(step):>16}")
        lines.append(f"    = {step.arithmetic}" + (f"  [{step.source}]" if step.source else ""))
    return "\n".join(lines)


def markdown_of(sizing: Sizing) -> str:
    """The table of ``docs/scale.md``."""
    lines = ["| | | how it comes about |", "|---|---:|---|"]
    lines += [
        f"| {step.name.replace('_', ' ')} | {_shown(step)} | {step.arithmetic} |" for step in sizing.steps
    ]
    return "\n".join(lines) + "\n"


def _shown(step: Step) -> str:
    value = step.value
    if step.unit == "bytes":
        return f"{value / 1e9:,.1f} GB"
    if step.unit == "bit/s":
        return f"{value / 1e9:,.2f} Gbit/s"
    if math.isinf(value):
        return "nothing is left"
    return f"{value:,.0f} {step.unit}" if value >= 100 or value == int(value) else f"{value:.2f} {step.unit}"


def facts_of(sizing: Sizing, demand: Demand, profile: Profile) -> Mapping[str, Any]:
    """For ``--json``."""
    return {"demand": vars(demand), "profile": vars(profile), "figures": sizing.as_dict()}
