"""``cores: 16`` on a node: one process a core, each a node of the topology of its own.

A process runs Python on one core, so a machine with many runs many, and clients talk to each: ``a`` with
``cores: 16`` at port 7400 is the nodes ``a-0`` to ``a-15`` at ports 7400 to 7415, on the same host and in the
same zone, each with the weight that the file gives. A node with one core keeps its name. The names place
users, so another number of cores moves them, as adding and removing nodes does.

``limits`` are of the whole node; its cores share them equally. Checked here: that the names and addresses
that come of it clash with nobody's, that they fit, and that each share is enough to serve with.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from pulsering import limits
from pulsering_server.config_document import Document
from pulsering_server.config_errors import Problem
from pulsering_server.config_schema import (
    BUFFERS_BYTES_MIN,
    CORES_MAX,
    LAST_SEEN_BYTES_MIN,
    MEMORY_BYTES_MIN,
    LimitsConfig,
    NodeConfig,
)
from pulsering_server.config_values import PORT_MAX, Address, parse_address
from pulsering_server.units import format_size

__all__ = ["Shard", "core_problems", "shards_of", "share_of", "share_problems"]


class Shard(NamedTuple):
    """One core of a node: a node of the topology, and a process."""

    name: str
    address: Address
    node: NodeConfig
    admin: Address | None = None
    """Where it answers HTTP, if it does; port 0 is any free one."""


def shard_name(node_name: str, core: int, cores: int) -> str:
    """What a core is called; the only one of a node, as the node."""
    return node_name if cores == 1 else f"{node_name}-{core}"


def shards_of(node: NodeConfig) -> tuple[Shard, ...]:
    """Return the cores of a node, in the order of their ports."""
    return tuple(
        Shard(
            shard_name(node.name, core, node.cores),
            _at_core(node.address, core),
            node,
            None if node.admin is None else _at_core(node.admin, core),
        )
        for core in range(node.cores)
    )


def _at_core(first: Address, core: int) -> Address:
    return Address(first.host, first.port + core if first.port else 0)


def share_of(limit: LimitsConfig, cores: int) -> LimitsConfig:
    """Return what each core may use of what its node may; bounds of a connection are the same for all."""
    if cores == 1:
        return limit
    return limit.model_copy(
        update={
            "memory_bytes": limit.memory_bytes // cores,
            "users": None if limit.users is None else limit.users // cores,
            "connections": limit.connections // cores,
            "watched_users": limit.watched_users // cores,
            "buffers_bytes": limit.buffers_bytes // cores,
            "last_seen_bytes": limit.last_seen_bytes // cores,
        }
    )


class _Many(NamedTuple):
    """A node of several cores, as far as it is valid by itself."""

    place: int
    name: str
    address: Address
    cores: int


def core_problems(document: Document, nodes: list[Any]) -> Iterator[Problem]:
    """Yield what is wrong between the cores of nodes, their names, ports and each other."""
    names: dict[str, int] = {}
    addresses: dict[Address, tuple[str, int]] = {}
    several: list[_Many] = []
    for index, node in enumerate(nodes):
        if not isinstance(node, dict):
            continue
        name, cores = node.get("name"), cores_of(node)
        if not isinstance(name, str):
            continue
        names.setdefault(name, index)
        try:
            address = parse_address(node.get("address"))
        except ValueError:
            continue
        addresses.setdefault(address, (name, index))
        if cores > 1:
            several.append(_Many(index, name, address, cores))
    for many in several:
        yield from _name_problems(document, many, names)
        yield from _address_problems(document, many, addresses)
    total = sum(cores_of(node) for node in nodes)
    if len(nodes) <= limits.NODES_MAX < total:
        message = (
            f"nodes: {total} cores in all, each a node to its clients: must be at most {limits.NODES_MAX}"
        )
        yield document.problem(message, document.nearest(("nodes",)))


def cores_of(node: object) -> int:
    """Return the cores of an unchecked entry; 1 where the file says nothing that can be used."""
    cores = node.get("cores", 1) if isinstance(node, dict) else 1
    return cores if type(cores) is int and 1 <= cores <= CORES_MAX else 1


def _name_problems(document: Document, many: _Many, names: dict[str, int]) -> Iterator[Problem]:
    path = f"nodes[{many.place}].name"
    position = document.nearest(("nodes", many.place, "name"))
    last = shard_name(many.name, many.cores - 1, many.cores)
    if len(many.name) <= limits.NAME_BYTES_MAX < len(last):
        message = (
            f"{path}: too long for {many.cores} cores: the last would be '{last}', of {len(last)} letters"
        )
        yield document.problem(f"{message}; at most {limits.NAME_BYTES_MAX}", position)
    for core in range(many.cores):
        name = shard_name(many.name, core, many.cores)
        if name in names:
            line = document.values["nodes", names[name], "name"].line
            message = f"{path}: core {core} of '{many.name}' is named '{name}', as is the node on line {line}"
            yield document.problem(message, position)


def _address_problems(
    document: Document, many: _Many, addresses: dict[Address, tuple[str, int]]
) -> Iterator[Problem]:
    path = f"nodes[{many.place}].cores"
    position = document.nearest(("nodes", many.place, "cores"))
    host, port = many.address
    if port + many.cores - 1 > PORT_MAX:
        message = f"{path}: {many.cores} cores from port {port} on end at {port + many.cores - 1}"
        yield document.problem(f"{message}: must be at most {PORT_MAX}", position)
    for core in range(1, many.cores):
        address = Address(host, port + core)
        name, index = addresses.setdefault(address, (many.name, many.place))
        if index != many.place:
            line = document.values["nodes", index, "address"].line
            message = f"{path}: core {core} of '{many.name}' listens on {address}"
            yield document.problem(f"{message}, which is of node '{name}' (line {line})", position)
            return


def share_problems(document: Document, limit: LimitsConfig, nodes: list[Any]) -> Iterator[Problem]:
    """Yield the limits of which a core of some node gets too little."""
    cores = max(map(cores_of, nodes), default=1)
    if cores == 1:
        return
    share = share_of(limit, cores)
    root: Any = document.root
    remembers = root.get("last_seen") is not None
    for key, value, least, shown in (
        ("memory", share.memory_bytes, MEMORY_BYTES_MIN, format_size(MEMORY_BYTES_MIN)),
        ("users", 1 if share.users is None else share.users, 1, "1"),
        ("connections", share.connections, 1, "1"),
        ("watched_users", share.watched_users, 1, "1"),
        ("buffers", share.buffers_bytes, BUFFERS_BYTES_MIN, format_size(BUFFERS_BYTES_MIN)),
        (
            "last_seen",
            share.last_seen_bytes if remembers else LAST_SEEN_BYTES_MIN,
            LAST_SEEN_BYTES_MIN,
            format_size(LAST_SEEN_BYTES_MIN),
        ),
    ):
        if value < least:
            message = (
                f"limits.{key}: shared by the {cores} cores of a node, less than {shown} is left for each"
            )
            yield document.problem(message, document.nearest(("limits", key)))
