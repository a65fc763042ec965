"""Who owns what: the cluster's nodes at one epoch, and the owners of every slot.

A topology is a value. Nodes read it from ``cluster.yaml``, clients are told it on the wire, and both compute
the same owner table from it without talking to each other, in any process and in any order of the file. The
table is made when first asked for and kept. Invariant: a ``Topology`` that exists is valid, and equal
contents have equal hashes.

Everything that another implementation must reproduce:

- A *delimited* text is its length in UTF-8 bytes as unsigned 32-bit little-endian, then those bytes. A number
  is 8 bytes, unsigned little-endian. Nodes are ordered by the UTF-8 bytes of their names.
- A node's name seed is ``xxh64(delimited name, seed = node_seed)``, with ``node_seed`` = ``xxh64(the 14 ASCII
  bytes "pulsering/node", seed = hash_seed)``. Name seeds, weights, hosts and zones rank the owners of a slot
  as ``_kernel_reference`` says. Two nodes are on one host if their ``host`` is the same text.
- The topology hash is xxh64, seed 0, of: delimited "pulsering/topology/1"; delimited cluster; the numbers
  epoch, ttl_ms, ticks_per_ttl, replicas, hash_seed, count of nodes; and for each node, in order, delimited
  name, delimited host, number weight, delimited zone. A hash of 0 counts as 1 (0 means "none yet" on the
  wire). Ports are left out: they say where a node listens, not what it answers, and a port of 0 is only known
  once it listens.

``tests/vectors/topologies.json`` holds golden vectors.
"""

import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pulsering import kernel, limits
from pulsering.ids import SLOTS

__all__ = ["NO_NODE", "Node", "Topology", "moved"]

NO_NODE = 0xFFFF
"""The node index, or group, of a slot that has none."""

_U32_MAX = 2**32 - 1
_U64_MAX = 2**64 - 1
_HOST_BYTES_MAX = 253
"""The longest DNS name."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node: its name, where it listens, its share relative to the others (1..1000), and its failure zone.

    ``host`` is a DNS name or an address without brackets. ``port`` 0 is a node that has not bound one yet. An
    empty ``zone`` puts the node in a zone of its own.
    """

    name: str
    host: str
    port: int
    weight: int = 1
    zone: str = ""

    def __post_init__(self) -> None:
        _check_text(self.name, "a node's name", 1, limits.NAME_BYTES_MAX)
        _check_text(self.host, f"host of node {self.name}", 1, _HOST_BYTES_MAX)
        _check_int(self.port, f"port of node {self.name}", 0, 65535)
        _check_int(self.weight, f"weight of node {self.name}", 1, limits.WEIGHT_MAX)
        _check_text(self.zone, f"zone of node {self.name}", 0, limits.NAME_BYTES_MAX)

    @property
    def address(self) -> str:
        """``host:port``, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Topology:
    """A cluster at one epoch. Nodes are kept in the order of their names.

    ``ttl_ms`` is how long a heartbeat counts, in milliseconds; ``ticks_per_ttl`` how finely a node divides
    that; ``replicas`` the owners of a slot; ``hash_seed`` the unsigned 64-bit seed of keys and owners.

    Raises ``ValueError`` for a field out of its range, a name or address that occurs twice, and fewer nodes
    or hosts than replicas. Loopback clusters (every host is one of this machine) may share a host, as nothing
    is at stake.
    """

    cluster: str
    epoch: int
    ttl_ms: int
    ticks_per_ttl: int
    replicas: int
    hash_seed: int
    nodes: tuple[Node, ...]
    _made: "dict[str, Any]" = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_text(self.cluster, "cluster", 1, limits.NAME_BYTES_MAX)
        _check_int(self.epoch, "epoch", 1, _U32_MAX)
        _check_int(self.ttl_ms, "ttl_ms", limits.TTL_MS_MIN, limits.TTL_MS_MAX)
        _check_int(self.ticks_per_ttl, "ticks_per_ttl", limits.TICKS_PER_TTL_MIN, limits.TICKS_PER_TTL_MAX)
        _check_int(self.replicas, "replicas", 1, limits.REPLICAS_MAX)
        _check_int(self.hash_seed, "hash_seed", 0, _U64_MAX)
        nodes = tuple(sorted(self.nodes, key=lambda node: node.name))
        object.__setattr__(self, "nodes", nodes)
        _check_nodes(nodes, self.replicas)

    def __hash__(self) -> int:
        return self.hash

    @property
    def hash(self) -> int:
        """Unsigned 64-bit hash of everything that affects an answer, compared in the handshake; never 0."""
        if "hash" not in self._made:
            self._made["hash"] = kernel.xxh64(_canonical(self), 0) or 1
        value: int = self._made["hash"]
        return value

    @property
    def owners(self) -> "array[int]":
        """The owner table, ``array('H')``: ``owners[slot * replicas + rank]`` is an index into ``nodes``."""
        if "owners" not in self._made:
            self._made["owners"] = _ranked(self)
        table: array[int] = self._made["owners"]
        return table

    def owners_of(self, slot: int) -> tuple[Node, ...]:
        """Return the owners of a slot, first the one that is asked first."""
        if not 0 <= slot < SLOTS:
            raise IndexError(f"slots are 0..{SLOTS - 1}, not {slot}")
        start = slot * self.replicas
        return tuple(self.nodes[index] for index in self.owners[start : start + self.replicas])

    def column(self, rank: int) -> "array[int]":
        """Return each slot's owner at a rank, 0..replicas-1: an ``array('H')`` of indices into ``nodes``."""
        if not 0 <= rank < self.replicas:
            raise IndexError(f"ranks are 0..{self.replicas - 1}, not {rank}")
        return self.owners[rank :: self.replicas]

    def index_of(self, node_name: str) -> int:
        """Return the index of a node in ``nodes``; ``KeyError`` if there is none of that name."""
        if "indices" not in self._made:
            self._made["indices"] = {node.name: index for index, node in enumerate(self.nodes)}
        index: int = self._made["indices"][node_name]
        return index

    def shares(self, rank: int | None = 0) -> dict[str, float]:
        """Return the share of all slots, 0..1, that each node owns at a rank, or with None at any rank.

        First owners (rank 0) follow the weights. Shares at any rank add up to ``replicas``, and no node can
        own a slot twice, so there great weights count for less.
        """
        table = self.owners if rank is None else self.column(rank)
        counts = [0] * len(self.nodes)
        for index in table:
            counts[index] += 1
        return {node.name: count / SLOTS for node, count in zip(self.nodes, counts, strict=True)}

    def groups_of(self, node_name: str) -> "tuple[array[int], list[tuple[str, ...]]]":
        """Return the counting groups of a node: its slots, divided by who owns them and in which order.

        First the group of each of the 16384 slots, ``array('H')``, 0xFFFF where the node is no owner; then
        for each group the names of its owners in order. ``KeyError`` if there is no node of that name.
        """
        mine = self.index_of(node_name)
        group_of: dict[tuple[int, ...], int] = {}
        groups = array("H", [NO_NODE]) * SLOTS
        for slot, owners in enumerate(_rows(self)):
            if mine in owners:
                groups[slot] = group_of.setdefault(owners, len(group_of))
        return groups, [tuple(self.nodes[index].name for index in owners) for owners in group_of]

    def to_wire(self) -> dict[str, Any]:
        """Return the map that TOPOLOGY carries: texts, unsigned integers, and a list with a map a node."""
        return {
            "cluster": self.cluster,
            "epoch": self.epoch,
            "ttl_ms": self.ttl_ms,
            "ticks_per_ttl": self.ticks_per_ttl,
            "replicas": self.replicas,
            "hash_seed": self.hash_seed,
            "nodes": [
                {
                    "name": node.name,
                    "host": node.host,
                    "port": node.port,
                    "weight": node.weight,
                    "zone": node.zone,
                }
                for node in self.nodes
            ],
        }

    @classmethod
    def from_wire(cls, fields: Mapping[str, Any]) -> "Topology":
        """Return the topology of a decoded TOPOLOGY body; keys it does not know are for a later version.

        Raises ``ValueError`` that names the field which is missing, of another type or out of range.
        """
        nodes = _wire_field(fields, "nodes")
        if not isinstance(nodes, Sequence) or isinstance(nodes, (str, bytes)):
            raise ValueError("nodes is not a list")
        if len(nodes) > limits.NODES_MAX:
            raise ValueError(f"{len(nodes)} nodes are more than {limits.NODES_MAX}")
        return cls(
            **{name: _wire_field(fields, name) for name in _WIRE_FIELDS},
            nodes=tuple(_node_from_wire(node) for node in nodes),
        )


def moved(old: Topology, new: Topology) -> float:
    """Return the share of slots, 0..1, whose set of owners changes; 1 if the hash seed does, as keys do."""
    if old.hash_seed != new.hash_seed:
        return 1.0
    return (
        sum(before != after for before, after in zip(_owner_sets(old), _owner_sets(new), strict=True)) / SLOTS
    )


_WIRE_FIELDS = ("cluster", "epoch", "ttl_ms", "ticks_per_ttl", "replicas", "hash_seed")
_NODE_FIELDS = ("name", "host", "port", "weight", "zone")


def _wire_field(fields: Mapping[str, Any], name: str) -> Any:
    if name not in fields:
        raise ValueError(f"{name} is missing")
    return fields[name]


def _node_from_wire(fields: object) -> Node:
    if not isinstance(fields, Mapping):
        raise ValueError(f"a node is a map, not {type(fields).__name__}")
    node = Node(**{name: _wire_field(fields, name) for name in _NODE_FIELDS})
    if node.port == 0:
        raise ValueError(f"port of node {node.name} is 0, which nobody can connect to")
    return node


def _check_text(value: object, what: str, least: int, most: int) -> None:
    """Refuse what is no text of ``least``..``most`` UTF-8 bytes, or holds what does not print in one line."""
    if not isinstance(value, str):
        raise ValueError(f"{what} is a text, not {type(value).__name__}")
    if not value.isprintable():
        raise ValueError(f"{what} has characters that do not print: {value!r}")
    if not least <= len(value.encode()) <= most:
        raise ValueError(f"{what} has {least} to {most} bytes, not {len(value.encode())}: {value[:80]!r}")


def _check_int(value: object, what: str, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{what} is an integer, not {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{what} is {least} to {most}, not {value if abs(value) < 2**70 else 'that large'}")


def _check_nodes(nodes: tuple[Node, ...], replicas: int) -> None:
    if len(nodes) > limits.NODES_MAX:
        raise ValueError(f"{len(nodes)} nodes are more than {limits.NODES_MAX}")
    if len(nodes) < replicas:
        raise ValueError(f"{replicas} replicas need at least as many nodes, and there are {len(nodes)}")
    names: set[str] = set()
    addresses: dict[tuple[str, int], str] = {}
    for node in nodes:
        if node.name in names:
            raise ValueError(f"two nodes have the name {node.name}")
        names.add(node.name)
        if node.port and (node.host, node.port) in addresses:
            raise ValueError(
                f"nodes {addresses[node.host, node.port]} and {node.name} have the address {node.address}"
            )
        addresses[node.host, node.port] = node.name
    hosts = {node.host for node in nodes}
    if len(hosts) < replicas and not all(_is_loopback(host) for host in hosts):
        raise ValueError(
            f"{replicas} replicas need as many hosts, and there are {len(hosts)}; "
            "only a loopback cluster may share one"
        )


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _delimited(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<I", len(encoded)) + encoded


def _canonical(topology: Topology) -> bytes:
    return b"".join(
        (
            _delimited("pulsering/topology/1"),
            _delimited(topology.cluster),
            struct.pack(
                "<6Q",
                topology.epoch,
                topology.ttl_ms,
                topology.ticks_per_ttl,
                topology.replicas,
                topology.hash_seed,
                len(topology.nodes),
            ),
            *(
                _delimited(node.name)
                + _delimited(node.host)
                + struct.pack("<Q", node.weight)
                + _delimited(node.zone)
                for node in topology.nodes
            ),
        )
    )


def _ranked(topology: Topology) -> "array[int]":
    node_seed = kernel.xxh64(b"pulsering/node", topology.hash_seed)
    hosts: dict[str, int] = {}
    zones = {"": 0}
    return kernel.rank_owners(
        array("Q", [kernel.xxh64(_delimited(node.name), node_seed) for node in topology.nodes]),
        array("I", [node.weight for node in topology.nodes]),
        array("H", [hosts.setdefault(node.host, len(hosts)) for node in topology.nodes]),
        array("H", [zones.setdefault(node.zone, len(zones)) for node in topology.nodes]),
        topology.replicas,
    )


def _rows(topology: Topology) -> "zip[tuple[int, ...]]":
    """The owners of each slot in turn, as tuples of node indices."""
    return zip(*(topology.column(rank) for rank in range(topology.replicas)), strict=True)


def _owner_sets(topology: Topology) -> list[frozenset[str]]:
    names = [node.name for node in topology.nodes]
    return [frozenset(names[index] for index in owners) for owners in _rows(topology)]
