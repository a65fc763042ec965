"""``--compare old.json``: is this run worse than an earlier one, beyond what runs differ anyway?

Only our own figures are judged, each against the spread of its own runs, old and new. Where the generator
was the limit in either run, or the two did not do the same work, nothing is said. Invariant: a machine that
is slower for everybody alike shows in the peers' figures too, so a loss counts only beyond the peers' median
loss.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pulsering_bench.quotients import median_of, per, shown

__all__ = ["Change", "changes_of", "text_of_changes"]

LOSS_MAX: Final = 0.1
"""Beyond the spread of the runs and the loss of the peers; less is noise on most machines."""

OURS: Final = "pulsering"


class Change(NamedTuple):
    """One figure then and now: ``gain`` above 0 is better; ``verdict`` better, same, worse, no verdict."""

    name: str
    before: float | None
    now: float | None
    gain: float | None
    verdict: str
    why: str


def changes_of(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Every figure of ours that both runs have."""
    if OURS not in old["peers"] or OURS not in new["peers"]:
        return []
    machine = _loss_of_peers(old, new)
    changes = []
    before, now = old["peers"][OURS], new["peers"][OURS]
    for section, figure in (("raw", "users_per_server_cpu_s"), ("client", "users_per_cpu_s_of_both")):
        for measure in before[section].keys() & now[section].keys():
            then, here = before[section][measure], now[section][measure]
            gain = _gain(then[figure], here[figure])
            allowed = LOSS_MAX + max(then["spread"] or 0.0, here["spread"] or 0.0) / 2
            doubt = _doubt(old, new, then, here, section)
            changes.append(
                _change(f"{section} {measure}", then[figure], here[figure], gain, machine, allowed, doubt)
            )
    gain = _gain(now["bytes_per_user"], before["bytes_per_user"])
    doubt = _doubt(old, new, {}, {}, "")
    sizes = before["bytes_per_user"], now["bytes_per_user"]
    changes.append(_change("bytes a user", *sizes, gain, 0.0, LOSS_MAX / 2, doubt))
    return sorted(changes)


def text_of_changes(changes: list[Change]) -> str:
    """A line each."""
    return "\n".join(
        f"{change.verdict:10} {change.name}: {shown(change.before, ',.1f')} -> {shown(change.now, ',.1f')} "
        f"({shown(change.gain, '+.1%')})" + (f"; {change.why}" if change.why else "")
        for change in changes
    )


def _change(
    name: str,
    before: float | None,
    now: float | None,
    gain: float | None,
    machine: float,
    allowed: float,
    doubt: str,
) -> Change:
    if gain is None:
        doubt = doubt or "one of the two runs has no such figure"
    if doubt or gain is None:
        return Change(name, before, now, gain, "no verdict", doubt)
    beyond = gain - min(machine, 0.0)
    verdict = "worse" if beyond < -allowed else "better" if gain > allowed else "same"
    why = f"the peers changed by {machine:+.1%}, {allowed:.1%} is allowed" if verdict == "worse" else ""
    return Change(name, before, now, gain, verdict, why)


def _doubt(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    then: Mapping[str, Any],
    here: Mapping[str, Any],
    section: str,
) -> str:
    for key in ("users", "batch", "client_batch"):
        if old["work"][key] != new["work"][key]:
            return f"not the same work: {key} {old['work'][key]} and {new['work'][key]}"
    if section == "raw" and "generator" in (then["limit"], here["limit"]):
        return "the generator was the limit"
    if then and (then.get("rounds_for_nobody") or here.get("rounds_for_nobody")):
        return "a round served nobody"
    if then and (then["disturbed"] or here["disturbed"]):
        return "the machine was busy with other work"
    return ""


def _loss_of_peers(old: Mapping[str, Any], new: Mapping[str, Any]) -> float:
    """How the peers' rates changed, at the median; what changed for all of them is the machine."""
    gains = [
        _gain(
            old["peers"][name]["raw"][measure]["users_per_server_cpu_s"],
            new["peers"][name]["raw"][measure]["users_per_server_cpu_s"],
        )
        for name in old["peers"].keys() & new["peers"].keys() - {OURS}
        for measure in ("refresh", "get_hits", "get_half")
        if {measure} <= old["peers"][name]["raw"].keys() & new["peers"][name]["raw"].keys()
    ]
    return median_of(gains) or 0.0


def _gain(before: float | None, now: float | None) -> float | None:
    ratio = per(now, before)
    return None if ratio is None else ratio - 1
