"""Sizing: the arithmetic comes out, says where it is from, and refuses what is no profile."""

import json
from pathlib import Path
from typing import Any

import pytest

from pulsering import limits
from pulsering_bench.sizing import (
    Demand,
    Profile,
    facts_of,
    load_profile,
    markdown_of,
    size_of,
    text_of,
)
from pulsering_server.cli import run

PROFILE = Profile(1 / 10e6, 1 / 20e6, 1e-6, 8.0, 5e6, 4e6, "a test")
DEMAND = Demand(users=1e6, online=5e5, interval_s=10, replicas=2, cores_per_node=1, batch=1000)


def results(users_per_s: dict[str, tuple[int, float]]) -> dict[str, Any]:
    """As ``bench compare --json`` has it: measure to (users in a call, users a second)."""
    raw = {
        name: {"users": 100 * size, "calls": 100, "users_per_server_cpu_s": rate}
        for name, (size, rate) in users_per_s.items()
    }
    client = {name: {"users_per_caller_cpu_s": 7e6} for name in ("refresh", "get_half")}
    return {
        "machine": {"date": "2026-01-02T03:04:05", "cpu": "abacus"},
        "work": {"users": 5},
        "peers": {"pulsering": {"raw": raw, "client": client, "bytes_per_user": 7.5}},
    }


def test_rates_follow_from_users_interval_and_replicas() -> None:
    sizing = size_of(DEMAND, PROFILE)
    assert sizing["heartbeats"] == 50_000
    assert sizing["refreshes"] == 100_000
    assert sizing["gets"] == 50_000
    assert sizing["memory"] == 1e6 * 2 * 8.0


def test_a_frame_costs_something_beside_its_users() -> None:
    sizing = size_of(DEMAND, PROFILE)
    frames = 100_000 / sizing["users_per_refresh_frame"] + 50_000 / sizing["users_per_get_frame"]
    assert sizing["frames"] == pytest.approx(frames)
    assert sizing["work"] == pytest.approx(100_000 / 10e6 + 50_000 / 20e6 + frames * 1e-6)


def test_nodes_are_the_fewest_that_carry_the_work() -> None:
    demand = Demand(users=1e9, online=1e9, cores_per_node=16, batch=8192)
    sizing = size_of(demand, PROFILE)
    assert sizing["load_of_a_core"] <= 0.6
    assert sizing["work"] / ((sizing["nodes"] - 1) * 16) > 0.55
    assert size_of(Demand(users=10, online=10), PROFILE)["nodes"] == 2  # never fewer than owners


def test_little_memory_makes_more_nodes() -> None:
    small = Demand(users=1e9, online=1e6, memory_bytes=1e9)
    assert size_of(small, PROFILE)["nodes"] == 20  # 16 GB in 0.8 GB each


def test_pool_rule_never_fills_a_node() -> None:
    for servers in (1, 7, 3_000, 10_000, 50_000):
        sizing = size_of(Demand(api_servers=servers), PROFILE)
        pool = sizing["max_connections"]
        assert pool >= 1
        assert pool == 1 or pool * servers <= limits.CONNECTIONS
    assert size_of(Demand(api_servers=1000), PROFILE)["max_connections"] == 10


def test_losing_a_node_or_zone_moves_its_load() -> None:
    sizing = size_of(Demand(zones=3, cores_per_node=4, batch=8192), PROFILE)
    nodes = sizing["nodes"]
    assert sizing["load_after_a_lost_node"] == pytest.approx(sizing["load_of_a_core"] * nodes / (nodes - 1))
    assert sizing["load_after_a_lost_zone"] == pytest.approx(sizing["load_of_a_core"] * 3 / 2)
    alone = text_of(size_of(Demand(replicas=1), PROFILE), Demand(replicas=1), PROFILE)
    assert "unknown until their next heartbeat" in alone
    assert "statuses become unknown" in alone


def test_too_much_for_one_topology_is_refused() -> None:
    with pytest.raises(ValueError, match="several clusters"):
        size_of(Demand(users=1e13, online=1e13), PROFILE)


def test_profile_of_a_comparison_tells_frames_from_users(tmp_path: Path) -> None:
    file = tmp_path / "measured.json"
    per_user, per_frame = 50e-9, 2e-6
    rates = {
        name: (size, size / (size * per_user + per_frame))
        for name, size in (("refresh", 1000), ("refresh_small", 32), ("get_hits", 1000), ("get_half", 1000))
    }
    file.write_text(json.dumps(results(rates)))
    profile = load_profile(file)
    assert profile.refresh_user_s == pytest.approx(per_user)
    assert profile.frame_s == pytest.approx(per_frame)
    assert profile.get_user_s == pytest.approx(per_user)
    assert profile.bytes_per_user == 7.5
    assert "abacus" in profile.source
    assert "measured.json" in text_of(size_of(DEMAND, profile), DEMAND, profile)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"peers": {"pulsering": {}}}', '{"peers": 1}'])
def test_what_is_no_profile_is_refused_with_a_sentence(tmp_path: Path, text: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(ValueError, match="bench compare --json"):
        load_profile(file)


def test_every_figure_shows_its_arithmetic() -> None:
    sizing = size_of(DEMAND, PROFILE)
    text, table = text_of(sizing, DEMAND, PROFILE), markdown_of(sizing)
    for step in sizing.steps:
        assert any(letter.isdigit() for letter in step.arithmetic) or step.name == "gets"
        assert step.arithmetic in text
        assert step.arithmetic in table
        assert step.name in facts_of(sizing, DEMAND, PROFILE)["figures"]


def test_command_prints_and_refuses(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["size", "--users", "1e6", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["figures"]["heartbeats"]["value"] == 100_000
    assert run(["size", "--users", "1e6", "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("| | |")
    for wrong, said in (
        (["--interval", "10"], "no unit"),
        (["--online", "2e9"], "--online"),
        (["--profile", "/nowhere"], "/nowhere"),
    ):
        assert run(["size", *wrong]) == 2
        assert said in capsys.readouterr().err


def test_the_largest_shard_holds_more_than_the_mean_and_every_zone_counts() -> None:
    for zones in (1, 2, 3):
        sizing = size_of(Demand(users=1e9, online=1e9, cores_per_node=16, zones=zones), PROFILE)
        mean, largest = sizing["users_per_shard"], sizing["users_of_the_largest_shard"]
        assert mean < largest < 1.5 * mean
