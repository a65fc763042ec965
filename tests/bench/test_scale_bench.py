"""Soak, billion and scale at tiny sizes: they run, every answer is right, they say what they found."""

from typing import Any

import pytest
from rich.console import Console

from pulsering_bench import billion, scale, soak
from pulsering_server.cli import run


def test_soak(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    plan = soak.Plan(users=2000, minutes=0.015, slice_s=0.15, requests_per_s=200, page=20)
    results = benchmark.pedantic(soak.soak, (plan,), rounds=1)
    assert results["wrong_answers"] == 0
    assert len(results["samples"]) >= 1
    assert all(sample["bytes"] > 0 and sample["files"] > 0 for sample in results["samples"])
    assert results["verdicts"].keys() == {"memory", "files", "tasks", "cpu"}


FLAT = [soak.Sample(10.0 * index, 100 << 20, 20, 1, 5.0, 1.0, 0.1, 0) for index in range(40)]


def test_soak_finds_what_grows() -> None:
    assert all(verdict["flat"] for verdict in soak.judge(FLAT).values())
    leaking = [sample._replace(bytes=sample.bytes + index * (1 << 20)) for index, sample in enumerate(FLAT)]
    assert not soak.judge(leaking)["memory"]["flat"]
    assert not soak.judge([sample._replace(files=20 + i) for i, sample in enumerate(FLAT)])["files"]["flat"]
    assert not soak.judge([sample._replace(tasks=1 + i) for i, sample in enumerate(FLAT)])["tasks"]["flat"]
    slower = [sample._replace(cpu_us_per_request=5.0 + 0.1 * i) for i, sample in enumerate(FLAT)]
    assert soak.judge(slower)["cpu"]["flat"] is False
    starved = [sample._replace(lag_ms=20.0) for sample in slower]
    assert soak.judge(starved)["cpu"]["flat"] is None, "the machine was slow, which says nothing of the node"


def test_billion(benchmark: Any) -> None:
    plan = billion.Plan(users=20_000, seconds=0.05, leaving=0.1, grace_s=0.2, frame=256, pool=50, ttl_s=60)
    results = benchmark.pedantic(billion.billion, (plan, Console(quiet=True)), rounds=1)
    assert results["wrong_answers"] == 0
    assert results["counted"] == {"loaded": 20_000, "left": 18_000, "expected": 18_000}
    assert results["phases"]["read_gone"]["users"] == 2_000
    text = billion.text_of(results)
    assert "A ttl of 20 s with a heartbeat each 10 s would take" in text


def test_billion_asks_for_the_memory_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert billion.run_billion(billion.Plan(users=10**13), as_json=False) == 1
    assert "--users" in capsys.readouterr().err


def test_scale(benchmark: Any) -> None:
    plan = scale.Plan(users=2000, batch=100, shares=(0.25,), seconds=0.1, nodes=(1, 2), stub_nodes=(1, 3))
    results = benchmark.pedantic(scale.scale, (plan,), rounds=1)
    assert results["wrong_answers"] == 0
    assert [(point["nodes"], point["what"]) for point in results["measured"]] == [
        (1, "refresh"),
        (1, "get"),
        (2, "refresh"),
        (2, "get"),
    ]
    assert len(results["measured_on_stub"]) == 4
    assert [point["users"] for point in results["measured_by_users"]] == [500, 500]
    text = scale.text_of(results)
    assert "500 users on 1 node" in text
    assert "calculated   1024 nodes" in text


def test_the_line_through_costs_is_found_again_and_never_negative() -> None:
    sizes = [1000.0, 500.0, 250.0]
    per_frame, per_user = scale.line_through(sizes, [2e-6 + size * 5e-8 for size in sizes])
    assert per_frame == pytest.approx(2e-6)
    assert per_user == pytest.approx(5e-8)
    assert min(scale.line_through(sizes, [3e-5, 3.1e-5, 3.2e-5])) == 0.0
    assert min(scale.line_through(sizes, [5e-5, 2e-5, 1e-6])) == 0.0


def test_the_command_line_names_what_it_does_not_know(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["bench", "sweep", "--peer", "mongodb"]) == 2
    assert "there are pulsering" in capsys.readouterr().err
    assert run(["bench", "sweep", "--target", "5"]) == 2
    assert "no unit" in capsys.readouterr().err
