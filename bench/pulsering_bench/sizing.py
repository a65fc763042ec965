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

__all__ = ["Demand", "Profile", "Sizing", "Step", "load_profile", "size_of"]

HEADER_BYTES: Final = 16
BODY_BYTES: Final = 10
"""Around the keys of a request, and about as much in a reply: array, epoch, argument, ext header."""

PACKET_BYTES: Final = 1448
"""Payload of a TCP segment in an Ethernet frame of 1500 with timestamps; 66 bytes of headers come on top."""

PACKET_HEADER_BYTES: Final = 66
KEY_BYTES: Final = 8
STATE_BITS: Final = 2
PARALLEL: Final = 60
"""Percent of a core that is planned with; the rest is for peaks, recovery and the sweep."""

MEMORY: Final = 80
"""Percent of a machine's memory that is planned with; the rest is for buffers, the kernel and growth steps."""


@dataclass(frozen=True)
class Profile:
    """What one core does, and where that was measured."""

    refresh_per_core: float
    get_per_core: float
    bytes_per_user: float
    client_refresh_per_core: float
    client_get_per_core: float
    source: str


PLANNED: Final = Profile(
    refresh_per_core=12e6,
    get_per_core=10e6,
    bytes_per_user=8.0,
    client_refresh_per_core=8e6,
    client_get_per_core=6e6,
    source="the plan (conservative, at 10^9 users on one core); measure yours: pulsering bench compare --json",
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
        return Profile(
            refresh_per_core=float(ours["raw"]["refresh"]["users_per_server_cpu_s"]),
            get_per_core=min(
                float(ours["raw"][name]["users_per_server_cpu_s"]) for name in ("get_hits", "get_half")
            ),
            bytes_per_user=float(ours["bytes_per_user"]),
            client_refresh_per_core=float(ours["client"]["refresh"]["users_per_caller_cpu_s"]),
            client_get_per_core=float(ours["client"]["get_half"]["users_per_caller_cpu_s"]),
            source=f"{path.name}: {machine['date'][:10]}, {machine['cpu']}, {results['work']['users']:,} users",
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no profile ({type(error).__name__}: {error}); make one with "
            "'pulsering bench compare --json > measured.json'"
        ) from None


def size_of(demand: Demand, profile: Profile) -> Sizing:
    """Everything, step by step."""
    sizing = Sizing()
    _load(sizing, demand)
    _nodes(sizing, demand, profile)
    _network(sizing, demand)
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
    share = PARALLEL / 100
    refresh_cores = sizing["refreshes"] / profile.refresh_per_core
    get_cores = sizing["gets"] / profile.get_per_core
    cores = sizing.add(
        "cores",
        math.ceil((refresh_cores + get_cores) / share),
        "cores",
        f"({sizing['refreshes']:,.0f} / {profile.refresh_per_core:,.0f} + {sizing['gets']:,.0f} / "
        f"{profile.get_per_core:,.0f} users/s a core) / {share:g} planned share of a core",
        profile.source,
    )
    memory = sizing.add(
        "memory",
        demand.users * demand.replicas * profile.bytes_per_user,
        "bytes",
        f"{demand.users:,.0f} users x {demand.replicas} replicas x {profile.bytes_per_user:.2f} bytes",
        profile.source,
    )
    by_cores = math.ceil(cores / demand.cores_per_node)
    by_memory = math.ceil(memory / (demand.memory_bytes * MEMORY / 100))
    nodes = sizing.add(
        "nodes",
        max(by_cores, by_memory, demand.replicas),
        "machines",
        f"the largest of {cores:,.0f} cores / {demand.cores_per_node} = {by_cores}, {memory / 1e9:,.1f} GB / "
        f"({demand.memory_bytes / 1e9:g} GB x {MEMORY} %) = {by_memory}, and {demand.replicas} replicas",
        "--cores-per-node, --memory",
    )
    shards = sizing.add(
        "shards",
        nodes * demand.cores_per_node,
        "processes",
        f"{nodes:,.0f} nodes x {demand.cores_per_node} cores: one process a core",
        "docs/node.md",
    )
    sizing.add(
        "users_per_shard",
        demand.users * demand.replicas / shards,
        "users",
        f"{demand.users:,.0f} x {demand.replicas} / {shards:,.0f}",
    )
    sizing.add(
        "load_of_a_core",
        (refresh_cores + get_cores) / shards,
        "of a core",
        f"({refresh_cores:.2f} + {get_cores:.2f}) cores of work / {shards:,.0f} shards",
    )


def _network(sizing: Sizing, demand: Demand) -> None:
    """A call is cut by owner: each node gets its share of the batch, in one frame a shard."""
    shards = sizing["shards"]
    per_frame = sizing.add(
        "users_per_frame",
        max(1.0, min(limits.KEYS_PER_FRAME, demand.batch / shards)),
        "users",
        f"{demand.batch} users of a call spread over {shards:,.0f} shards, at least 1, at most "
        f"{limits.KEYS_PER_FRAME:,}",
        "--batch; pulsering.limits",
    )
    frames = sizing.add(
        "frames",
        (sizing["refreshes"] + sizing["gets"]) / per_frame,
        "frames/s",
        f"({sizing['refreshes']:,.0f} + {sizing['gets']:,.0f} users/s) / {per_frame:,.1f}",
    )
    sizing.add("frames_per_shard", frames / shards, "frames/s", f"{frames:,.0f} / {shards:,.0f}")
    overhead = HEADER_BYTES + BODY_BYTES
    request = overhead + KEY_BYTES * per_frame
    wire = request + PACKET_HEADER_BYTES * math.ceil(request / PACKET_BYTES)
    inbound = sizing.add(
        "network_in",
        frames * wire * 8,
        "bit/s",
        f"{frames:,.0f} frames/s x ({overhead} + {KEY_BYTES} x {per_frame:,.1f} bytes, {PACKET_HEADER_BYTES} a "
        "packet) x 8; frames that share a packet need less",
        "docs/protocol.md",
    )
    sizing.add(
        "network_in_per_node", inbound / sizing["nodes"], "bit/s", f"{inbound:,.0f} / {sizing['nodes']:,.0f}"
    )


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
        f"{load:.2f} x {nodes:,.0f} / {rest:,.0f}, once it is taken out of the topology; before, its reads go to "
        "the other owners and its writes nowhere",
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
    for step in sizing.steps:
        lines.append(f"| {step.name.replace('_', ' ')} | {_shown(step)} | {step.arithmetic} |")
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
