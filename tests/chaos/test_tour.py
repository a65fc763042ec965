"""The short tour through real faults in every test run, and the proof that it would notice a wrong answer.

Real nodes in network namespaces and in time namespaces 10^5 s apart (scenario 20): killed (24), their link
stalled and released (16), swallowing packets (35), stopped (22), short of files (54), restarted one after
another (37), a node more and a node less (30). ``make chaos`` is the long one.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from chaos.namespaces import why_not
from chaos.tour import SHORT

TESTS = Path(__file__).parents[1]
REASON = why_not()
LAG_MS = 300.0
"""A load that had no turn for so long, of the second that a call has, is one that may have missed its own."""

pytestmark = [
    pytest.mark.skipif(bool(REASON), reason=REASON or "none"),
    pytest.mark.timeout(300),
]

BOTH = ["web", "edge"]
UNREACHED = {
    "kill_9": BOTH,
    "stall": ["edge"],
    "black_hole": BOTH,
    "stop": BOTH,
    "files_exhausted": ["edge"],
    "restart": BOTH,
}


def tour(*arguments: str, keep: Path) -> tuple[int, dict[str, Any]]:
    """The exit code and the last line of a tour."""
    done = subprocess.run(
        [sys.executable, "-m", "chaos", "--keep", str(keep), *arguments],
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    lines = done.stdout.splitlines()
    assert lines, done.stderr
    document: dict[str, Any] = json.loads(lines[-1])
    return done.returncode, document


def test_no_answer_is_wrong_whatever_happens_to_one_node(tmp_path: Path) -> None:
    code, verdict = tour("--short", keep=tmp_path)
    assert (verdict["ghosts"], verdict["false_offlines"]) == (0, 0), verdict["broken"]
    assert verdict["problems"] == []
    assert code == 0, verdict
    assert min(verdict["online"], verdict["offline"]) > 1_000
    assert verdict["faults"] + len(verdict["skipped"]) == len(SHORT)
    for figures in verdict["by_fault"]:
        assert figures["reads"] > 500, figures
        if figures["fault"] in UNREACHED:
            assert figures["unreached_by"] == UNREACHED[figures["fault"]], "a fault is felt"
        if figures["fault"] == "truncate":
            assert figures["connects"] > 0, "so is this one"
    killed = verdict["by_fault"][0]
    assert killed["fault"] == "kill_9"
    if killed["load_lag_ms"] < LAG_MS:  # scenario 24
        assert killed["caller_errors"] == 0, killed
        assert killed["unknown_share"] <= 0.001, killed
        assert killed["bad_until_s"] <= 2, killed


@pytest.mark.parametrize(
    ("bug", "fault", "promise"),
    [("union_forgotten", "cut_off_from_one", "false_offlines"), ("age_ignored", "stall", "ghosts")],
)
def test_a_bug_is_found_out(bug: str, fault: str, promise: str, tmp_path: Path) -> None:
    code, verdict = tour("--only", fault, "--plant", bug, keep=tmp_path)
    assert code == 1
    assert verdict[promise] > 0, verdict
    assert verdict["broken"]


async def test_a_tour_that_is_killed_leaves_nobody_behind(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chaos", "--only", "stop", "--keep", str(tmp_path)),
        cwd=TESTS,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    assert b"stop" in await process.stderr.readline()  # all is set up, and a node is stopped
    helpers = psutil.Process(process.pid).children(recursive=True)
    assert len(helpers) >= 3 + 3 + 7, "nodes, loads and proxy, and who holds namespaces"
    process.kill()
    await process.communicate()
    _, alive = psutil.wait_procs(helpers, timeout=20)
    assert not alive
