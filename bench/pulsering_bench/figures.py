"""What a comparison found, in one shape that is written to JSON and read by the report.

A measure is run several times; what counts is the median, and the spread stands beside it. Rates are users a
second of the server's *own CPU*: on a machine where the generator or somebody else has a share in every
second, that is the figure which says what a core of server is worth. The rate by the clock stands beside it.
One caller of a Python client waits for the server and the server for it, so there the CPU of both counts.
A round that served nobody has no rate: it is counted, and the medians are of the others. Invariant: a verdict
is given only when the generator was not the limit, the machine did nothing else, every round served somebody,
and no answer was wrong.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pulsering_bench.drive import Closed
from pulsering_bench.quotients import median_of, per

__all__ = ["WANTED", "measure_of", "ratios_of", "verdict_of"]

OURS: Final = "pulsering"

WANTED: Final[dict[str, tuple[float, str]]] = {
    "ratio_refresh_best_peer": (15.0, "refreshes a server core, against the best peer with a key a user"),
    "ratio_get_best_peer": (8.0, "gets a server core, against the best peer with a key a user"),
    "ratio_bytes_best_peer": (
        9.0,
        "users in a byte that the store grew by, against the best peer with a key a user",
    ),
    "ratio_client_refresh_best_peer": (50.0, "refreshes through the Python client, by CPU of both sides"),
    "ratio_client_get_best_peer": (50.0, "gets through the Python client, by CPU of both sides"),
}
"""What is claimed, in the report's words; the comparison says whether this machine agrees."""


def measure_of(runs: Sequence[Closed]) -> dict[str, Any]:
    """Several runs of one closed loop: medians, spread, and which side was the limit in most of them.

    Rates and costs are None if no run served anybody; ``rounds_for_nobody`` says how many did not.
    """
    rates = [run.per_server_s for run in runs]
    limits = [run.limit for run in runs]
    serving = [run for run in runs if run.users]
    served = [rate for rate in rates if rate is not None]
    median = median_of(rates)
    return {
        "users_per_server_cpu_s": median,
        "users_per_s": median_of(per(run.users, run.wall_s) for run in serving),
        "users_per_caller_cpu_s": median_of(per(run.users, run.generator.cpu_s) for run in serving),
        "users_per_cpu_s_of_both": median_of(
            per(run.users, run.server.cpu_s + run.generator.cpu_s) for run in serving
        ),
        "server_cpu_s_per_million": per(1e6, median),
        "caller_cpu_s_per_million": median_of(per(run.generator.cpu_s, run.users, 1e6) for run in serving),
        "server_busy": statistics.median(run.server.busy for run in runs),
        "generator_busy": statistics.median(run.generator.busy for run in runs),
        "spread": per(max(served) - min(served), median) if served else None,
        "limit": statistics.mode(limits),
        "disturbed": sum(run.disturbed for run in runs) > len(runs) / 2,
        "rounds_for_nobody": len(runs) - len(serving),
        "limits": limits,
        "runs_users_per_server_cpu_s": rates,
        "calls": sum(run.calls for run in runs),
        "refused": sum(run.refused for run in runs),
        "users": sum(run.users for run in runs),
        "wrong_answers": sum(run.wrong for run in runs),
    }


def ratios_of(peers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The ratios and verdicts of a comparison; those without a peer or without us are None.

    Memory is compared in two ways. ``ratio_bytes_best_peer`` takes what each store grew by from empty to
    loaded, which is what one more user costs; ``ratio_bytes_of_all_best_peer`` takes all that its processes
    then hold, interpreter and buffers included, which depends on how many users share that.
    """
    raw = "raw", "users_per_server_cpu_s"
    client = "client", "users_per_cpu_s_of_both"
    found = {
        "ratio_refresh_best_peer": _rate(peers, raw, ("refresh",)),
        "ratio_get_best_peer": _rate(peers, raw, ("get_hits", "get_half")),
        "ratio_bytes_best_peer": _bytes(peers, "bytes_per_user"),
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
    whole, _, _ = _bytes(peers, "bytes_per_user_of_all")
    return (
        {name: ratio for name, (ratio, _, _) in found.items()}
        | {"ratio_bytes_of_all_best_peer": whole}
        | {"verdicts": verdicts}
    )


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
        rates = {
            name: found[section][measure][figure]
            for name, found in peers.items()
            if found.get(section, {}).get(measure, {}).get(figure)
        }
        rivals = [name for name in _rivals(peers) if name in rates]
        if section == "client":
            rivals = [name for name in rivals if peers[name]["has_library"]]
        if not rivals:
            continue
        best = max(rivals, key=rates.__getitem__)
        ratio = per(rates.get(OURS), rates[best])
        if ratio is not None and (worst[0] is None or ratio < worst[0]):
            worst = ratio, best, _doubts(peers, (OURS, best), section, measure)
    return worst


def _doubts(
    peers: Mapping[str, Mapping[str, Any]], names: Sequence[str], section: str, measure: str
) -> list[str]:
    doubts = []
    for name in names:
        found = peers[name][section][measure]
        title = peers[name]["title"]
        if silent := found["rounds_for_nobody"]:
            doubts.append(f"{title} served nobody in {silent} of {len(found['limits'])} rounds ({measure})")
        if found["wrong_answers"]:
            doubts.append(f"{title} gave {found['wrong_answers']} wrong answers ({measure})")
        if section == "raw" and found["limit"] == "generator":
            doubts.append(f"the generator was the limit, not {title} ({measure})")
        if found["disturbed"]:
            doubts.append(f"the machine was busy with other work ({title}, {measure})")
    return doubts


def _bytes(peers: Mapping[str, Mapping[str, Any]], figure: str) -> Found:
    sizes = {name: peer[figure] for name, peer in peers.items() if peer.get(figure)}
    rivals = [name for name in _rivals(peers) if name in sizes]
    if not rivals:
        return None, None, []
    best = min(rivals, key=sizes.__getitem__)
    return per(sizes[best], sizes.get(OURS)), best, []
