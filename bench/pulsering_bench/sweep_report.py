"""A sweep for people: the curve of latency against load in a terminal, as a picture, and as a page.

Invariant: nothing is computed here that is not in the results.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any, Final

from pulsering_bench.charts import Curve, curves, figure_of
from pulsering_bench.page import document, note, picture, section, table
from pulsering_bench.peers import Peer
from pulsering_bench.quotients import shown
from pulsering_bench.sweep import Plan, sweep

__all__ = ["html_of", "run_sweep", "svg_of", "text_of"]

Results = dict[str, Any]

_BAR: Final = 50
_CURVES: Final = (("p50", "p50_ms", "peer"), ("p99", "p99_ms", "ours"), ("p99.9", "p999_ms", "packed"))


def run_sweep(
    kind: type[Peer], plan: Plan, *, as_json: bool, report: Path | None = None, chart: Path | None = None
) -> int:
    """Sweep, show, write; the exit code is 1 if an answer was wrong."""
    results = sweep(kind, plan, lambda line: print(f"  {line}", file=sys.stderr, flush=True))
    if report is not None:
        report.write_text(html_of(results), "utf-8")
    if chart is not None:
        chart.write_text(svg_of(results), "utf-8")
    print(json.dumps(results, indent=1) if as_json else text_of(results))
    return 1 if results["wrong_answers"] else 0


def text_of(results: Results) -> str:
    """The curve of the p99, logarithmic, with the target marked, and what was found."""
    points: list[dict[str, Any]] = results["points"]
    page, target = results["plan"]["page"], results["plan"]["target_ms"]
    lines = [f"{results['peer']['title']}: p99 against load, open loop, requests of {page} users", ""]
    values = [point["p99_ms"] for point in points if point["p99_ms"]]
    low, high = min([*values, target]) / 2, max([*values, target])
    mark = _length(target, low, high)
    for point in points:
        bar = "#" * _length(point["p99_ms"] or low, low, high)
        bar = bar.ljust(mark)[: mark - 1] + "|" + bar[mark:]
        lines.append(
            f"{point['rate']:10,.0f}/s  {shown(point['p99_ms'], '9.3f')} ms  {bar.ljust(_BAR)}  "
            f"server {point['server_busy']:4.0%}, generator {point['generator_busy']:4.0%}"
        )
    lines += [
        "",
        f"| is the target of {target:g} ms; lengths are logarithmic",
        _found(results),
        f"closed loop (callers that wait; not comparable): {figure_of(results['closed_loop_users_per_s'])} "
        f"users/s, limit: {results['closed_loop_limit']}",
    ]
    return "\n".join(lines)


def _found(results: Results) -> str:
    held, broken, page = (
        results["highest_rate_held"],
        results["lowest_rate_broken"],
        results["plan"]["page"],
    )
    rate = f"held {held:,.0f} requests/s = {figure_of(held * page)} users/s" if held else "held no rate"
    at = f", broke at {broken:,.0f}" if broken else ""
    return f"{rate}{at}: {results['why']}" + ("" if results["verdict"] == "found" else " (no verdict)")


def _length(value: float, low: float, high: float) -> int:
    return max(1, round(_BAR * math.log(value / low) / math.log(high / low)))


def _title(results: Results) -> str:
    return f"{results['peer']['title']}: latency against load"


def _chart(results: Results) -> str:
    lines = [
        Curve(label, [(point["rate"], point[key]) for point in results["points"] if point[key]], kind)
        for label, key, kind in _CURVES
    ]
    return curves(
        _title(results), "requests a second", "ms (logarithmic)", lines, results["plan"]["target_ms"]
    )


def svg_of(results: Results) -> str:
    """The curve as a picture of its own."""
    return picture(_title(results), _chart(results))


def html_of(results: Results) -> str:
    """The curve as a page."""
    machine = results["machine"]
    rows = [
        (
            f"{p['rate']:,.0f}",
            figure_of(p["users_per_s"]),
            *(shown(p[key], ".3f") for key in ("p50_ms", "p99_ms", "p999_ms", "max_ms", "lag_ms")),
            str(p["refused"]),
            f"{p['server_busy']:.0%} / {p['generator_busy']:.0%}",
            p["end"],
        )
        for p in results["points"]
    ]
    head = ("requests/s", "users/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "generator late ms", "refused")
    return document(
        _title(results),
        [
            note(f"{machine['date'][:10]}, {machine['cpu']}, {machine['cores']} cores: {machine['command']}"),
            section(
                "Curve",
                _chart(results),
                note(f"Open loop, from when each was due. {_found(results)}."),
            ),
            section("Steps", table((*head, "busy: server / generator", ""), rows)),
        ],
    )
