"""What served nobody has no rate, in any figure, ratio or report; nothing is divided by zero.

The TTL dictionary under load once answered nobody in a whole round.
"""

import json
import os
import sys
from dataclasses import asdict
from subprocess import PIPE, Popen
from typing import Any

import numpy as np
import pytest
from support.bench_results import peer_of, results_of, run_of

from pulsering_bench.against import changes_of, text_of_changes
from pulsering_bench.billion import needs_of
from pulsering_bench.billion import text_of as text_of_billion
from pulsering_bench.charts import Bar, Curve, bars, curves, figure_of
from pulsering_bench.compare import latency_of
from pulsering_bench.drive import Closed, Open
from pulsering_bench.figures import measure_of, ratios_of
from pulsering_bench.node_loads import Load
from pulsering_bench.quotients import median_of, per, shown
from pulsering_bench.report import html_of, markdown_of, text_of
from pulsering_bench.scale import Plan, Point, calculated
from pulsering_bench.sizing import load_profile
from pulsering_bench.usage import Share, Watch

NOBODY = Closed(0, 0, 1.0, Share(0.9, 1.0), Share(0.2, 0.3), calls=0, refused=7)


def silent_peer(*runs: Closed) -> dict[str, Any]:
    """A store whose every measure are these runs."""
    peer = peer_of(1e5, 80.0)
    measure = measure_of(runs)
    return peer | {"title": "Silent", "raw": dict.fromkeys(peer["raw"], measure), "client": {}}


@pytest.mark.parametrize("amount", [None, 0, 5.0])
@pytest.mark.parametrize("of", [None, 0, 0.0])
def test_nothing_to_divide_by_gives_nothing(amount: float | None, of: float | None) -> None:
    assert per(amount, of) is None


def test_quotients_of_what_there_is() -> None:
    assert per(0, 4) == 0
    assert per(3, 4, 1e6) == 750_000
    assert per(None, 4) is None
    assert median_of([None, 3.0, 1.0, None, 2.0]) == 2.0
    assert median_of([None]) is median_of([]) is None
    assert (shown(None), shown(0.0), shown(12e6, ".1f", 1e-6)) == ("-", "0.0", "12.0")


def test_a_round_that_served_nobody_has_no_rate_and_leaves_the_medians_to_the_others() -> None:
    assert NOBODY.per_server_s is None
    measure = measure_of([run_of(100.0), NOBODY, run_of(300.0)])
    assert measure["users_per_server_cpu_s"] == 200
    assert measure["runs_users_per_server_cpu_s"] == [100, None, 300]
    assert measure["rounds_for_nobody"] == 1
    assert measure["refused"] == 7


def test_a_measure_in_which_nobody_was_served_at_all_has_no_figure_and_is_valid_json() -> None:
    measure = measure_of([NOBODY, NOBODY])
    assert measure["rounds_for_nobody"] == 2
    rates = [name for name, value in measure.items() if value is None]
    assert {"users_per_server_cpu_s", "server_cpu_s_per_million", "spread"} <= set(rates)
    json.dumps(measure, allow_nan=False)


def test_a_peer_with_a_silent_round_gives_no_verdict_that_says_so() -> None:
    peers = {"pulsering": peer_of(1e7, 8.0), "silent": silent_peer(run_of(1e5), NOBODY, run_of(1e5))}
    results = results_of(peers)
    found = {verdict["name"]: verdict for verdict in results["verdicts"]}["ratio_refresh_best_peer"]
    assert found["verdict"] == "no verdict"
    assert found["why"] == "Silent served nobody in 1 of 3 rounds (refresh)"
    assert "served nobody" in text_of(results)


@pytest.mark.parametrize("silent", ["pulsering", "other"])
def test_ratios_without_a_rate_on_one_side_are_missing_and_reports_are_still_made(silent: str) -> None:
    peers = {"pulsering": peer_of(1e7, 8.0), "other": peer_of(1e5, 80.0)}
    peers[silent] |= silent_peer(NOBODY, NOBODY) | {"client": peers[silent]["client"]}
    results = results_of(peers)
    assert results["ratio_refresh_best_peer"] is results["ratio_get_best_peer"] is None
    for shown_by in (text_of, html_of, markdown_of):
        assert "Silent" in shown_by(results)
    json.dumps(results, allow_nan=False)


def test_memory_that_did_not_grow_gives_no_ratio() -> None:
    peers = {"pulsering": peer_of(1e7, 0.0), "other": peer_of(1e5, 80.0)}
    assert ratios_of(peers)["ratio_bytes_best_peer"] is None


@pytest.mark.parametrize(("before", "now"), [(NOBODY, run_of(1e5)), (run_of(1e5), NOBODY)])
def test_runs_for_nobody_are_not_compared_with_others(before: Closed, now: Closed) -> None:
    old, new = (results_of({"pulsering": silent_peer(run), "x": silent_peer(run)}) for run in (before, now))
    changes = {change.name: change.verdict for change in changes_of(old, new)}
    assert changes["raw refresh"] == "no verdict"
    assert "no verdict raw refresh" in text_of_changes(changes_of(old, new))


def test_an_open_loop_in_which_all_was_refused_has_no_percentiles() -> None:
    shares = Share(0.5, 0.5), Share(0.5, 0.3)
    refused = Open({"get": np.zeros(0)}, np.zeros(10), 0, 0, 10, 0, 1.0, *shares)
    assert refused.percentile_ms("get", 99) is None
    latency = latency_of([refused])
    assert latency["get"]["p99_ms"] is latency["server_cpu_s_per_million"] is None
    peer = peer_of(1e7, 8.0)
    peer["latency"] |= latency | {"refresh": latency["get"]}
    assert "Latency" in html_of(results_of({"pulsering": peer}))


def test_a_process_that_ends_takes_nothing_away_from_the_others() -> None:
    """A PostgreSQL worker that ended would else make its server look as if it had needed no CPU."""
    busy = "sum(range(10**7)); print(flush=True); input()"
    with Popen([sys.executable, "-c", busy], stdin=PIPE, stdout=PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        watch = Watch([child.pid, os.getpid()])
        child.kill()
        child.wait()
    sum(range(10**6))
    _, server, _ = watch.stop()
    assert server.cpu_s > 0


def test_charts_show_what_there_is() -> None:
    assert figure_of(None) == "-"
    assert bars("all", [Bar("x", None), Bar("y", 2.0)]).count('width="0.0"') == 1
    assert bars("none", [Bar("x", None)], logarithmic=True)
    assert "<polyline" not in curves("t", "x", "y", [Curve("none", [])])
    assert curves("t", "x", "y", [Curve("none", []), Curve("c", [(1.0, 1.0)])]).count("<polyline") == 1


def test_other_benches_say_nothing_where_nobody_was_served() -> None:
    assert needs_of(10, {"load": NOBODY, "refresh": NOBODY})["ttl_s_at_least"] is None
    assert Load("any", 0, 0, wall_s=1.0, server_s=1.0, client_s=0.5, starved_s=0.0).per_server_s is None
    silent = Point(1, "get", None, None, 0.0, "neither", 0)
    served = [Point(nodes, "get", 1e6 / nodes, 1.0, 1e6, "server", 0) for nodes in (2, 4)]
    assert calculated(Plan(), [silent], "get") == []
    assert calculated(Plan(), [silent, *served], "get") == calculated(Plan(), served, "get") != []


def test_a_billion_for_nobody_is_shown_with_dashes() -> None:
    phases = {"load": NOBODY, "refresh": NOBODY}
    phase = asdict(NOBODY) | {"users_per_server_cpu_s": None, "limit": "server"}
    counted = {"loaded": 0, "left": 0, "expected": 0}
    results = {"plan": {"users": 10, "ttl_s": 20}, "bytes_per_user": 8.0, "phases": {"refresh": phase}}
    results |= {"counted": counted, "needs": needs_of(10, phases), "unknown_answers": 0, "wrong_answers": 0}
    assert "needs one of - s at least" in text_of_billion(results)


def test_a_profile_without_rates_is_refused_with_a_sentence(tmp_path: Any) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results_of({"pulsering": silent_peer(NOBODY)})))
    with pytest.raises(ValueError, match="is no profile"):
        load_profile(file)
