"""The table's hot calls at a tiny size, and the bench of the table itself run through once."""

import json
from typing import Any

import numpy as np
import pytest

from pulsering_bench import table as bench
from pulsering_server.table import Table

KEYS = bench.packed(bench.keys_of(np.arange(1_000, dtype=np.uint64)))


@pytest.fixture
def table() -> Any:
    table = Table(ttl_ms=20_000)
    table.heartbeat(KEYS, 0)
    return table


def test_refresh(table: Any, benchmark: Any) -> None:
    assert benchmark(table.heartbeat, KEYS, 0).accepted == 1_000


def test_get(table: Any, benchmark: Any) -> None:
    assert benchmark(table.get, KEYS, 0) == b"\x55" * 250


def test_the_bench_runs_and_finds_no_wrong_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--users", "3000", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["users"] == 3_000
    assert figures["wrong_answers"] == 0


def test_scenario_5_a_crowd_on_one_spoke_expires_in_one_tick() -> None:
    """How long reads take meanwhile is a figure of the bench, not judged here: ``expiry_p99_ratio``."""
    table = Table(ttl_ms=20_000)
    crowd = bench.packed(bench.keys_of(np.arange(1_000_000, dtype=np.uint64)))
    table.heartbeat(crowd[:4_000_000], 0)
    table.heartbeat(crowd[4_000_000:], 9)
    assert table.count(20_000) == [1_000_000]
    assert table.get(crowd, 20_250) == bytes(250_000)
    assert table.count(20_250) == [0]


def test_the_bench_refuses_what_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--users", "1000000000000"]) == 1
    assert "--users" in capsys.readouterr().err
