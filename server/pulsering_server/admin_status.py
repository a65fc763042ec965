"""The documents of the admin port: what a node is and does, and who is connected, as plain JSON values.

Made on the control plane from what the node counts anyway. Names are snake_case and carry their unit, as in
every JSON document of ours. Invariant: no user id is in any of them, and text that a peer gave is escaped.
"""

import asyncio
import heapq
from typing import TYPE_CHECKING, Any, Final

from pulsering.wire import VERSION, ErrorCode, Op
from pulsering_server import clock
from pulsering_server.admin_recent import Recent
from pulsering_server.logs import printable
from pulsering_server.node import AGENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from pulsering.topology import Topology
    from pulsering_server.config import ClusterConfig
    from pulsering_server.config_watch import ConfigWatch
    from pulsering_server.connection import Connection
    from pulsering_server.listener import Listener

__all__ = ["SORTS", "StatusPage", "connections"]

ROWS_AT_ONCE: Final = 500
"""Connections looked at before the loop has its turn: well below a millisecond."""

SORTS: Final["dict[str, Callable[[Connection], int]]"] = {
    "received": lambda connection: connection.bytes_received,
    "sent": lambda connection: connection.bytes_sent,
    "held": lambda connection: connection.held_bytes,
    "age": lambda connection: -connection.since_ms,
}


class StatusPage:
    """The status of the node behind ``listener``; ``watch`` is that of its configuration, if it has one."""

    def __init__(
        self,
        listener: "Listener",
        recent: Recent,
        config: "ClusterConfig",
        watch: "ConfigWatch | None" = None,
    ) -> None:
        self._listener = listener
        self._core = listener.core
        self._recent = recent
        self._config = config
        self._watch = watch
        self._nodes_of: Topology | None = None
        self._nodes: list[dict[str, Any]] = []

    def document(self) -> dict[str, Any]:
        """All of it, as it is now."""
        core, now_ms = self._core, self._listener.now_ms()
        topology, stats, vitals = core.topology, core.stats, core.vitals(now_ms)
        recent = self._recent.now(now_ms)
        own = next((node for node in self.nodes() if node["name"] == core.name), None)
        unready = core.unready(now_ms)
        return {
            "node": core.name,
            "cluster": topology.cluster,
            "agent": AGENT,
            "protocol": VERSION,
            "boot_id": f"{core.boot_id:016x}",
            "uptime_ms": vitals.uptime_ms,
            "ready": not unready,
            "unready": unready or None,
            "draining": core.draining,
            "removed": vitals.removed,
            "needed_ms": vitals.needed_ms,
            "warming_ms": vitals.warming_ms,
            "cold": str(stats.cold),
            "overloaded": core.overload.pressed,
            "epoch": topology.epoch,
            "topology_hash": f"{topology.hash:016x}",
            "ttl_ms": topology.ttl_ms,
            "tick_ms": core.tick_ms,
            "replicas": topology.replicas,
            "share": own["share"] if own else 0.0,
            "share_first": own["share_first"] if own else 0.0,
            "slots": core.ownership.slots,
            "users": vitals.users,
            "users_first": core.count((), now_ms).online,
            "rates": {name: value for name, value in recent.items() if name.endswith("_per_s")},
            "latency_ms": recent["latency_ms"],
            "span_ms": recent["span_ms"],
            "heartbeats": dict(stats.heartbeats),
            "leaves": dict(stats.leaves),
            "gets": dict(stats.answers),
            "unknown": {str(reason): count for reason, count in stats.unknown.items()},
            "requests": {Op(op).name.lower(): count for op, count in stats.requests.items() if count},
            "refusals": {ErrorCode(code).name.lower(): n for code, n in stats.errors.items() if n},
            "stale_frames": stats.frames_stale,
            "stalls": stats.stalls,
            "stalled_ms": stats.stalled_ms,
            "clock_suspicions": stats.suspicions,
            "overloads": stats.overloads,
            "table": self._table(),
            "connections": {
                "open": stats.connections_open,
                "max": core.limits.connections,
                "accepted": stats.connections_accepted,
                "closed": {str(why): count for why, count in stats.connections_closed.items() if count},
                "held_bytes": self._listener.held_bytes,
                "held_max_bytes": core.limits.buffers_bytes,
                "received_bytes": stats.bytes_received,
                "sent_bytes": stats.bytes_sent,
                "pauses": stats.pauses,
            },
            "config": {
                "file": str(self._watch.path) if self._watch is not None else None,
                "reloads": stats.reloads,
                "refused": stats.reloads_refused,
                "last_reload_ok": stats.reload_ok,
                "problems": list(self._watch.problems) if self._watch is not None else [],
                "topology_frozen": stats.topology_frozen,
            },
            "tls": {f"{name}_left_ms": _left_ms(end_s) for name, end_s in stats.tls_ends_s.items()},
            "nodes": self.nodes(),
            "events": [
                {"event": event.name, "ago_ms": now_ms - at_ms, **event.fields} for at_ms, event in core.past
            ],
            "history": self._recent.rows(now_ms),
        }

    def _table(self) -> dict[str, Any]:
        core = self._core
        found = core.table.stats()
        room = found["lines"] * found["line_capacity"]
        return {
            "memory_bytes": core.table.memory_bytes,
            "memory_max_bytes": core.limits.memory_bytes,
            "users_max": core.limits.users,
            "entries": core.table.entries,
            "load": round(found["line_entries"] / room, 4) if room else 0.0,
            "sweep_lines_due": core.counters.sweep_lines_due,
            **found,
        }

    def nodes(self) -> list[dict[str, Any]]:
        """All nodes of the topology, with their shares of the users; reckoned once for each topology."""
        topology = self._core.topology
        if self._nodes_of is not topology:
            config = self._watch.config if self._watch is not None else self._config
            admins = {shard.name: shard.admin for shard in config.shards}
            services = {shard.name: shard.node.name for shard in config.shards}
            first, held = topology.shares(), topology.shares(None)
            self._nodes = [
                {
                    "name": node.name,
                    "service": services.get(node.name, node.name),
                    "address": node.address,
                    "zone": node.zone,
                    "weight": node.weight,
                    "share_first": round(first[node.name], 6),
                    "share": round(held[node.name], 6),
                    "admin": str(admin) if (admin := admins.get(node.name)) else None,
                }
                for node in topology.nodes
            ]
            self._nodes_of = topology
        return self._nodes


def _left_ms(end_s: int) -> int | None:
    """Until a certificate ends, 0 once it has; None if there is none."""
    return max(0, round((end_s - clock.utc().timestamp()) * 1000)) if end_s else None


async def connections(listener: "Listener", sort: str, limit: int) -> dict[str, Any]:
    """The ``limit`` connections that are first by ``sort``, one of ``SORTS``; the loop has its turns."""
    key = SORTS[sort]
    first: list[Connection] = []
    those = listener.connections
    for start in range(0, len(those), ROWS_AT_ONCE):
        first = heapq.nlargest(limit, [*first, *those[start : start + ROWS_AT_ONCE]], key)
        await asyncio.sleep(0)
    now_ms = listener.now_ms()
    return {
        "node": listener.core.name,
        "open": len(those),
        "sort": sort,
        "connections": [
            {
                "peer": connection.peer,
                "client": printable(connection.agent),
                "age_ms": now_ms - connection.since_ms,
                "received_bytes": connection.bytes_received,
                "sent_bytes": connection.bytes_sent,
                "in_flight": connection.in_flight,
                "held_bytes": connection.held_bytes,
                "paused": connection.paused,
            }
            for connection in first
        ],
    }
