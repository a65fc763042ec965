"""The sweep finds a server's knee, says who broke a rate, and never blames the server for the generator."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from pulsering_bench import sweep_report
from pulsering_bench.drive import Open
from pulsering_bench.peers import PulseringNode, TtlDictionary
from pulsering_bench.sweep import GENERATOR, OTHERS, Plan, Point, knee_of, point_of, sweep
from pulsering_bench.usage import Share

TINY = Plan(
    users=2000,
    page=20,
    start_per_s=100,
    factor=2.0,
    steps_max=3,
    seconds=0.2,
    target_ms=500.0,
    await_warm=False,
)


@pytest.mark.parametrize("kind", [PulseringNode, TtlDictionary], ids=lambda kind: kind.name)
def test_sweep(benchmark: Any, kind: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, chart = tmp_path / "sweep.html", tmp_path / "sweep.svg"
    options = {"as_json": True, "report": page, "chart": chart}
    code = benchmark.pedantic(sweep_report.run_sweep, (kind, TINY), options, rounds=1)
    assert code == 0
    results = json.loads(capsys.readouterr().out)
    assert results["points"][0]["rate"] == 100
    assert results["wrong_answers"] == 0
    assert results["closed_loop_users_per_s"] > 0
    assert "<svg" in page.read_text()
    assert ElementTree.parse(chart).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert "closed loop (callers that wait; not comparable)" in sweep_report.text_of(results)


def opened(
    latency_s: float,
    *,
    lag_s: float = 0.0,
    refused: int = 0,
    busy: float = 0.3,
    answered: int = 1000,
    starved: float = 0.0,
) -> Open:
    shares = Share(0.5, 0.5 + starved), Share(0.5, busy)
    samples = np.full(answered, latency_s)
    return Open({"get": samples}, np.full(1000, lag_s), 1000, 0, refused, 0, 1.0, *shares)


def test_a_rate_breaks_for_a_reason_that_is_named() -> None:
    assert point_of(1.0, opened(0.001), 5.0).end == ""
    assert point_of(1.0, opened(0.006), 5.0).end == "p99 above 5 ms"
    assert "refused" in point_of(1.0, opened(0.001, refused=100), 5.0).end
    assert "refused" in point_of(1.0, opened(0.0, refused=1000, answered=0), 5.0).end


def test_a_late_generator_breaks_a_rate_without_a_verdict() -> None:
    """Scenario 60, open loop: what the generator sent late says nothing about the server."""
    assert point_of(1.0, opened(0.020, lag_s=0.018), 5.0).end == OTHERS
    assert point_of(1.0, opened(0.020, busy=1.0), 5.0).end == GENERATOR


def test_a_server_without_a_core_breaks_a_rate_without_a_verdict() -> None:
    assert point_of(1.0, opened(0.020, starved=0.2), 5.0).end == OTHERS
    assert point_of(1.0, opened(0.001, starved=0.2, refused=100), 5.0).end == OTHERS
    assert point_of(1.0, opened(0.004, starved=0.2), 5.0).end == ""


def test_a_rate_that_holds_in_spite_of_a_late_generator_holds() -> None:
    """Latency counts from when a request was due, so the lateness is in it already."""
    assert point_of(1.0, opened(0.004, lag_s=0.003), 5.0).end == ""
    assert point_of(1.0, opened(0.004, busy=1.0), 5.0).end == ""


def server(capacity: float, *, busy: float = 0.3) -> Callable[[float], Point]:
    """Steps against a server that does so many requests a second, by a generator that then is so busy."""

    def step(rate: float) -> Point:
        return point_of(rate, opened(0.001) if rate <= capacity else opened(0.1, busy=busy), 5.0)

    return step


@pytest.mark.parametrize("capacity", [90.0, 500.0, 7_777.0, 24_000.0])
def test_the_knee_is_found_from_either_side(capacity: float) -> None:
    points = knee_of(server(capacity), Plan(start_per_s=500.0, knee=1.05))
    rates = [point.rate for point in points]
    assert rates == sorted(rates)
    held = max(point.rate for point in points if not point.end)
    broke = min(point.rate for point in points if point.end)
    assert held <= capacity < broke <= held * 1.05


def test_nothing_is_held_where_even_the_lowest_rate_breaks() -> None:
    points = knee_of(server(0.0), Plan(start_per_s=500.0))
    assert all(point.end for point in points)
    assert len(points) < 10, "it does not go down for ever"


def test_one_bad_moment_of_the_machine_is_no_knee() -> None:
    good, stalls = server(1000.0), {500.0: 1, 750.0: 1}

    def step(rate: float) -> Point:
        if stalls.get(rate):
            stalls[rate] -= 1
            return point_of(rate, opened(0.100), 5.0)
        return good(rate)

    points = knee_of(step, Plan(start_per_s=500.0))
    assert max(point.rate for point in points if not point.end) > 900


def test_a_step_in_which_others_had_the_generators_core_is_passed_over() -> None:
    good = server(7000.0)

    def step(rate: float) -> Point:
        return point_of(rate, opened(0.1, lag_s=0.09), 5.0) if rate == 750.0 else good(rate)

    points = knee_of(step, Plan(start_per_s=500.0))
    assert [point.rate for point in points if point.end == OTHERS] == [750.0]
    assert max(point.rate for point in points if not point.end) > 6600


@pytest.mark.parametrize(
    ("step", "verdict"), [(server(2000.0), "found"), (server(2000.0, busy=1.0), "no verdict")]
)
def test_the_rate_that_held_is_said_whoever_was_the_limit(
    step: Callable[[float], Point], verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pulsering_bench.sweep._Sweep.step", lambda _, rate: step(rate))
    results = sweep(TtlDictionary, Plan(users=2000, page=20, start_per_s=500.0, seconds=0.2))
    assert results["verdict"] == verdict
    assert 1900 < results["highest_rate_held"] <= 2000
    text, page = sweep_report.text_of(results), sweep_report.html_of(results)
    assert results["why"] in text
    assert results["why"] in page
    assert ("no verdict" in text) == (verdict == "no verdict")
    assert "|" in text, "the target is marked"
