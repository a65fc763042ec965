"""A few histories in every test run: no promise is broken, and a history is the same each time.

``make sim`` runs many more, ``make sim-planted`` proves that they would find something. What they cover is in
their plans: a reporter killed or cut off (scenario 12), heartbeats out of order and leaves that overtake
them over several connections and devices (scenarios 13, 14, 15, 18), links that stall and then deliver
(scenario 16), clocks that drift (scenario 21), nodes paused and machines put to sleep (scenario 22), nodes
killed, all owners at once, and restarted (scenarios 24, 25, 26), nodes cut off from writers but not from
readers and back with old users (scenarios 27, 28), one copy only (scenario 29), nodes added and removed
under load, half-way for a while (scenarios 30, 31), clients with old topologies (scenario 32), nodes that
accept and never answer (scenario 35), all nodes down and back (scenario 36), and drained one after another
(scenario 37).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sim.__main__ import main
from sim.plan import make_plan
from sim.planted import planted
from sim.run import run_plan
from sim.shrink import shrink

TESTS = Path(__file__).parents[1]
MINUTES = 3.0


@pytest.mark.parametrize("seed", range(8))
def test_no_promise_is_broken(seed: int) -> None:
    result = run_plan(make_plan(seed, MINUTES))
    assert result.violations == []
    assert result.tally["online"] > 100
    assert result.tally["offline"] > 100
    if result.plan.watching:
        assert result.tally["told"] > 100
        assert result.tally["shown"] > 1000


def test_a_seed_is_the_same_history_in_any_process() -> None:
    """Hash seeds differ from process to process, and so do addresses."""

    def verdict(hash_seed: str) -> object:
        printed = subprocess.run(
            [sys.executable, "-m", "sim", "--seeds", "2", "--first", "8", "--minutes", "0.7", "--jobs", "1"],
            cwd=TESTS,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
        )
        return json.loads(printed.stdout.splitlines()[-1])

    first = verdict("1")
    assert first == verdict("2")
    assert first["trace_hash"] != f"{0:016x}"  # type: ignore[index]


@pytest.mark.parametrize(
    ("bug", "seed"),
    [
        ("ttl_added_twice", 0),
        ("batch_answers_shifted", 0),
        ("wrong_owner", 3),
        ("watch_goes_on_over_a_gap", 2),
    ],
)
def test_a_planted_bug_is_found(bug: str, seed: int) -> None:
    plan = make_plan(seed, MINUTES)
    with planted(bug):
        assert run_plan(plan).violations
    assert run_plan(plan).violations == []


def test_a_failing_history_shrinks_and_still_fails() -> None:
    plan = make_plan(1, 1.0)
    with planted("truncated_id"):
        result = run_plan(plan)
        assert result.violations
        smaller = shrink(result, run_plan, tries_max=40)
    assert smaller.violations[0].promise == result.violations[0].promise
    assert len(smaller.plan.actions) < len(plan.actions) // 4
    assert smaller.plan.faults == []


def test_the_command_prints_the_failing_seed_first_and_json_last(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "1", "--minutes", "0.5", "--jobs", "1"]) == 0
    last = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (last["seeds"], last["violations"]) == (1, 0)
    assert main(["--seed", "0", "--minutes", "1", "--plant", "truncated_id"]) == 1
    assert "BROKEN" in capfd.readouterr().out
