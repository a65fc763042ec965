"""The comparison at a tiny size, on each store that is installed: every answer right, every report made."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pulsering_bench import comparison
from pulsering_bench.compare import PEERS, Work, compare
from pulsering_bench.peers import Peer, PulseringNode, Redis, TtlDictionary
from pulsering_bench.report import html_of, markdown_of, text_of

TINY = Work(
    users=3000,
    ttl_s=30,
    await_warm=False,
    batch=100,
    seconds=0.05,
    repeats=1,
    pool_batches=60,
    client_batch=300,
    client_seconds=0.05,
    page=20,
    pages_per_s=50,
    beats_per_s=20,
    open_seconds=0.3,
    wave_users=1500,
    wave_ttl_s=2,
    wave_patience_s=4.0,
)
EXACT = {"pulsering", "redis", "valkey", "postgresql"}
"""Stores that know to a few milliseconds when somebody expires; the others count in whole seconds."""


class Balance(HTMLParser):
    """Whether tags that open also close, in order, and what they refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def skip_if_missing(peer: type[Peer]) -> None:
    absent = peer.missing()
    if absent:
        pytest.skip(f"{absent} is not installed: {peer.install}")


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_compare(benchmark: Any, peer: type[Peer]) -> None:
    skip_if_missing(peer)
    results = benchmark.pedantic(compare, (TINY,), {"peers": [peer]}, rounds=1)
    found = results["peers"][peer.name]
    assert found["version"]
    assert found["wrong_answers"] == results["wrong_answers"] == 0
    assert found["bytes_loaded"] >= found["bytes_empty"] > 0
    for measure in ("load", "refresh", "refresh_small", "get_hits", "get_half"):
        assert found["raw"][measure]["users"] > 0
        assert found["raw"][measure]["users_per_server_cpu_s"] > 0
    for measure in ("refresh", "get_half"):
        assert found["client"][measure]["users"] > 0
    assert found["latency"]["get"]["samples"] == 15
    assert found["latency"]["unanswered"] == 0
    expiry = found["expiry"]
    assert expiry["reads"] > 0
    if peer.name in EXACT:
        assert expiry["early_reads"] == 0
        assert expiry["late_reads"] == 0
    assert {verdict["verdict"] for verdict in results["verdicts"]} == {"no verdict"}
    json.dumps(results)


class Absent(Redis):
    name = "absent"
    title = "Absent <store>"

    @classmethod
    def missing(cls) -> str | None:
        return "absent-server"


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    said: list[str] = []
    results = compare(TINY, said.append, [PulseringNode, TtlDictionary, Absent])
    assert any("absent-server" in line and Redis.install in line for line in said)
    return results


def test_reports_say_the_same_to_everybody(results: dict[str, Any]) -> None:
    text, page, markdown = text_of(results), html_of(results), markdown_of(results)
    for report in (text, page, markdown):
        assert "TTL dictionary" in report
        assert f"{TINY.users:,} users" in report
    for report in (text, page):
        assert "absent-server" in report
        for verdict in results["verdicts"]:
            assert verdict["claim"] in report
    assert "Absent <store>" not in page, "what comes from elsewhere is escaped"
    assert "prefers-color-scheme: dark" in page
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    assert balance.references == []


def test_a_run_is_judged_against_an_earlier_one(
    results: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, page, table = (tmp_path / name for name in ("old.json", "report.html", "table.md"))
    earlier = json.loads(json.dumps(results))
    earlier["peers"]["pulsering"]["bytes_per_user"] /= 4  # it once needed a fourth of that
    old.write_text(json.dumps(earlier))
    code = comparison.run_compare(TINY, ["pulsering"], as_json=True, report=page, table=table, old=old)
    shown = capsys.readouterr()
    assert code == 1
    assert "worse      bytes a user" in shown.err
    assert json.loads(shown.out)["peers"]["pulsering"]["wrong_answers"] == 0
    assert page.stat().st_size > 0
    assert table.stat().st_size > 0


def test_mistakes_are_answered_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert comparison.run_compare(TINY, ["mongodb"]) == 2
    assert "there are pulsering" in capsys.readouterr().err
    assert comparison.run_compare(TINY, ["redis"], old=tmp_path / "nothing.json") == 2
    assert "nothing.json" in capsys.readouterr().err
    assert comparison.run_compare(Work(users=10**13)) == 2
    assert "--users" in capsys.readouterr().err
