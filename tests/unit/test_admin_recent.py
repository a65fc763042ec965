"""The last minutes of a node: rates over whole steps, and no more rows than fit."""

import pytest
from support.node_driver import World

from pulsering.wire import Op
from pulsering_server.admin_recent import ROWS, STEP_MS, Recent


@pytest.fixture
def world() -> World:
    world = World()
    world.warm()
    return world


def test_rates_are_what_was_done_in_the_time_it_took(world: World) -> None:
    peer, recent = world.connect(), Recent(world.cores["a"], world.now_ms)
    for passed_s in range(2 * STEP_MS // 1000):
        peer.beat(*range(100))
        peer.get(*range(passed_s + 1))
        world.advance(1000)
        recent.note(world.now_ms)
    first, second = recent.rows(world.now_ms)
    assert (first["heartbeats_per_s"], second["heartbeats_per_s"]) == (100, 100)
    assert (first["gets_per_s"], second["gets_per_s"]) == (3, 8)
    assert (first["ago_ms"], second["ago_ms"]) == (STEP_MS, 0)
    assert first["span_ms"] == second["span_ms"] == STEP_MS
    assert second["users"] == 100
    assert second["latency_ms"]["get"]["p99"] > 0
    assert second["latency_ms"]["leave"] == {"p50": None, "p90": None, "p99": None, "p999": None}


def test_now_spans_a_step_and_what_has_passed_of_the_next(world: World) -> None:
    peer, recent = world.connect(), Recent(world.cores["a"], world.now_ms)
    for _ in range(2):
        world.advance(STEP_MS)
        recent.note(world.now_ms)
    world.advance(STEP_MS // 2)
    peer.beat(*range(75))
    now = recent.now(world.now_ms)
    assert now["span_ms"] == STEP_MS + STEP_MS // 2
    assert now["heartbeats_per_s"] == pytest.approx(75_000 / now["span_ms"])


def test_now_can_be_asked_at_once(world: World) -> None:
    """A node that was asked in the millisecond of its start has no rate, and no division by zero."""
    assert Recent(world.cores["a"], world.now_ms).now(world.now_ms)["requests_per_s"] == 0


def test_only_the_last_minutes_are_kept(world: World) -> None:
    recent = Recent(world.cores["a"], world.now_ms)
    for _ in range(ROWS + 20):
        world.advance(STEP_MS, step_ms=STEP_MS)
        recent.note(world.now_ms)
    rows = recent.rows(world.now_ms)
    assert len(rows) == ROWS
    assert rows[0]["ago_ms"] == (ROWS - 1) * STEP_MS


def test_more_looks_than_steps_make_no_more_rows(world: World) -> None:
    recent = Recent(world.cores["a"], world.now_ms)
    for _ in range(100):
        world.advance(STEP_MS // 10)
        recent.note(world.now_ms)
    assert len(recent.rows(world.now_ms)) == 10


def test_a_node_that_starts_over_has_no_negative_rate(world: World) -> None:
    core, peer = world.cores["a"], world.connect()
    recent = Recent(core, world.now_ms)
    peer.beat(*range(50))
    peer.ask(Op.PING)
    world.advance(STEP_MS)
    recent.note(world.now_ms)
    core.start_over("a test", world.now_ms)
    world.advance(STEP_MS)
    recent.note(world.now_ms)
    for row in recent.rows(world.now_ms):
        assert all(rate >= 0 for name, rate in row.items() if name.endswith("_per_s"))
