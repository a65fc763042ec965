"""What may be meant as it stands in a valid file, and should not surprise anybody at night: warnings.

Some of the file (zones too few or half used, shares that differ from the weights, nodes that anybody may ask,
tokens that travel readable), two of the machine it is checked on, which may not be the one it is for (file
descriptors, memory), and some of files it names (certificates that end soon, or are for other hosts). Pure
but for those files: the machine is told, its time included. Not part of loading, as shares take the whole
owner table.
"""

import resource
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from pulsering import limits
from pulsering_server import clock
from pulsering_server.config import ClusterConfig, Reading
from pulsering_server.config_admin import is_loopback
from pulsering_server.config_cores import shards_of
from pulsering_server.config_errors import Problem, in_file_order
from pulsering_server.config_files import covers_one_of, ends_soon, open_to_all
from pulsering_server.units import about_size

__all__ = ["Machine", "advise", "memory_of_group", "this_machine"]

SHARE_DEVIATION_MAX: Final = 0.10
"""Of a node's share of users from what its weight says. Up to ten nodes differ by half of that by chance."""
SHARES_SHOWN_MAX: Final = 5


class Machine(NamedTuple):
    """What a node may use where the file is checked; None where nobody can tell, or there is no limit."""

    files_max: int | None
    memory_bytes: int | None
    now: datetime | None = None
    """None: dates are of no interest, and the files that have them are not looked at."""


def this_machine() -> Machine:
    """Return the limits of this process and of the machine or container that it runs in."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = [bytes_ for bytes_ in (_memory_of_machine(), memory_of_group()) if bytes_ is not None]
    files_max = None if hard == resource.RLIM_INFINITY else hard
    return Machine(files_max, min(found, default=None), clock.utc())


def advise(reading: Reading, machine: Machine) -> tuple[Problem, ...]:
    """Return all warnings about a valid file, in the order of its lines."""
    return in_file_order(
        (
            *_zone_advice(reading),
            *_share_advice(reading),
            *_file_advice(reading, machine),
            *_memory_advice(reading, machine),
            *_door_advice(reading),
            *_certificate_advice(reading, machine),
        )
    )


def _zone_advice(reading: Reading) -> Iterator[Problem]:
    nodes, replicas = reading.config.nodes, reading.config.replicas
    zones = {node.zone for node in nodes if node.zone}
    without = [index for index, node in enumerate(nodes) if not node.zone]
    if not zones:
        return
    for index in without:
        message = f"nodes[{index}]: no zone, while other nodes have one: it counts as a zone of its own"
        yield _warning(reading, ("nodes", index), message)
    count = len(zones) + len(without)
    if replicas > count:
        message = (
            f"replicas: {replicas} in {count} zone{'s' if count > 1 else ''}: users have two or more in one"
        )
        yield _warning(reading, ("replicas",), f"{message}, and lose them together")


class _Share(NamedTuple):
    """What a node holds of all users, and what its weight says, 0..1; the latter can be more than there
    is."""

    name: str
    held: float
    fair: float

    @property
    def deviation(self) -> float:
        return self.held / self.fair - 1


def _shares(config: ClusterConfig) -> list[_Share]:
    held = config.topology().shares(rank=None)
    total = sum(node.weight * node.cores for node in config.nodes)
    return [
        _Share(
            node.name,
            sum(held[shard.name] for shard in shards_of(node)),
            config.replicas * node.weight * node.cores / total,
        )
        for node in config.nodes
    ]


def _off(shares: list[_Share]) -> list[_Share]:
    found = [share for share in shares if abs(share.deviation) > SHARE_DEVIATION_MAX]
    return sorted(found, key=lambda share: (-abs(share.deviation), share.name))


def _share_advice(reading: Reading) -> Iterator[Problem]:
    shares = _shares(reading.config)
    off = _off(shares)
    if not off:
        return
    named = ", ".join(
        f"{share.name} {100 * share.held:.3g}% instead of {100 * share.fair:.3g}%"
        for share in off[:SHARES_SHOWN_MAX]
    )
    more = f" and {len(off) - SHARES_SHOWN_MAX} more" if len(off) > SHARES_SHOWN_MAX else ""
    message = (
        f"nodes: the share of the users is over {SHARE_DEVIATION_MAX:.0%} off the weight at {len(off)} of"
        f" {len(shares)} nodes, as {_why(reading.config, off)}: {named}{more}"
    )
    yield _warning(reading, ("nodes",), message)


def _why(config: ClusterConfig, off: list[_Share]) -> str:
    """Return what the shares come from: that without which the worst of them is not half as bad."""

    def worst_with(changes: dict[str, object]) -> float:
        nodes = tuple(node.model_copy(update=changes) for node in config.nodes)
        changed = _off(_shares(config.model_copy(update={"nodes": nodes})))
        return abs(changed[0].deviation) if changed else 0.0

    half = abs(off[0].deviation) / 2
    if worst_with({"zone": ""}) < half:
        return "replicas go to different zones, and a node of a small zone holds more"
    if worst_with({"weight": 1, "cores": 1}) < half:
        return "no node holds a user twice, and a greater weight counts for less"
    return "chance has it in clusters of many nodes (leave them memory for it)"


def _file_advice(reading: Reading, machine: Machine) -> Iterator[Problem]:
    config = reading.config
    connections = max(config.limits_of(shard).connections for shard in config.shards)
    needed = connections + limits.FILES_RESERVED
    if machine.files_max is not None and machine.files_max < needed:
        message = (
            f"limits.connections: {connections} connections of a process and {limits.FILES_RESERVED} files in"
            f" reserve need {needed} file descriptors, but on this machine it may open {machine.files_max}:"
            " 'pulsering serve' would refuse to start here (ulimit -Hn, LimitNOFILE=)"
        )
        yield _warning(reading, ("limits", "connections"), message)


def _memory_advice(reading: Reading, machine: Machine) -> Iterator[Problem]:
    """Nodes on loopback share one machine; of all others each has its own."""
    config = reading.config
    here = max(1, sum(is_loopback(node.address.host) for node in config.nodes))
    table, buffers = config.limits.memory_bytes, config.limits.buffers_bytes
    table += config.limits.last_seen_bytes if config.last_seen_ms is not None else 0
    needed = here * (table + buffers)
    if machine.memory_bytes is not None and machine.memory_bytes < needed:
        each = "" if here == 1 else f" for each of {here} nodes"
        message = (
            f"limits.memory: {about_size(table)} and {about_size(buffers)} of buffers{each} are"
            f" {about_size(needed)}, but this machine has {about_size(machine.memory_bytes)}:"
            " full nodes would be killed here"
        )
        yield _warning(reading, ("limits", "memory"), message)


def _door_advice(reading: Reading) -> Iterator[Problem]:
    """Who may come in, and whether others can read along."""
    config = reading.config
    exposed = [node.name for node in config.nodes if not is_loopback(node.address.host)]
    if not exposed:
        return
    if open_to_all(config) and not config.auth.insecure_no_token:
        more = f" and {len(exposed) - 1} more" if len(exposed) > 1 else ""
        message = (
            f"auth: {exposed[0]}{more} would let in whoever reaches the port, so 'pulsering serve' refuses to"
            " listen there (auth.token_file, or tls.client_ca, or auth.insecure_no_token: true)"
        )
        yield _warning(reading, ("auth",), message)
    if config.auth.token_file is not None and config.tls.certificate is None:
        message = "auth.token_file: without tls, tokens can be read by whoever is on the way"
        yield _warning(reading, ("auth", "token_file"), message)


def _certificate_advice(reading: Reading, machine: Machine) -> Iterator[Problem]:
    config = reading.config
    if machine.now is None or config.tls.certificate is None:
        return
    directory = Path(reading.file).parent
    yield from ends_soon(reading.document, directory, machine.now)
    hosts = sorted({node.address.host for node in config.nodes})
    if not covers_one_of(config.tls, directory, hosts, machine.now):
        some = ", ".join(hosts[:3]) + (", …" if len(hosts) > 3 else "")
        message = (
            f"tls.certificate: {config.tls.certificate}: for none of the hosts in 'nodes' ({some}), so"
            " clients refuse it"
        )
        yield _warning(reading, ("tls", "certificate"), message)


def _warning(reading: Reading, path: tuple[str | int, ...], message: str) -> Problem:
    """A warning at the key, or the closest around it; at no line if the file says nothing of the kind."""
    document = reading.document
    if path not in document.values and path[:1] not in document.values:
        return Problem(message, warning=True)
    return document.problem(message, document.nearest(path), warning=True)


def _memory_of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemTotal:")), None)


def memory_of_group(
    root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")
) -> int | None:
    """The least that the cgroups (v2) around this process allow."""
    try:
        group = next(line[3:] for line in process.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    found = []
    at = root / group.strip().lstrip("/")
    for folder in (at, *at.parents):
        try:
            text = (folder / "memory.max").read_text().strip()
        except OSError:
            text = "max"
        found += [] if text == "max" else [int(text)]
        if folder == root:
            break
    return min(found, default=None)
