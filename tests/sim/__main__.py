"""``python -m sim``: many histories, one of them again, a failing one made smaller, or the planted bugs.

Run it in ``tests/``, or by ``make sim`` and ``make sim-planted``::

    python -m sim --seeds 500           # seeds 0 to 499, on all cores; the last line is JSON
    python -m sim --seed 17             # one history, with its faults and what went wrong
    python -m sim --seed 17 --shrink    # and what is left when everything is left out that may be
    python -m sim --seed 17 --record F  # and its records, a line of JSON each
    python -m sim --planted             # each planted bug, and the first seed that finds it
    python -m sim --seed 17 --plant tombstone_lost

The first failing seed is printed as soon as it is found. Exit code 1 if a promise was broken, or a planted
bug was not found.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from sim.history import Phase, dump
from sim.plan import Plan, make_plan
from sim.planted import BUGS, planted
from sim.run import Result, run_plan
from sim.shrink import shrink
from xxhash import xxh64

VIOLATIONS_SHOWN = 5
NEAR_US = 60_000_000


class Outcome(NamedTuple):
    """What is told of one seed."""

    seed: int
    trace_hash: int
    minutes: float
    violations: list[str]
    reads: int
    watched: tuple[int, int] = (0, 0)
    """Changes that watches told of, and statuses shown by pages that follow them."""


def play(plan: Plan, bug: str = "") -> Result:
    """Run a plan, with a planted bug if one is named."""
    with planted(bug):
        return run_plan(plan)


def outcome_of(seed: int, minutes: float, bug: str = "") -> Outcome:
    """Run a seed; whatever it raises is a violation too."""
    plan = make_plan(seed, minutes)
    try:
        result = play(plan, bug)
    except Exception as error:
        return Outcome(seed, 0, 0.0, [f"the history ended with {error!r}"], 0)
    violations = [str(violation) for violation in result.violations[:VIOLATIONS_SHOWN]]
    reads = sum(result.tally[what] for what in ("online", "offline", "unknown"))
    watched = result.tally["told"], result.tally["shown"]
    return Outcome(seed, result.trace_hash, plan.ends_at_us / 60e6, violations, reads, watched)


def hunt(bug: str, seeds: int, minutes: float) -> tuple[str, int | None, str]:
    """The first seed that finds a planted bug, and is clean without it; and what it says."""
    for seed in range(seeds):
        outcome = outcome_of(seed, minutes, bug)
        if outcome.violations and not outcome_of(seed, minutes).violations:
            return bug, seed, outcome.violations[0]
    return bug, None, ""


def command(seed: int, minutes: float, bug: str = "") -> str:
    """What replays a seed."""
    options = f" --minutes {minutes:g}" if minutes != MINUTES else ""
    options += f" --plant {bug}" if bug else ""
    return f"cd tests && python -m sim --seed {seed}{options}"


def sweep(seeds: Iterable[int], minutes: float, jobs: int) -> int:
    """Run all seeds; the exit code."""
    digest, done, broken, simulated, reads = xxh64(), 0, 0, 0.0, 0
    watching = changes = shown = 0
    with get_context("fork").Pool(jobs) as pool:
        for outcome in pool.imap(partial(outcome_of, minutes=minutes), seeds, chunksize=2):
            done += 1
            simulated += outcome.minutes
            reads += outcome.reads
            watching += outcome.watched != (0, 0)
            changes += outcome.watched[0]
            shown += outcome.watched[1]
            digest.update(outcome.trace_hash.to_bytes(8, "little"))
            if outcome.violations:
                broken += 1
                print(f"seed {outcome.seed} breaks a promise; replay: {command(outcome.seed, minutes)}")
                print(*(f"    {violation}" for violation in outcome.violations), sep="\n", flush=True)
    verdict = {
        "seeds": done,
        "violations": broken,
        "simulated_minutes": round(simulated),
        "reads_judged": reads,
        "seeds_watching": watching,
        "watch_changes_judged": changes,
        "watch_statuses_judged": shown,
        "trace_hash": f"{digest.intdigest():016x}",
    }
    print(json.dumps(verdict))
    return 1 if broken else 0


def hunt_all(seeds: int, minutes: float, jobs: int) -> int:
    """Hunt every planted bug; the exit code."""
    found: dict[str, int] = {}
    with get_context("fork").Pool(jobs) as pool:
        for bug, seed, what in pool.imap_unordered(partial(hunt, seeds=seeds, minutes=minutes), BUGS):
            if seed is None:
                print(f"{bug}: not found by {seeds} seeds", flush=True)
            else:
                found[bug] = seed + 1
                print(f"{bug}: seed {seed}: {what}", flush=True)
    print(json.dumps({"planted": len(BUGS), "planted_found": len(found), "seeds_taken": found}))
    return 0 if len(found) == len(BUGS) else 1


def show(result: Result) -> None:
    """What a person needs who wants to know why: the shape, the faults around it, and what was wrong."""
    plan = result.plan
    print(
        f"seed {plan.seed}: {'storm' if plan.storm else 'calm'}, nodes {plan.nodes} (spare {plan.spare}), "
        f"replicas {plan.replicas}, ttl {plan.ttl_ms} ms in {plan.ticks} ticks, calls end after "
        f"{plan.timeout_ms} ms; {len(plan.actions)} calls, {len(plan.faults)} faults"
    )
    near = result.violations[0].at_us if result.violations else plan.ends_at_us
    promises = [(record.at_us, _promise(record)) for record in result.records if isinstance(record, Phase)]
    for at_us, what in sorted([*result.log, *promises]):
        if not result.violations or -NEAR_US < at_us - near < NEAR_US // 10:
            print(f"{at_us / 1e6:12.6f}  {what}")
    print(f"judged: {dict(sorted(result.tally.items()))}")
    print(f"trace hash {result.trace_hash:016x}")
    for violation in result.violations[:VIOLATIONS_SHOWN]:
        print(f"BROKEN {violation}")


def _promise(phase: Phase) -> str:
    definite = ("anything may be unknown", "no user who is held may be unknown", "nothing may be unknown")
    return f"-- {phase.why}: {phase.copies} copies bind, {definite[phase.definite]}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sim", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="this one alone, in full")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="simulated minutes of a history")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--shrink", action="store_true", help="make a failing seed smaller")
    parser.add_argument("--record", type=Path, help="where to write the seed's records")
    parser.add_argument("--plant", choices=sorted(BUGS), default="", metavar="BUG", help="with this bug")
    parser.add_argument("--planted", action="store_true", help="hunt every planted bug, up to --seeds each")
    options: Any = parser.parse_args(arguments)
    if options.planted:
        return hunt_all(options.seeds, options.minutes, options.jobs)
    if options.seed is None:
        seeds = range(options.first, options.first + options.seeds)
        return sweep(seeds, options.minutes, options.jobs)
    run = partial(play, bug=options.plant)
    result = run(make_plan(options.seed, options.minutes))
    if options.shrink and result.violations:
        result = shrink(result, run)
        print("what is left of the plan:")
        print(*(f"    {action}" for action in sorted([*result.plan.actions, *result.plan.faults])), sep="\n")
    if options.record is not None:
        with options.record.open("w", encoding="utf-8") as file:
            dump(result.records, file)
    show(result)
    return 1 if result.violations else 0


MINUTES = 10.0

if __name__ == "__main__":
    sys.exit(main())
