"""What a comparison found, in one shape that is written to JSON and read by the report.

A measure is run several times; what counts is the median, and the spread stands beside it. Rates are users a
second of the server's *own CPU*: on a machine where the generator or somebody else has a share in every
second, that is the figure which says what a core of server is worth. The rate by the clock stands beside it.
One caller of a Python client waits for the server and the server for it, so there the CPU of both counts.
Invariant: a verdict is given only when the generator was not the limit, the machine did nothing else, and no
answer was wrong.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pulsering_bench.drive import Closed

__all__ = ["WANTED", "measure_of", "ratios_of", "verdict_of"]

OURS: Final = "pulsering"

WANTED: Final[dict[str, tuple[float, str]]] = {
    "ratio_refresh_best_peer": (15.0, "refreshes a server core, against the best peer with a key a user"),
    "ratio_get_best_peer": (8.0, "gets a server core, against the best peer with a key a user"),
    "ratio_bytes_best_peer": (9.0, "users in a byte of memory, against the best peer with a key a user"),
    "ratio_client_refresh_best_peer": (50.0, "refreshes through the Python client, by CPU of both sides"),
    "ratio_client_get_best_peer": (50.0, "gets through the Python client, by CPU of both sides"),
}
"""What is claimed, in the report's words; the comparison says whether this machine agrees."""


def measure_of(runs: Sequence[Closed]) -> dict[str, Any]:
    """Several runs of one closed loop: medians, spread, and which side was the limit in most of them."""
    rates = [run.per_server_s for run in runs]
    limits = [run.limit for run in runs]
    median = statistics.median(rates)
    return {
        "users_per_server_cpu_s": median,
        "users_per_s": statistics.median(run.users / run.wall_s for run in runs),
        "users_per_caller_cpu_s": statistics.median(run.users / run.generator.cpu_s for run in runs),
        "users_per_cpu_s_of_both": statistics.median(
            run.users / (run.server.cpu_s + run.generator.cpu_s) for run in runs
        ),
        "server_cpu_s_per_million": 1e6 / median,
        "caller_cpu_s_per_million": statistics.median(1e6 * run.generator.cpu_s / run.users for run in runs),
        "server_busy": statistics.median(run.server.busy for run in runs),
        "generator_busy": statistics.median(run.generator.busy for run in runs),
        "spread": (max(rates) - min(rates)) / median,
        "limit": statistics.mode(limits),
        "disturbed": sum(run.disturbed for run in runs) > len(runs) / 2,
        "limits": limits,
        "runs_users_per_server_cpu_s": rates,
        "calls": sum(run.calls for run in runs),
        "refused": sum(run.refused for run in runs),
        "users": sum(run.users for run in runs),
        "wrong_answers": sum(run.wrong for run in runs),
    }


def ratios_of(peers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The ratios and verdicts of a comparison; those without a peer or without us are None."""
    raw = "raw", "users_per_server_cpu_s"
    client = "client", "users_per_cpu_s_of_both"
    found = {
        "ratio_refresh_best_peer": _rate(peers, raw, ("refresh",)),
        "ratio_get_best_peer": _rate(peers, raw, ("get_hits", "get_half")),
        "ratio_bytes_best_peer": _bytes(peers),
        "ratio_client_refresh_best_peer": _rate(peers, client, ("refresh",)),
        "ratio_client_get_best_peer": _rate(peers, client, ("get_half",)),
    }
    verdicts = []
    for name, (ratio, best, doubts) in found.items():
        wanted, claim = WANTED[name]
        verdict, why = verdict_of(ratio, wanted, doubts)
        verdicts.append(
            {"name": name, "claim": claim, "ratio": ratio, "wanted": wanted, "best_peer": best}
            | {"verdict": verdict, "why": why}
        )
    return {name: ratio for name, (ratio, _, _) in found.items()} | {"verdicts": verdicts}


def verdict_of(ratio: float | None, wanted: float, doubts: Sequence[str]) -> tuple[str, str]:
    """``reached``, ``not reached`` or ``no verdict``, and why."""
    if ratio is None:
        return "no verdict", "nothing to compare"
    if doubts:
        return "no verdict", "; ".join(doubts)
    if ratio >= wanted:
        return "reached", f"{ratio:.1f} times, {wanted:g} were expected"
    return "not reached", f"{ratio:.1f} times, where {wanted:g} were expected"


Found = tuple[float | None, str | None, list[str]]


def _rivals(peers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [name for name, peer in peers.items() if name != OURS and peer["one_key_per_user"]]


def _rate(peers: Mapping[str, Mapping[str, Any]], what: tuple[str, str], measures: tuple[str, ...]) -> Found:
    """Ours over the best of the others; of several measures the one in which we look worst."""
    section, figure = what
    worst: Found = None, None, []
    for measure in measures:
        rivals = [name for name in _rivals(peers) if measure in peers[name].get(section, {})]
        if section == "client":
            rivals = [name for name in rivals if peers[name]["has_library"]]
        if not rivals or measure not in peers.get(OURS, {}).get(section, {}):
            continue
        best = max(rivals, key=lambda name, m=measure: peers[name][section][m][figure])  # type: ignore[misc]
        ratio = peers[OURS][section][measure][figure] / peers[best][section][measure][figure]
        if worst[0] is None or ratio < worst[0]:
            worst = ratio, best, _doubts(peers, (OURS, best), section, measure)
    return worst


def _doubts(
    peers: Mapping[str, Mapping[str, Any]], names: Sequence[str], section: str, measure: str
) -> list[str]:
    doubts = []
    for name in names:
        found = peers[name][section][measure]
        title = peers[name]["title"]
        if found["wrong_answers"]:
            doubts.append(f"{title} gave {found['wrong_answers']} wrong answers ({measure})")
        if section == "raw" and found["limit"] == "generator":
            doubts.append(f"the generator was the limit, not {title} ({measure})")
        if found["disturbed"]:
            doubts.append(f"the machine was busy with other work ({title}, {measure})")
    return doubts


def _bytes(peers: Mapping[str, Mapping[str, Any]]) -> Found:
    rivals = _rivals(peers)
    if not rivals or OURS not in peers:
        return None, None, []
    best = min(rivals, key=lambda name: peers[name]["bytes_per_user"])
    return peers[best]["bytes_per_user"] / peers[OURS]["bytes_per_user"], best, []
