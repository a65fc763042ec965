"""What a client tells OpenTelemetry: a few metrics, under the names the conventions give database clients.

An operation is a call as it is sent: one ``heartbeat_many`` is one, and so are all single-id calls that
shared a turn of the loop. So a measurement costs once a batch and never once a heartbeat; there are no spans.
Invariant: no attribute holds a user id or anything else that grows with users; a client without telemetry
never imports this, nor OpenTelemetry.
"""

import asyncio
import time
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider

from pulsering._calls import Call
from pulsering._count_call import CountCall
from pulsering._read_call import ReadCall
from pulsering._write_call import WriteCall
from pulsering.errors import PresenceError
from pulsering.status import Status

if TYPE_CHECKING:
    from pulsering._cluster import Cluster
    from pulsering._driver import Driver, Run
    from pulsering.url import Address

__all__ = ["Telemetry", "telemetry_for"]

SYSTEM: Final = "pulsering"
BUCKETS_S: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""The default deadline is 0.25 s, a good answer takes less than a millisecond."""

_POOL: Final = "db.client.connection.pool.name"
_STATE: Final = "db.client.connection.state"


def telemetry_for(given: "bool | MeterProvider") -> "Telemetry":
    """The instruments of a meter provider, made once each; True is the global provider."""
    provider = given if isinstance(given, MeterProvider) else get_meter_provider()
    telemetry = _telemetries.get(provider)
    if telemetry is None:
        telemetry = _telemetries[provider] = Telemetry(provider)
    return telemetry


class Telemetry:
    """The instruments of one meter provider, shared by the clients that use it."""

    def __init__(self, provider: MeterProvider) -> None:
        meter = provider.get_meter("pulsering", version("pulsering"))
        self._duration = meter.create_histogram(
            "db.client.operation.duration",
            "s",
            "Duration of calls, retries included; calls sent together count once.",
            explicit_bucket_boundaries_advisory=BUCKETS_S,
        )
        self._users = meter.create_counter(
            "pulsering.client.users",
            "{user}",
            "Users asked about or reported, by outcome.",
        )
        self._create_time = meter.create_histogram(
            "db.client.connection.create_time",
            "s",
            "Time to connect to a node, handshake included.",
            explicit_bucket_boundaries_advisory=BUCKETS_S,
        )
        self._clusters: weakref.WeakSet[Cluster] = weakref.WeakSet()
        meter.create_observable_up_down_counter(
            "db.client.connection.count",
            [self._connections],
            "{connection}",
            "Connections that are up; used are those with requests under way.",
        )
        meter.create_observable_up_down_counter(
            "db.client.connection.max",
            [self._connections_max],
            "{connection}",
            "Connections that may be held to a node.",
        )

    def watch(self, cluster: "Cluster", driver: "Driver", loop: asyncio.AbstractEventLoop) -> None:
        """Measure the calls of a driver and the connections of its cluster."""
        self._clusters.add(cluster)
        driver.on_call_end = partial(self._on_call_end, cluster.topology.cluster, loop)

    def on_dialed(self, address: "Address", seconds: float) -> None:
        """A connection was made."""
        self._create_time.record(seconds, {_POOL: str(address)})

    def _on_call_end(self, cluster: str, loop: asyncio.AbstractEventLoop, run: "Run") -> None:
        call = run.call
        attributes = {
            "db.system.name": SYSTEM,
            "db.namespace": cluster,
            "db.operation.name": call.op.name,
        }
        if run.error is None and not call.done:
            failure = asyncio.CancelledError.__name__
        else:
            error = run.error or _failure_of(call, loop.time())
            failure = type(error).__name__ if error is not None else ""
        measured = {**attributes, "error.type": failure} if failure else attributes
        self._duration.record(time.perf_counter() - run.began, measured)
        for outcome, users in _outcomes_of(call, failed=bool(failure)):
            if users:
                self._users.add(users, {**attributes, "pulsering.outcome": outcome})

    def _connections(self, options: CallbackOptions) -> Iterable[Observation]:
        """Called from a thread of the SDK: looks, and touches nothing."""
        counts: Counter[tuple[str, str]] = Counter()
        for cluster in list(self._clusters):
            for channel in list(cluster.channels.values()):
                used, idle = channel.usage
                counts[str(channel.address), "used"] += used
                counts[str(channel.address), "idle"] += idle
        for (pool, state), count in counts.items():
            yield Observation(count, {_POOL: pool, _STATE: state})

    def _connections_max(self, options: CallbackOptions) -> Iterable[Observation]:
        counts: Counter[str] = Counter()
        for cluster in list(self._clusters):
            for channel in list(cluster.channels.values()):
                counts[str(channel.address)] += channel.connections_max
        for pool, count in counts.items():
            yield Observation(count, {_POOL: pool})


_telemetries: "weakref.WeakKeyDictionary[MeterProvider, Telemetry]" = weakref.WeakKeyDictionary()


def _failure_of(call: Call, now: float) -> PresenceError | None:
    """What the caller was told if nothing at all was achieved."""
    match call:
        case ReadCall() | CountCall():
            return call.outage(now)
        case WriteCall():
            return call.failure(now) if call.key_count and not any(call.acks) else None
    raise AssertionError(f"no such call: {call!r}")


def _outcomes_of(call: Call, *, failed: bool) -> Iterator[tuple[str, int]]:
    match call:
        case WriteCall():
            unacknowledged = call.acks.count(0)
            yield "accepted", call.key_count - unacknowledged
            yield "unacknowledged", unacknowledged
        case ReadCall() if failed:
            yield Status.UNKNOWN.name.lower(), call.key_count
        case ReadCall():
            statuses = call.statuses
            for status in Status:
                yield status.name.lower(), statuses.count(status)
