"""``python -m chaos``: a tour through everything that may go wrong, on real processes; or by ``make chaos``.

Run it in ``tests/``::

    python -m chaos                      # the whole tour, about six minutes; the last line is JSON
    python -m chaos --short              # the one that every test run takes
    python -m chaos --only stall stop    # these faults alone
    python -m chaos --only stall --plant age_ignored    # with a bug: it must be found

Exit code 0: no answer was wrong and no node ended by itself. 1: else; logs and histories are kept. 2: this
machine or user has no network and time namespaces.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from chaos.faults import FAULTS
from chaos.namespaces import as_root, why_not
from chaos.tour import FULL, SHORT, Plan, Step, travel
from sim.planted import BUGS

from pulsering import limits

FULL_TTL_MS = 4_000
SHORT_TTL_MS = 2_000
SHORT_TIMEOUT_S = 1.0
"""Longer than a client's own: the short tour runs beside other tests, who take its processor away."""


def plan_of(options: Any) -> Plan:
    """The tour that was asked for."""
    if not options.short and not options.only:
        return Plan(options.seed, FULL_TTL_MS, limits.CALL_TIMEOUT_MS / 1000, FULL, options.plant)
    ttls = {step.fault: step.ttls for step in FULL}
    steps = tuple(Step(fault, ttls[fault]) for fault in options.only) if options.only else SHORT
    return Plan(options.seed, SHORT_TTL_MS, SHORT_TIMEOUT_S, steps, options.plant)


async def _travel(plan: Plan, directory: Path) -> dict[str, Any]:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await travel(plan, directory)


def main(arguments: list[str]) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="of the load, the proxy, and who is befallen")
    parser.add_argument("--short", action="store_true", help="the short tour")
    parser.add_argument("--only", nargs="+", choices=sorted(FAULTS), metavar="FAULT", help="these faults")
    parser.add_argument("--plant", choices=sorted(BUGS), default="", metavar="BUG", help="in every process")
    parser.add_argument("--keep", type=Path, help="keep logs and histories in this folder")
    options = parser.parse_args(arguments)
    if reason := why_not():
        print(f"chaos: {reason}", file=sys.stderr)
        return 2
    if enter := as_root():
        os.execvp(enter[0], [*enter, sys.executable, "-m", "chaos", *arguments])
    directory = options.keep or Path(tempfile.mkdtemp(prefix="pulsering-chaos-"))
    directory.mkdir(parents=True, exist_ok=True)
    try:
        verdict = asyncio.run(_travel(plan_of(options), directory))
    except asyncio.CancelledError:
        print("chaos: told to stop; no verdict", file=sys.stderr)
        return 128 + signal.SIGTERM
    if verdict["passed"] and options.keep is None:
        shutil.rmtree(directory)
    else:
        print(f"chaos: logs and histories are in {directory}", file=sys.stderr)
    print(json.dumps(verdict))
    return 0 if verdict["passed"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
