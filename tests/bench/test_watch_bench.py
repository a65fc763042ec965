"""A watched crowd, tiny: every change is the one that was made, and the verb prints what it saw."""

import asyncio
import json

import pytest

from pulsering_bench.watch import Work, main, measure


def test_a_small_crowd_is_watched() -> None:
    figures = asyncio.run(measure(Work(users=300, samples=20, ttl_ms=1_000)))
    assert figures.users == 300
    assert figures.heartbeat_ms[0] > 0
    assert figures.expiry_ms[0] > -figures.tick_ms, "nobody is told to be offline before the deadline"
    assert figures.changes_per_s is not None
    assert figures.changes_per_s > 0


def test_the_verb_prints_figures(capsys: pytest.CaptureFixture[str]) -> None:
    work = Work(users=50, samples=5, ttl_ms=1_000)
    assert main(work, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["users"] == 50
