"""Telemetry: off unless asked for, by the names of the conventions, and never with a user in it."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from support.fake_node import FakeCluster, until
from support.loops import on_each_loop

from pulsering import CallTimeout, ConfigError, PresenceClient, sync
from pulsering.testing import MemoryCluster
from pulsering.wire import Op

WITHOUT_OTEL = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"no module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from pulsering import ConfigError
from pulsering.sync import PresenceClient
with PresenceClient.from_url("memory://") as presence:
    presence.heartbeat(1)
try:
    PresenceClient.from_url("memory://", telemetry=True)
except ConfigError as error:
    assert "pulsering[otel]" in str(error), error
else:
    sys.exit("telemetry without OpenTelemetry")
"""


class Metrics:
    """What the SDK's in-memory reader has collected, by name and attributes."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider(metric_readers=[self._reader], shutdown_on_exit=False)

    def points(self, name: str) -> dict[tuple[tuple[str, Any], ...], Any]:
        return {
            tuple(sorted((point.attributes or {}).items())): point
            for metric, point in self._all()
            if metric == name
        }

    def names(self) -> set[str]:
        return {name for name, _ in self._all()}

    def attributes(self) -> Iterator[Any]:
        for _, point in self._all():
            yield from (point.attributes or {}).values()

    def _all(self) -> Iterator[tuple[str, Any]]:
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                assert scope.scope.name == "pulsering"
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        yield metric.name, point


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    metrics = Metrics()
    yield metrics
    metrics.provider.shutdown()


def operation(op: str, cluster: str, **more: str) -> tuple[tuple[str, str], ...]:
    names = {"db.namespace": cluster, "db.operation.name": op, "db.system.name": "pulsering"}
    return tuple(sorted({**names, **{name.replace("_", "."): value for name, value in more.items()}}.items()))


@on_each_loop
async def test_calls_and_connections_have_the_names_of_the_conventions(metrics: Metrics) -> None:
    cluster = MemoryCluster()
    async with PresenceClient.from_url(cluster.url, telemetry=metrics.provider) as presence:
        name = presence.topology.cluster
        await presence.heartbeat_many(range(100))
        await presence.get_many(range(150))
        cluster.go_cold()
        await presence.get_many(range(98, 103))
        await presence.leave_many([1])
        await presence.count()
        durations = metrics.points("db.client.operation.duration")
        assert {key: point.count for key, point in durations.items()} == {
            operation("HEARTBEAT", name): 1,
            operation("GET", name): 2,
            operation("LEAVE", name): 1,
            operation("COUNT", name): 1,
        }
        assert all(0 < point.sum < 5 for point in durations.values())
        users = {key: point.value for key, point in metrics.points("pulsering.client.users").items()}
        assert users == {
            operation("HEARTBEAT", name, pulsering_outcome="accepted"): 100,
            operation("GET", name, pulsering_outcome="online"): 102,
            operation("GET", name, pulsering_outcome="offline"): 50,
            operation("GET", name, pulsering_outcome="unknown"): 3,
            operation("LEAVE", name, pulsering_outcome="accepted"): 1,
        }
        pool = ("db.client.connection.pool.name", "memory:7400")
        count = metrics.points("db.client.connection.count")
        assert {key: point.value for key, point in count.items()} == {
            (pool, ("db.client.connection.state", "idle")): 1,
            (pool, ("db.client.connection.state", "used")): 0,
        }
        assert metrics.points("db.client.connection.max")[(pool,)].value == 2
        assert metrics.points("db.client.connection.create_time")[(pool,)].count == 2  # one asked for the map
    assert not metrics.points("db.client.connection.count")


@on_each_loop
async def test_calls_of_one_turn_are_one_operation(metrics: Metrics) -> None:
    async with PresenceClient.from_url("memory://", telemetry=metrics.provider) as presence:
        await asyncio.gather(*(presence.heartbeat(user) for user in range(1000)))
        await asyncio.gather(*(presence.is_online(user) for user in range(1000)))
        durations = metrics.points("db.client.operation.duration").values()
        assert [point.count for point in durations] == [1, 1]


@on_each_loop
async def test_failures_are_told_by_the_kind_of_error(metrics: Metrics) -> None:
    async with (
        FakeCluster("a", 1) as cluster,
        PresenceClient.from_url(cluster.url, telemetry=metrics.provider, timeout="50ms") as presence,
    ):
        cluster["a"].script = {Op.GET: lambda frame: None, Op.HEARTBEAT: lambda frame: None}
        with pytest.raises(CallTimeout):
            await presence.get_many([1, 2])
        with pytest.raises(CallTimeout):
            await presence.heartbeat(1)
        call = asyncio.create_task(presence.get_many([1], timeout=None))
        await until(lambda: cluster["a"].count(Op.GET) >= 2)
        call.cancel()
        await asyncio.wait([call])
        durations = metrics.points("db.client.operation.duration")
        assert {key: point.count for key, point in durations.items()} == {
            operation("GET", "test", error_type="CallTimeout"): 1,
            operation("HEARTBEAT", "test", error_type="CallTimeout"): 1,
            operation("GET", "test", error_type="CancelledError"): 1,
        }


@on_each_loop
async def test_no_attribute_ever_names_a_user(metrics: Metrics) -> None:
    text, number = "alice@example.org", 1234567890123
    async with PresenceClient.from_url("memory://", telemetry=metrics.provider) as presence:
        await presence.heartbeat(text)
        await presence.heartbeat_many([text, number])
        await presence.is_online(number)
        keys = {text, str(number), str(presence.locate(text).key), str(presence.locate(number).key)}
        assert metrics.names() >= {"db.client.operation.duration", "pulsering.client.users"}
        assert not keys & {str(value) for value in metrics.attributes()}


@on_each_loop
async def test_clients_of_one_provider_add_up(metrics: Metrics) -> None:
    cluster = MemoryCluster()
    async with (
        PresenceClient.from_url(cluster.url, telemetry=metrics.provider) as one,
        PresenceClient.from_url(cluster.url, telemetry=metrics.provider) as other,
    ):
        await asyncio.gather(one.heartbeat(1), other.heartbeat(2))
        count = metrics.points("db.client.connection.count").values()
        assert sum(point.value for point in count) == 2
        (users,) = metrics.points("pulsering.client.users").values()
        assert users.value == 2


def test_the_blocking_client_measures_too(metrics: Metrics) -> None:
    with sync.PresenceClient.from_url("memory://", telemetry=metrics.provider) as presence:
        presence.heartbeat(1)
        assert metrics.points("pulsering.client.users")


async def test_true_means_the_global_provider() -> None:
    async with PresenceClient.from_url("memory://?telemetry=true") as presence:
        await presence.heartbeat(1)  # there is none: nothing happens, and nothing fails


def test_a_wrong_provider_is_refused() -> None:
    with pytest.raises(ConfigError, match="MeterProvider"):
        PresenceClient.from_url("memory://", telemetry="yes")  # type: ignore[arg-type]


def test_nothing_of_opentelemetry_is_imported_unless_asked_for() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_OTEL], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
