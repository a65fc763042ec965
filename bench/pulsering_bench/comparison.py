"""What ``pulsering bench compare`` does around the measuring: memory asked for first, results handed out.

Progress goes to stderr; stdout has the table, or with ``--json`` the results and nothing else, so that they
can be redirected into the file that a later ``--compare`` reads. Invariant: the exit code is 0 only if no
answer of ours was wrong and, where there is an earlier run, nothing is worse.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import psutil  # type: ignore[import-untyped,unused-ignore]

from pulsering_bench.against import changes_of, text_of_changes
from pulsering_bench.compare import PEERS, Work, compare
from pulsering_bench.report import html_of, markdown_of, text_of
from pulsering_bench.servers import ServerFailed

__all__ = ["run_compare"]

OK: Final = 0
FAILED: Final = 1
MISUSED: Final = 2
BYTES_PER_USER: Final = 150
"""Of one peer, generously; the generator holds one more copy of the ids and its requests."""

BYTES_BESIDE: Final = 1 << 30


def run_compare(
    work: Work,
    only: Sequence[str] = (),
    *,
    as_json: bool = False,
    report: Path | None = None,
    table: Path | None = None,
    old: Path | None = None,
) -> int:
    """Compare, write what is wanted, judge; the exit code."""
    unknown = set(only) - {peer.name for peer in PEERS}
    if unknown:
        names = ", ".join(peer.name for peer in PEERS)
        return _complain(f"no such peer: {', '.join(sorted(unknown))}; there are {names}")
    peers = [peer for peer in PEERS if not only or peer.name in only]
    needed = work.users * BYTES_PER_USER * len(peers) + BYTES_BESIDE
    available = int(psutil.virtual_memory().available)
    if needed > available:
        fits = max(0, (available - BYTES_BESIDE) // (BYTES_PER_USER * len(peers)))
        return _complain(
            f"{work.users:,} users on {len(peers)} stores at once need about {needed / 2**30:.1f} GiB, but "
            f"{available / 2**30:.1f} GiB are available: --users {fits} would fit"
        )
    try:
        earlier: dict[str, Any] | None = None if old is None else json.loads(old.read_text("utf-8"))
    except (OSError, ValueError) as error:
        return _complain(f"--compare {old}: {error}")
    try:
        results = compare(work, lambda step: print(f"  {step}", file=sys.stderr, flush=True), peers)
    except ServerFailed as error:
        print(f"pulsering bench compare: {error}", file=sys.stderr)
        return FAILED
    if report is not None:
        report.write_text(html_of(results), "utf-8")
    if table is not None:
        table.write_text(markdown_of(results), "utf-8")
    print(json.dumps(results, indent=1) if as_json else text_of(results))
    return _judge(results, earlier, to_stderr=as_json)


def _judge(results: dict[str, Any], earlier: dict[str, Any] | None, *, to_stderr: bool) -> int:
    code = OK
    ours = results["peers"].get("pulsering")
    wrong = (
        ours["wrong_answers"] + ours["expiry"]["late_reads"] + ours["expiry"]["early_reads"] if ours else 0
    )
    if wrong:
        print(f"pulsering bench compare: {wrong} wrong answers of Pulsering", file=sys.stderr)
        code = FAILED
    if earlier is not None:
        changes = changes_of(earlier, results)
        print("\n" + text_of_changes(changes), file=sys.stderr if to_stderr else sys.stdout)
        if any(change.verdict == "worse" for change in changes):
            code = FAILED
    return code


def _complain(text: str) -> int:
    print(f"pulsering bench compare: {text}", file=sys.stderr)
    return MISUSED
