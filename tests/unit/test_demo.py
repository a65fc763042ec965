"""The demo's decisions: its timing, the configuration it runs on, and what it shows."""

import dataclasses
import io
import json
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from pulsering import limits
from pulsering_bench.demo_config import BUILT_IN, demo_config, free_port, is_free
from pulsering_bench.plan import SECONDS_MIN, Plan
from pulsering_bench.truth import Wrong
from pulsering_bench.view import Frame, Happening, NodeLine, Verdict, dashboard, plain_line, verdict_table

# --- Plan -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [SECONDS_MIN, 8, 25, 40, 600])
def test_whatever_the_length_nodes_warm_up_one_dies_and_is_warm_again(seconds: float) -> None:
    plan = Plan(seconds=seconds)
    ttl = plan.ttl_ms / 1000
    assert plan.interval < ttl < plan.kill_at < plan.back_at < plan.back_at + ttl < plan.seconds
    assert plan.ttl_ms >= limits.TTL_MS_MIN
    assert plan.steps >= 4


def test_with_time_enough_a_device_beats_every_ten_seconds() -> None:
    assert (Plan().interval, Plan().ttl_ms, Plan().users) == (10.0, 15_000, 1_000_000)
    assert (Plan(seconds=8).interval, Plan(seconds=8).ttl_ms) == (2.0, 3_000)


@pytest.mark.parametrize(
    ("change", "message"), [({"seconds": 3.9}, "--seconds 3.9"), ({"users": 0}, "--users")]
)
def test_what_cannot_be_played_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(Plan(), **change)  # type: ignore[arg-type]


# --- Configuration ----------------------------------------------------------------------------------------


def test_the_built_in_cluster_is_that_of_the_repository() -> None:
    repository = Path(__file__).parents[2] / "cluster.yaml"
    built_in = demo_config(None, 20_000, free=lambda _host, _port: True)
    file = demo_config(repository, 20_000, free=lambda _host, _port: True)
    assert built_in.config == file.config
    assert built_in.notes == file.notes == ()


def test_only_the_ttl_changes_and_that_is_said(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(BUILT_IN + "limits: {memory: 64MiB}  # small\n")
    made = demo_config(file, 2_500, free=lambda _host, _port: True)
    assert made.config.ttl_ms == 2_500
    assert made.config.limits.memory_bytes == 64 << 20
    assert "# small" in made.text
    assert made.notes == ("ttl is 2.5 s here instead of 20 s: time for warm-up, kill and recovery",)
    assert file.read_text().startswith(BUILT_IN)


def test_a_taken_address_moves_to_a_free_port_and_that_is_said() -> None:
    made = demo_config(None, 20_000, free=lambda host, _port: host != "127.0.0.2", take=lambda _host: 12345)
    assert [str(node.address) for node in made.config.nodes] == [
        "127.0.0.1:7400",
        "127.0.0.2:12345",
        "127.0.0.3:7400",
    ]
    assert made.notes == ("127.0.0.2:7400 cannot be used now: node b listens on 127.0.0.2:12345",)


def test_a_port_in_use_and_an_address_of_another_machine_are_not_free() -> None:
    port = free_port("127.0.0.1")
    assert is_free("127.0.0.1", port)
    assert not is_free("203.0.113.7", port)
    assert not is_free("no-such-host.invalid", port)


# --- View -------------------------------------------------------------------------------------------------

FRAME = Frame(
    elapsed=21.3,
    seconds=40,
    truth=(998_211, 1_001_340),
    counted=999_877,
    counted_exactly=True,
    heartbeats_per_s=100_312,
    gets_per_s=101_933,
    p50_ms=0.91,
    p99_ms=14.2,
    reads=2_000_000,
    ghosts=0,
    false_offlines=0,
    unknowns=20_000,
    nodes=(
        NodeLine("a", "127.0.0.1:7400", "UN", 667_211),
        NodeLine("b", "127.0.0.2:7400", "DN"),
        NodeLine("c", "127.0.0.3:7400", "UW", 100, 4.2),
    ),
    happenings=(Happening(17.2, "node b killed (kill -9)", "bold red"),),
    p99s_ms=(0.05, 1.0, 5000.0),
)

VERDICT = Verdict(
    reads_checked=1_000,
    ghosts=0,
    false_offlines=0,
    unknowns=10,
    warm_reads=800,
    warm_unknowns=4,
    online=900,
    offline=90,
    undecided=3,
    users=2_000,
    heartbeats_per_s=200.0,
    gets_per_s=1_000.0,
    get_p50_ms=0.5,
    get_p99_ms=2.5,
    seconds=8.01,
    seed=1,
    heartbeats=1_600,
    unacknowledged=0,
    failed_calls=0,
    count_drift=0.0001,
    generator_lag_p99_ms=1.5,
    generator_cpu=0.25,
    unknown_reasons={"cold": 10},
    notes=("something to know",),
)


def shown(what: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(what)
    file = console.file
    assert isinstance(file, io.StringIO)
    return " ".join(file.getvalue().replace("│", " ").split())


def test_the_dashboard_tells_truth_service_rates_nodes_and_what_happened() -> None:
    text = shown(dashboard(FRAME))
    for part in (
        "21.3 of 40 s",
        "online, truth 998,211-1,001,340",
        "online, count() 999,877",
        "ghosts 0",
        "heartbeats/s 100,312",
        "batch-get p50 0.91 ms",
        "batch-get p99 14 ms",
        "unknown 1.000%",
        "a UN up 127.0.0.1:7400 667,211",
        "b DN down 127.0.0.2:7400 -",
        "c UW warming 127.0.0.3:7400 100 warm in 4 s",
        "17.2s node b killed (kill -9)",
        "▁▃█",
    ):
        assert part in text


def test_a_plain_line_is_one_line_with_the_same_figures() -> None:
    line = plain_line(dataclasses.replace(FRAME, counted_exactly=False, ghosts=3))
    assert "\n" not in line
    for part in ("21.3s", "truth 998,211-1,001,340", "service ≥ 999,877", "ghosts 3", "a=UN b=DN c=UW"):
        assert part in line
    assert "service -" in plain_line(dataclasses.replace(FRAME, counted=None))


def test_a_verdict_passes_only_if_something_was_read_and_nothing_was_wrong() -> None:
    assert VERDICT.passed
    assert not dataclasses.replace(VERDICT, ghosts=1).passed
    assert not dataclasses.replace(VERDICT, false_offlines=1).passed
    assert not dataclasses.replace(VERDICT, reads_checked=0).passed
    assert "✔ every answer was right" in shown(verdict_table(VERDICT))
    assert "✘ nothing was read" in shown(verdict_table(dataclasses.replace(VERDICT, reads_checked=0)))


def test_a_failed_verdict_shows_what_was_wrong_and_what_was_known() -> None:
    wrong = Wrong("ghost", 7, 0.001, -30.0, None, None)
    text = shown(verdict_table(dataclasses.replace(VERDICT, ghosts=1, examples=(wrong,))))
    assert "ghosts 1" in text
    assert "ghost: row 7, read took 1.0 ms; last heartbeat ended 30.000 s before" in text
    assert "✘ 1 wrong answers" in text


def test_the_verdict_shows_its_notes_and_what_unknown_meant() -> None:
    text = shown(verdict_table(VERDICT))
    assert "note: something to know" in text
    assert "unknown 10 never a guess; 0.500% once the cluster was warm why: 10 cold" in text


def test_the_json_object_has_the_promised_names() -> None:
    document = json.loads(json.dumps(VERDICT.document))
    promised = {"reads_checked", "ghosts", "false_offlines", "unknowns", "heartbeats_per_s", "gets_per_s"}
    assert promised | {"get_p50_ms", "get_p99_ms", "users"} <= document.keys()
    assert document["passed"] is True
