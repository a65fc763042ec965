"""Figures become verdicts, reports and documents: what is doubtful is never called reached."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from support.bench_results import peer_of, results_of, run_of

from pulsering_bench.against import changes_of, text_of_changes
from pulsering_bench.charts import Bar, Curve, bars, curves, figure_of
from pulsering_bench.drive import Closed, limit_of
from pulsering_bench.figures import WANTED, measure_of, ratios_of, verdict_of
from pulsering_bench.publish import BLOCKS, main, published
from pulsering_bench.report import html_of, text_of
from pulsering_bench.usage import Share, Watch


def verdicts(peers: dict[str, Any]) -> dict[str, str]:
    return {verdict["name"]: verdict["verdict"] for verdict in ratios_of(peers)["verdicts"]}


def test_ratios_are_against_the_best_peer_with_a_key_a_user() -> None:
    peers = {
        "pulsering": peer_of(1e7, 8.0),
        "slow": peer_of(1e5, 90.0),
        "best": peer_of(5e5, 80.0),
        "packed": peer_of(5e6, 9.0, one_key=False),
    }
    found = ratios_of(peers)
    assert found["ratio_refresh_best_peer"] == pytest.approx(20)
    assert found["ratio_get_best_peer"] == pytest.approx(20)
    assert found["ratio_bytes_best_peer"] == pytest.approx(10)
    assert {v["best_peer"] for v in found["verdicts"]} == {"best"}
    assert found.keys() == WANTED.keys() | {"verdicts", "ratio_bytes_of_all_best_peer"}


def test_memory_is_compared_by_growth_and_beside_it_by_all_that_processes_hold() -> None:
    """Both in the same way for every store, and labelled, as an interpreter weighs much among few users."""
    results = results_of({"pulsering": peer_of(1e7, 8.0), "other": peer_of(1e5, 80.0)})
    assert results["ratio_bytes_best_peer"] == pytest.approx(80 / 8)
    assert results["ratio_bytes_of_all_best_peer"] == pytest.approx(88 / 16)
    page = html_of(results)
    assert "needs 10.0 times ours" in page
    assert "it is 5.5 times" in page


def test_ratios_through_clients_are_against_stores_that_have_one() -> None:
    peers = {
        "pulsering": peer_of(1e7, 8.0),
        "redis": peer_of(1e5, 90.0),
        "own": peer_of(5e6, 100.0, library=False),
    }
    found = {verdict["name"]: verdict["best_peer"] for verdict in ratios_of(peers)["verdicts"]}
    assert found["ratio_client_refresh_best_peer"] == "redis"
    assert found["ratio_refresh_best_peer"] == "own"


def test_a_ratio_that_is_not_reached_is_said_as_plainly() -> None:
    peers = {"pulsering": peer_of(1e6, 40.0), "other": peer_of(5e5, 80.0)}
    assert set(verdicts(peers).values()) == {"not reached"}
    assert "where 15 were expected" in text_of(results_of(peers))
    assert "not reached" in html_of(results_of(peers))


def test_no_verdict_where_the_generator_was_the_limit() -> None:
    """Scenario 60: the ratio would look fine, yet nothing is claimed and the report says why."""
    peers = {"pulsering": peer_of(1e7, 8.0, server=0.4, generator=1.0), "other": peer_of(1e5, 80.0)}
    found = verdicts(peers)
    assert found["ratio_refresh_best_peer"] == found["ratio_get_best_peer"] == "no verdict"
    assert found["ratio_bytes_best_peer"] == "reached"
    for shown in (text_of(results_of(peers)), html_of(results_of(peers))):
        assert "the generator was the limit, not Store 1e+07" in shown


def test_no_verdict_where_answers_were_wrong() -> None:
    peers = {"pulsering": peer_of(1e7, 8.0, wrong=3), "other": peer_of(1e5, 80.0)}
    assert verdicts(peers)["ratio_refresh_best_peer"] == "no verdict"


def test_no_verdict_without_a_peer_or_without_us() -> None:
    assert set(verdicts({"pulsering": peer_of(1e7, 8.0)}).values()) == {"no verdict"}
    assert set(verdicts({"other": peer_of(1e7, 8.0)}).values()) == {"no verdict"}
    assert verdict_of(None, 1.0, [])[0] == "no verdict"


def test_limit_is_the_side_that_had_work_all_the_time() -> None:
    assert limit_of(Share(1, 0.95), Share(1, 0.95)) == "server"
    assert limit_of(Share(1, 0.5), Share(1, 0.95)) == "generator"
    assert limit_of(Share(1, 0.5), Share(1, 0.5)) == "neither"


def test_spread_and_median_come_from_all_runs() -> None:
    measure = measure_of([run_of(rate) for rate in (100, 200, 400)])
    assert measure["users_per_server_cpu_s"] == 200
    assert measure["spread"] == pytest.approx(1.5)
    assert measure["users"] == 700


def test_a_loss_counts_only_beyond_that_of_the_peers() -> None:
    old = results_of({"pulsering": peer_of(1e7, 8.0), "other": peer_of(1e5, 80.0)})
    slower = results_of({"pulsering": peer_of(7e6, 8.0), "other": peer_of(7e4, 80.0)})
    assert {change.verdict for change in changes_of(old, slower)} == {"same"}
    worse = results_of({"pulsering": peer_of(7e6, 8.0), "other": peer_of(1e5, 80.0)})
    found = {change.name: change.verdict for change in changes_of(old, worse)}
    assert found["raw refresh"] == "worse"
    assert found["bytes a user"] == "same"
    better = results_of({"pulsering": peer_of(2e7, 4.0), "other": peer_of(1e5, 80.0)})
    assert {change.verdict for change in changes_of(old, better)} == {"better"}
    assert "raw refresh" in text_of_changes(changes_of(old, better))


def test_other_work_or_a_limiting_generator_is_not_compared() -> None:
    old = results_of({"pulsering": peer_of(1e7, 8.0)})
    other = deepcopy(old)
    other["work"]["users"] = 6
    assert {change.verdict for change in changes_of(old, other)} == {"no verdict"}
    limited = results_of({"pulsering": peer_of(1e6, 8.0, server=0.2, generator=1.0)})
    found = {change.name: change.verdict for change in changes_of(old, limited)}
    assert found["raw refresh"] == "no verdict"
    assert changes_of(results_of({}), old) == []


def test_documents_get_what_they_ask_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = results_of({"pulsering": peer_of(1e7, 8.0), "other": peer_of(1e5, 80.0)})
    small = measure_of([Closed(320, 0, 1.0, Share(1e-4, 1.0), Share(0.1, 0.3), calls=10)])
    results["peers"]["pulsering"]["raw"]["refresh_small"] = small
    file, document = tmp_path / "results.json", tmp_path / "page.md"
    file.write_text(json.dumps(results))
    blocks = "".join(
        f"[above]\n<!-- generated: {name} -->\nstale figures\n<!-- end -->\n[below]\n" for name in BLOCKS
    )
    document.write_text(blocks)
    assert main([str(file), str(document)]) == 0
    text = document.read_text()
    assert "stale figures" not in text
    assert text.count("[above]") == text.count("[below]") == len(BLOCKS)
    assert "abacus" in text
    assert published(text, results, file) == text, "publishing twice changes nothing"


@pytest.mark.parametrize("text", ["nothing", "<!-- generated: poem -->\n<!-- end -->\n"])
def test_documents_that_ask_for_nothing_known_are_left_alone(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, document = tmp_path / "results.json", tmp_path / "page.md"
    file.write_text(json.dumps(results_of({"pulsering": peer_of(1e7, 8.0)})))
    document.write_text(text)
    assert main([str(file), str(document)]) == 1
    assert document.read_text() == text
    assert "compare" in capsys.readouterr().err
    assert main([str(file)]) == 2


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (1234, "1.23 k"), (25e6, "25.0 M"), (0.0123, "0.0123"), (7.04, "7.04")]
)
def test_numbers_have_three_digits_that_count(value: float, shown: str) -> None:
    assert figure_of(value) == shown


def test_charts_escape_and_scale() -> None:
    chart = bars("a < b", [Bar("<x>", 10.0), Bar("y", 5.0), Bar("none", 0.0)])
    assert "<x>" not in chart
    assert 'width="440.0"' in chart
    assert 'width="220.0"' in chart
    assert 'width="0.0"' in chart
    assert bars("log", [Bar("x", 100.0), Bar("y", 1.0)], logarithmic=True).count("<rect") == 2
    assert "<polyline" in curves("t", "x", "y", [Curve("c", [(1.0, 1.0), (2.0, 10.0)])], 5.0)
    assert curves("t", "x", "y", []) == ""


def test_no_verdict_where_other_work_had_the_core() -> None:
    disturbed = Closed(1000, 0, 2.0, Share(1.0, 1.0), Share(0.1, 0.1), calls=1)
    assert disturbed.disturbed
    assert not run_of(1000).disturbed
    other = peer_of(1e5, 80.0)
    other["raw"] = dict.fromkeys(other["raw"], measure_of([disturbed] * 3))
    peers = {"pulsering": peer_of(1e7, 8.0), "other": other}
    assert verdicts(peers)["ratio_refresh_best_peer"] == "no verdict"
    assert "busy with other work" in text_of(results_of(peers))
    old = results_of({"pulsering": peer_of(1e7, 8.0)})
    shaken = deepcopy(old)
    shaken["peers"]["pulsering"]["raw"] = other["raw"]
    found = {change.name: change.verdict for change in changes_of(old, shaken)}
    assert found["raw refresh"] == "no verdict"


def test_what_was_too_short_to_be_booked_still_has_a_rate() -> None:
    _, server, generator = Watch([]).stop()
    assert server.cpu_s > 0
    assert generator.cpu_s > 0
