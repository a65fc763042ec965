"""What a node tells Prometheus: one table of families, each read from plain ints when somebody asks.

Nothing here is on the way of a frame. Nodes count in plain ints and buckets that double (``stats``,
``durations``), and a scrape reads those; prometheus-client is used for its formats, not for counting. Every
label has few values, all of them known to this code, except for the name and hash of the topology, of which
there is one at a time. Nothing tells of single users.

Names: prefix, noun, base unit, ``_total`` for what only grows. ``metrics_doc`` makes the reference from
``FAMILIES``. Invariant: a scrape has every family and every label, also of a node that has done nothing, so
that a rate is never missing because nothing has happened yet.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from pulsering.wire import DATA_OPS, VERSION, ErrorCode, Op
from pulsering_server import table
from pulsering_server.durations import Durations
from pulsering_server.node import AGENT
from pulsering_server.stats import ANSWERS, OUTCOMES, TLS_FILES, Close, Cold
from pulsering_server.watch_set import CAUSES

if TYPE_CHECKING:
    from pulsering_server.listener import Listener
    from pulsering_server.node import NodeCore
    from pulsering_server.stats import Stats

__all__ = ["FAMILIES", "PREFIX", "Family", "NodeCollector", "Reading"]

PREFIX: Final = "pulsering_"

_SERVED: Final = (Op.HELLO, Op.PING, Op.HEARTBEAT, Op.LEAVE, Op.GET, Op.COUNT, Op.TOPOLOGY, Op.WATCH)

Labelled: TypeAlias = Mapping[Any, float]
Kind: TypeAlias = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class Reading(NamedTuple):
    """One look at a node: what the families are read from."""

    core: "NodeCore"
    listener: "Listener"
    stats: "Stats"
    table: dict[str, int]
    gone: dict[str, int]
    now_ms: int

    @classmethod
    def of(cls, listener: "Listener") -> "Reading":
        """Look at the node behind a listener, now."""
        core = listener.core
        table_stats, now_ms = core.table.stats(), listener.now_ms()
        return cls(core, listener, core.stats, table_stats, _gone(core), now_ms)


@dataclass(frozen=True)
class Family:
    """One metric: its name without ``PREFIX``, what it says, and where it is read.

    ``read`` gives a number, or one for each value of ``label``, or the same of ``Durations``. A histogram
    shows the buckets that end at ``2**power`` units for each of ``powers``. The ``labels`` of an information
    are all given by ``read``.
    """

    name: str
    kind: type[Kind]
    help: str
    read: Callable[[Reading], Any]
    label: str = ""
    values: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    powers: range = range(0)

    @property
    def full_name(self) -> str:
        """As it is scraped and asked for."""
        return PREFIX + self.name + ("_total" if self.kind is CounterMetricFamily else "")

    def empty(self) -> Kind:
        """The family without a sample."""
        labels = self.labels or ((self.label,) if self.label else ())
        return self.kind(PREFIX + self.name, self.help, labels=labels)

    def sampled(self, reading: Reading) -> Kind:
        """The family as it is."""
        metric, found = self.empty(), self.read(reading)
        if self.labels:
            self._add(metric, [found[label] for label in self.labels], 1)
        elif self.label:
            for value, one in found.items():
                self._add(metric, [value], one)
        else:
            self._add(metric, [], found)
        return metric

    def _add(self, metric: Kind, labels: list[str], value: float | Durations) -> None:
        if isinstance(value, Durations):
            assert isinstance(metric, HistogramMetricFamily)
            metric.add_metric(labels, self._buckets(value), sum_value=value.total / value.per_second)
        else:
            assert not isinstance(metric, HistogramMetricFamily)
            metric.add_metric(labels, value)

    def _buckets(self, durations: Durations) -> list[tuple[str, float]]:
        sums = list(accumulate(durations.buckets))
        shown = [(str((1 << power) / durations.per_second), sums[power]) for power in self.powers]
        return [*shown, ("+Inf", sums[-1])]


def _gauge(name: str, help_: str, read: Callable[[Reading], float]) -> Family:
    return Family(name, GaugeMetricFamily, help_, read)


def _counter(name: str, help_: str, read: Callable[[Reading], float]) -> Family:
    return Family(name, CounterMetricFamily, help_, read)


def _by(
    label: str, values: Iterable[str], name: str, help_: str, read: Callable[[Reading], Labelled]
) -> Family:
    """A counter for each of the values of a label."""
    return Family(name, CounterMetricFamily, help_, read, label, tuple(values))


def _information(
    name: str, help_: str, labels: tuple[str, ...], read: Callable[[Reading], Mapping[str, str]]
) -> Family:
    return Family(f"{name}_info", GaugeMetricFamily, help_, read, labels=labels)


_BELOW_A_SECOND: Final = range(10, 31)
"""From a microsecond to a second, in ns; the last bucket of ``Durations`` holds the rest."""

_BELOW_TWO_MINUTES: Final = range(18)
"""From a millisecond on, in ms."""


def _gauge_by(
    label: str, values: Iterable[str], name: str, help_: str, read: Callable[[Reading], Labelled]
) -> Family:
    return Family(name, GaugeMetricFamily, help_, read, label, tuple(values))


def _histogram(name: str, help_: str, read: Callable[[Reading], Durations], powers: range) -> Family:
    return Family(name, HistogramMetricFamily, help_, read, powers=powers)


def _by_op(counts: Mapping[int, Any], ops: Iterable[Op]) -> dict[str, Any]:
    return {op.name.lower(): counts[op] for op in ops}


def _gone(core: "NodeCore") -> dict[str, int]:
    """Of those who went offline: how many, in how many bytes, and how many for whom these did not suffice."""
    gone = core.table.last_seen
    if gone is None:
        return {"users": 0, "bytes": 0, "forgotten": 0}
    counts = gone.stats()
    forgotten = counts["forgotten_total"] + counts["crowded_total"]
    return {"users": gone.users, "bytes": gone.memory_bytes, "forgotten": forgotten}


def _load(table_stats: Mapping[str, int]) -> float:
    """How full the lines of the table are, 0 to 1."""
    return table_stats["line_entries"] / max(1, table_stats["lines"] * table_stats["line_capacity"])


def _names(ops: Iterable[Op]) -> tuple[str, ...]:
    return tuple(op.name.lower() for op in ops)


FAMILIES: Final = (
    # -- who it is -------------------------------------------------------------------------------------------
    _information(
        "build",
        "What runs: version of the node, of its protocol and of Python, and which table, native or python.",
        ("agent", "protocol", "python", "table"),
        lambda _: {
            "agent": AGENT,
            "protocol": str(VERSION),
            "python": platform.python_version(),
            "table": "native" if table.COMPILED else "python",
        },
    ),
    _information(
        "topology",
        "The topology that the node follows. All nodes of a cluster must say the same hash.",
        ("cluster", "node", "hash"),
        lambda r: {
            "cluster": r.core.topology.cluster,
            "node": r.core.name,
            "hash": f"{r.core.topology.hash:016x}",
        },
    ),
    _gauge("topology_epoch", "Epoch of the topology that the node follows.", lambda r: r.core.topology.epoch),
    _gauge("topology_nodes", "Nodes in that topology.", lambda r: len(r.core.topology.nodes)),
    _gauge(
        "slots_owned", "Slots, of 16384, that the node owns at any rank.", lambda r: r.core.ownership.slots
    ),
    # -- whether it can be asked -----------------------------------------------------------------------------
    _gauge("ready", "1 if warm, in the topology and not draining.", lambda r: not r.core.unready(r.now_ms)),
    _gauge("draining", "1 once the node was told to stop.", lambda r: r.core.draining),
    _gauge("removed", "1 if the node's own topology has no such node.", lambda r: r.core.ownership.removed),
    _gauge(
        "warmup_left_seconds",
        "For how long gets may still say unknown for users who are not held.",
        lambda r: r.core.warming_ms(r.now_ms) / 1000,
    ),
    _gauge(
        "former_topology_left_seconds",
        "For how long users may still be held under the topology before this one.",
        lambda r: r.core.ownership.needed_ms(r.now_ms) / 1000,
    ),
    # -- users -----------------------------------------------------------------------------------------------
    _gauge(
        "users_online", "Users online here, whatever the rank of this owner.", lambda r: r.core.table.online
    ),
    _gauge(
        "users_online_first",
        "Of them those whose first owner this is: added up over all nodes, every user counts once.",
        lambda r: r.core.count((), r.now_ms).online,
    ),
    _by(
        "outcome",
        OUTCOMES,
        "heartbeats",
        "Heartbeats of users: accepted; stale, too late to say anything; refused, a new user without room; "
        "moved, of a slot that is not owned.",
        lambda r: r.stats.heartbeats,
    ),
    _by("outcome", OUTCOMES, "leaves", "Leaves of users, by the same outcomes.", lambda r: r.stats.leaves),
    _by(
        "answer",
        ANSWERS,
        "gets",
        "Users asked for, by what the node said of each. Moved: of a slot that it does not own.",
        lambda r: r.stats.answers,
    ),
    _by(
        "reason",
        Cold,
        "unknown",
        "Gets answered unknown, by why the node was cold: start; stall, it stood still; clock, it could not "
        "be believed; topology, slots were gained.",
        lambda r: r.stats.unknown,
    ),
    _counter("users_expired", "Users who went offline by silence.", lambda r: r.table["expired_total"]),
    _histogram(
        "expiry_lag_seconds",
        "How much later than due the wheel was turned. Gets never wait for it; counts of users do.",
        lambda r: r.stats.expiry_lag,
        _BELOW_TWO_MINUTES,
    ),
    # -- requests --------------------------------------------------------------------------------------------
    _by(
        "op",
        (*_names(_SERVED), "unknown"),
        "requests",
        "Requests, whatever became of them.",
        lambda r: _by_op(r.stats.requests, _SERVED) | {"unknown": r.stats.requests_unknown},
    ),
    _by(
        "code",
        (code.name.lower() for code in ErrorCode),
        "refusals",
        "Errors that peers were answered with.",
        lambda r: {code.name.lower(): r.stats.errors[code] for code in ErrorCode},
    ),
    Family(
        "request_seconds",
        HistogramMetricFamily,
        "Time in the node of a request that was done, from parsing to reply.",
        lambda r: _by_op(r.stats.service, sorted(DATA_OPS)),
        "op",
        _names(sorted(DATA_OPS)),
        powers=_BELOW_A_SECOND,
    ),
    _histogram(
        "frame_age_seconds",
        "How late frames of heartbeats and leaves came, beyond the fastest of their connection.",
        lambda r: r.stats.frame_age,
        _BELOW_TWO_MINUTES,
    ),
    _counter(
        "stale_frames",
        "Frames of heartbeats and leaves that came a ttl or more after they were sent.",
        lambda r: r.stats.frames_stale,
    ),
    # -- connections -----------------------------------------------------------------------------------------
    _gauge("connections", "Open connections.", lambda r: r.stats.connections_open),
    _gauge("connections_max", "The limit on them.", lambda r: r.core.limits.connections),
    _counter("connections_accepted", "Connections accepted.", lambda r: r.stats.connections_accepted),
    _by(
        "reason",
        Close,
        "connections_closed",
        "Connections that ended, by why. Left and idle and drained are ordinary.",
        lambda r: r.stats.connections_closed,
    ),
    _gauge(
        "buffers_bytes",
        "Requests not answered and replies not read, of all connections together.",
        lambda r: r.listener.held_bytes,
    ),
    _gauge("buffers_max_bytes", "The limit on them.", lambda r: r.core.limits.buffers_bytes),
    _counter("received_bytes", "Bytes received.", lambda r: r.stats.bytes_received),
    _counter("sent_bytes", "Bytes sent.", lambda r: r.stats.bytes_sent),
    _counter(
        "output_pauses",
        "Times that a peer was not read until it had read its replies.",
        lambda r: r.stats.pauses,
    ),
    # -- the table -------------------------------------------------------------------------------------------
    _gauge("table_bytes", "Memory of the table.", lambda r: r.core.table.memory_bytes),
    _gauge("table_max_bytes", "The limit on it.", lambda r: r.core.limits.memory_bytes),
    _gauge(
        "users_max",
        "The limit on users, 0 if there is none but the memory.",
        lambda r: r.core.limits.users or 0,
    ),
    _gauge("table_load_ratio", "How full the lines of the table are.", lambda r: _load(r.table)),
    _gauge_by(
        "place",
        ("line", "annex", "ledger"),
        "table_entries",
        "Entries: in their line, beside it in the annex, or a leave that is remembered; the expired too, "
        "until they are swept.",
        lambda r: {place: r.table[f"{place}_entries"] for place in ("line", "annex", "ledger")},
    ),
    _gauge("table_resizing", "1 while the table grows or shrinks.", lambda r: r.table["migrating"]),
    _by(
        "direction",
        ("grow", "shrink"),
        "table_resizes",
        "Steps of growing or shrinking.",
        lambda r: {"grow": r.table["growth_steps"], "shrink": r.table["shrink_steps"]},
    ),
    _counter("sweep_lines", "Lines of the table swept.", lambda r: r.table["swept_lines"]),
    _counter(
        "sweep_forced_lines",
        "Lines swept by a turn of the wheel, as housekeeping had not come to them in time.",
        lambda r: r.table["forced_lines"],
    ),
    _gauge(
        "sweep_due_lines", "Lines due that housekeeping left for later.", lambda r: r.stats.sweep_lines_due
    ),
    _histogram(
        "sweep_slice_seconds",
        "Slices of housekeeping, each of which holds the loop.",
        lambda r: r.stats.sweep,
        _BELOW_A_SECOND,
    ),
    # -- who watches -----------------------------------------------------------------------------------------
    _gauge(
        "watched_users",
        "Users watched, each counted once for each connection that watches it.",
        lambda r: r.core.watchers.set.watches,
    ),
    _gauge("watched_users_max", "The limit on them.", lambda r: r.core.limits.watched_users),
    _gauge("watchers", "Connections that watch.", lambda r: len(r.core.watchers)),
    _gauge("watch_bytes", "Memory of what is watched.", lambda r: r.core.watchers.set.memory_bytes),
    _by(
        "cause",
        CAUSES,
        "watch_changes",
        "Changes of watched users, by why: none, the node became cold or warm or the slot changed its owner.",
        lambda r: dict(zip(CAUSES, r.core.watchers.set.changes, strict=True)),
    ),
    _counter(
        "watch_coalesced",
        "Changes that a connection was not told, as it had not yet read of the one before.",
        lambda r: r.core.watchers.set.coalesced,
    ),
    # -- who went offline ------------------------------------------------------------------------------------
    _gauge(
        "remembered_users",
        "Users who went offline and of whom it is known when they were last seen.",
        lambda r: r.gone["users"],
    ),
    _gauge("remembered_bytes", "Memory for that, beside the table.", lambda r: r.gone["bytes"]),
    _gauge(
        "remembered_max_bytes",
        "The limit on it; 0 if nobody is remembered.",
        lambda r: r.core.limits.last_seen_bytes if r.core.last_seen_ms else 0,
    ),
    _gauge(
        "listened_seconds",
        "For how long every heartbeat was heard and nobody was forgotten; 0 if nobody is remembered.",
        lambda r: r.core.listened_s(r.now_ms),
    ),
    _counter(
        "remembered_forgotten",
        "Users forgotten before their time, for want of memory.",
        lambda r: r.gone["forgotten"],
    ),
    # -- the machine -----------------------------------------------------------------------------------------
    _histogram(
        "loop_lag_seconds",
        "How much later than due the event loop came to a timer.",
        lambda r: r.stats.loop_lag,
        _BELOW_A_SECOND,
    ),
    _counter(
        "stalls", "Times that the node stood still so long that it became cold.", lambda r: r.stats.stalls
    ),
    _counter("stalled_seconds", "Time that it stood still then.", lambda r: r.stats.stalled_ms / 1000),
    _counter(
        "clock_suspicions",
        "Times that the clock could not be believed, and everybody was forgotten.",
        lambda r: r.stats.suspicions,
    ),
    _gauge("overloaded", "1 while requests that come late are refused.", lambda r: r.core.overload.pressed),
    _counter("overloads", "Times that this began.", lambda r: r.stats.overloads),
    _gauge("uptime_seconds", "Time since the start.", lambda r: r.core.vitals(r.now_ms).uptime_ms / 1000),
    # -- configuration ---------------------------------------------------------------------------------------
    _by(
        "outcome",
        ("loaded", "refused"),
        "config_reloads",
        "Times that the configuration was read again.",
        lambda r: {"loaded": r.stats.reloads, "refused": r.stats.reloads_refused},
    ),
    _gauge(
        "config_last_reload_successful",
        "0 if the configuration as it is now was refused, so that the node follows an older one.",
        lambda r: r.stats.reload_ok,
    ),
    _gauge(
        "topology_frozen",
        "1 while the etcd that publishes the topology cannot be reached: the node serves on as it is.",
        lambda r: r.stats.topology_frozen,
    ),
    _gauge_by(
        "file",
        TLS_FILES,
        "tls_not_after_timestamp_seconds",
        "Until when certificates hold, in Unix time: that of the node, and the first to end of the "
        "authorities of clients; 0 where there is none.",
        lambda r: r.stats.tls_ends_s,
    ),
)


class NodeCollector(Collector):
    """All families of the node behind a listener, as prometheus-client wants them."""

    def __init__(self, listener: "Listener") -> None:
        self._listener = listener

    def describe(self) -> Iterator[Metric]:
        """The families without samples."""
        return (family.empty() for family in FAMILIES)

    def collect(self) -> Iterator[Metric]:
        """The families as they are, all of one moment; called on the thread of the node's loop."""
        reading = Reading.of(self._listener)
        return (family.sampled(reading) for family in FAMILIES)
