"""The bench of a node at a tiny size: a real node, every load run through, every answer right."""

import json
import os
from typing import Any

import pytest

from pulsering_bench import node as bench
from pulsering_bench.node_loads import Load

FIGURES = {
    "heartbeats_per_s",
    "gets_per_s",
    "server_cpu_s_per_million",
    "client_cpu_s_per_million",
    "p50_ms",
    "p99_ms",
    "p999_ms",
}


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "people"])
def test_the_bench_of_a_node_finds_no_wrong_answer(
    benchmark: Any, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    cores = os.sched_getaffinity(0)
    code = benchmark.pedantic(bench.run, (20_000, 1000, 0.1, 20), {"as_json": as_json}, rounds=1)
    shown = capsys.readouterr().out
    assert code == 0, shown
    assert os.sched_getaffinity(0) == cores
    if not as_json:
        assert "wrong answers" in shown
        assert "bottleneck" in shown
        return
    figures = json.loads(shown)
    assert figures["wrong_answers"] == 0
    assert all(figures[name] > 0 for name in FIGURES)
    assert figures["p50_ms"] <= figures["p99_ms"] <= figures["p999_ms"]
    assert figures["bottleneck"] in ("server", "client", "both", "neither", "others")
    assert figures["idle"]["connections"] == 20
    assert all(load["users"] > 0 for load in figures["loads"])


def load(*, server_s: float, client_s: float, starved_s: float = 0.0) -> Load:
    return Load("any", 10, 1_000_000, wall_s=10.0, server_s=server_s, client_s=client_s, starved_s=starved_s)


def test_rates_are_by_the_clock_only_where_the_server_was_busy_all_the_time() -> None:
    """Scenario 60: a load generator that was itself the bottleneck is no verdict on the server."""
    busy, idle = load(server_s=9.5, client_s=2.0), load(server_s=2.0, client_s=9.9)
    assert (busy.per_server_s, busy.bottleneck) == (100_000, "server")
    assert "by the clock" in busy.basis
    assert (idle.per_server_s, idle.bottleneck) == (500_000, "client")
    assert "CPU seconds" in idle.basis
    assert load(server_s=9.5, client_s=9.5).bottleneck == "both"
    assert load(server_s=5.0, client_s=5.0).bottleneck == "neither"
    assert load(server_s=5.0, client_s=5.0, starved_s=3.0).bottleneck == "others"
