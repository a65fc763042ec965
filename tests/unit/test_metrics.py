"""What a node tells Prometheus: names by its conventions, every label there from the start, and the truth."""

import math
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support.http import parse_openmetrics
from support.node_driver import TTL_MS, Peer, pack
from support.served import Served, served

from pulsering import limits, messages
from pulsering.ids import SLOTS
from pulsering.wire import Op
from pulsering_server import metrics_doc
from pulsering_server.metrics import FAMILIES, PREFIX, NodeCollector
from pulsering_server.stats import Cold

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
UNITS = {"seconds", "bytes", "ratio"}


def scraped(node: Served) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(NodeCollector(node.listener))
    return registry


class Values:
    """The samples of a scrape, each asked for by its name and labels."""

    def __init__(self, node: Served) -> None:
        self._registry = scraped(node)

    def __call__(self, name: str, **labels: str) -> float:
        value = self._registry.get_sample_value(f"{PREFIX}{name}", labels)
        assert value is not None, f"no {name} {labels}"
        return value


def peer_of(node: Served) -> Peer:
    """A connection without a socket, on the clock of the node's world."""
    return node.world.connect()


# --- Form ---------------------------------------------------------------------------------------------------


def test_names_are_by_the_conventions_of_prometheus() -> None:
    """https://prometheus.io/docs/practices/naming: prefix, base unit last, ``_total`` on counters alone."""
    for family in FAMILIES:
        assert re.fullmatch(r"[a-z][a-z0-9_]*[a-z0-9]", family.name), family.name
        words = family.name.split("_")
        assert not {"total", "count", "sum", "bucket", "created"} & set(words), family.name
        assert not {"ms", "milliseconds", "us", "ns", "kib", "mib", "percent"} & set(words), family.name
        assert not UNITS & set(words[:-1]), f"{family.name}: the unit comes last"
        if family.powers:
            assert words[-1] == "seconds"
        assert family.help.endswith("."), family.name


async def test_no_name_is_taken_twice() -> None:
    """Registering would fail, as each name stands for its derived ones, too."""
    names = [family.full_name for family in FAMILIES]
    assert len(set(names)) == len(names)
    async with served() as node:
        registry = scraped(node)
        with pytest.raises(ValueError, match="Duplicated"):
            registry.register(NodeCollector(node.listener))


def families_of(text: str, *, openmetrics: bool) -> dict[str, Metric]:
    return {metric.name: metric for metric in (parse_openmetrics if openmetrics else parse_text)(text)}


@pytest.mark.parametrize("openmetrics", [False, True])
async def test_a_node_that_has_done_nothing_has_every_family_and_every_label(openmetrics: bool) -> None:
    async with served() as node:
        registry = scraped(node)
        text = (generate_openmetrics if openmetrics else generate_latest)(registry).decode()
    found = families_of(text, openmetrics=openmetrics)
    assert found.keys() == {PREFIX + family.name for family in FAMILIES}
    for family in FAMILIES:
        samples = found[PREFIX + family.name].samples
        assert samples, family.name
        if family.label:
            assert {sample.labels[family.label] for sample in samples} == set(family.values), family.name
        for sample in samples:
            assert math.isfinite(sample.value)
            assert sample.value >= 0


async def test_what_a_scrape_holds_does_not_depend_on_users_or_peers() -> None:
    async with served() as node:
        before = len(generate_latest(scraped(node)).splitlines())
        peers = [peer_of(node) for _ in range(20)]
        for number, peer in enumerate(peers):
            peer.beat(*range(number * 100, number * 100 + 100))
            peer.get(*range(50))
        assert len(generate_latest(scraped(node)).splitlines()) == before
        node.world.advance(TTL_MS)
        assert len(generate_latest(scraped(node)).splitlines()) == before


async def test_histograms_add_up() -> None:
    async with served() as node:
        peer_of(node).beat(1, 2)
        node.core.counters.loop_lag.record(10**12)
        for metric in NodeCollector(node.listener).collect():
            if metric.type == "histogram":
                check_histogram(metric)


def check_histogram(metric: Metric) -> None:
    by_labels: dict[str, list[float]] = {}
    for sample in metric.samples:
        labels = {label: value for label, value in sample.labels.items() if label != "le"}
        by_labels.setdefault(f"{sample.name} {labels}", []).append(sample.value)
    for name, values in by_labels.items():
        if "_bucket" in name:
            assert values == sorted(values), "each bucket holds the smaller ones"
            assert values[-1] == by_labels[name.replace("_bucket", "_count")][0]


# --- Truth --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["native", "python"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With and without the compiled data path; both must count alike."""
    chosen: str = request.param
    if chosen == "python":
        from pulsering_server import _datapath_reference, node

        monkeypatch.setattr(node, "DataPath", _datapath_reference.DataPath)
    return chosen


@pytest.mark.usefixtures("path")
async def test_users_heartbeats_and_answers() -> None:
    async with served() as node:
        peer = peer_of(node)
        node.world.warm()
        assert peer.beat(*range(10)).accepted == 10
        assert peer.leave(7, 8).accepted == 2
        assert peer.get(*range(45)).count("ON") == 8
        value = Values(node)
        assert value("users_online") == value("users_online_first") == 8
        assert value("heartbeats_total", outcome="accepted") == 10
        assert value("leaves_total", outcome="accepted") == 2
        assert value("gets_total", answer="online") == 8
        assert value("gets_total", answer="offline") == 37
        assert value("gets_total", answer="unknown") == 0
        assert value("requests_total", op="heartbeat") == 1
        assert value("request_seconds_count", op="get") == 1
        assert value("frame_age_seconds_count") == 2
        node.world.advance(TTL_MS + 500)
        value = Values(node)
        assert value("users_online") == 0
        assert value("users_expired_total") == 8


@pytest.mark.usefixtures("path")
async def test_unknown_is_told_by_what_made_the_node_cold() -> None:
    """Each time as many answers as were given then, also those that nobody had scraped before it changed."""
    async with served() as node:
        core, world, peer = node.core, node.world, peer_of(node)
        peer.get(1)
        world.warm()
        peer.get(1)
        world.stand_still(TTL_MS)
        peer.get(1, 2)
        core.start_over("a test", world.now_ms)
        peer.get(1, 2, 3)
        value = Values(node)
        assert {reason: value("unknown_total", reason=reason) for reason in Cold} == {
            Cold.START: 1,
            Cold.STALL: 2,
            Cold.CLOCK: 3,
            Cold.TOPOLOGY: 0,
        }
        assert value("gets_total", answer="unknown") == 6
        assert value("stalls_total") == 1
        assert value("stalled_seconds_total") == TTL_MS / 1000
        assert value("clock_suspicions_total") == 1


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("count", [1, 3, 4, 31, 32, 33, 64, 65, 1000])
async def test_answers_are_counted_whatever_the_length_of_the_reply(count: int) -> None:
    async with served() as node:
        peer = peer_of(node)
        peer.beat(*range(count // 2))
        peer.get(*range(count))
        value = Values(node)
        assert value("gets_total", answer="online") == count // 2
        assert value("gets_total", answer="unknown") == count - count // 2
        assert value("gets_total", answer="offline") == value("gets_total", answer="moved") == 0


@pytest.mark.usefixtures("path")
async def test_frames_that_were_late_are_told_by_their_age() -> None:
    """Scenario 16: a link that stands still for 30 s and then delivers."""
    async with served() as node:
        peer = peer_of(node)
        late = peer.frame(Op.HEARTBEAT, messages.encode_keys_request(1, 0, pack([1, 2])))
        node.world.advance(30_000)
        peer.deliver(late)
        value = Values(node)
        assert value("stale_frames_total") == 1
        assert value("heartbeats_total", outcome="stale") == 2
        assert value("frame_age_seconds_bucket", le="16.384") == 0
        assert value("frame_age_seconds_bucket", le="32.768") == 1
        assert 29 < value("frame_age_seconds_sum") < 30.1


async def test_a_wheel_that_is_turned_late_is_told() -> None:
    async with served() as node:
        node.world.advance(TTL_MS)
        before = Values(node)("expiry_lag_seconds_bucket", le="1.024")
        node.world.stand_still(3 * node.core.tick_ms + 1_500)
        node.core.tick(node.world.now_ms)
        value = Values(node)
        assert value("expiry_lag_seconds_bucket", le="1.024") == before
        assert value("expiry_lag_seconds_bucket", le="4.096") == before + 1


async def test_warmth_and_readiness() -> None:
    async with served() as node:
        value = Values(node)
        assert value("ready") == 0
        assert value("warmup_left_seconds") == pytest.approx(TTL_MS / 1000, abs=0.5)
        node.world.warm()
        assert Values(node)("ready") == 1
        assert Values(node)("warmup_left_seconds") == 0
        node.core.draining = True
        assert (Values(node)("ready"), Values(node)("draining")) == (0, 1)


async def test_connections_and_what_they_hold() -> None:
    async with served() as node, node.peer() as peer:
        await peer.greet()
        await peer.ask(Op.PING)
        value = Values(node)
        assert value("connections") == value("connections_accepted_total") == 1
        assert value("connections_max") == limits.CONNECTIONS
        assert value("received_bytes_total") > 0
        assert value("sent_bytes_total") > 0
        async with node.peer() as stranger:
            await stranger.say(b"GET / HTTP/1.1\r\n\r\n")
            await stranger.rest()
        await node.until(lambda: node.stats.connections_open == 1)
        assert Values(node)("connections_closed_total", reason="foreign_http") == 1


async def test_the_topology_and_the_table() -> None:
    async with served() as node:
        peer_of(node).beat(*range(1000))
        value, topology = Values(node), node.core.topology
        labels = {"cluster": "demo", "node": "a", "hash": f"{topology.hash:016x}"}
        assert value("topology_info", **labels) == 1
        assert value("topology_epoch") == 1
        assert value("slots_owned") == SLOTS
        assert value("table_bytes") == node.core.table.memory_bytes
        assert sum(value("table_entries", place=place) for place in ("line", "annex", "ledger")) == 1000
        assert 0 < value("table_load_ratio") <= 1


async def test_the_loop_is_probed() -> None:
    async with served() as node:
        await node.until(lambda: node.core.counters.loop_lag.count > 0)
        assert Values(node)("loop_lag_seconds_count") > 0


# --- The reference ------------------------------------------------------------------------------------------


@pytest.mark.skipif(not DOCUMENT.parent.is_dir(), reason="only the wheel is here, no documents")
def test_the_reference_is_what_the_code_says() -> None:
    """``python -m pulsering_server.metrics_doc > docs/metrics.md`` writes it anew."""
    assert DOCUMENT.read_text(encoding="utf-8") == metrics_doc.reference()
