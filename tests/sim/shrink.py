"""Makes a failing plan smaller: leaves out faults and calls for as long as it still fails the same promise.

The way is ddmin's: halves first, then quarters, down to single ones; faults before calls, as they are what a
reader looks at first, and the time after the violation before both. Every try is a whole run of a smaller
plan, so a budget of tries bounds it. Invariant: the plan returned fails.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from sim.plan import SECOND, Plan
from sim.run import Result

__all__ = ["shrink"]

T = TypeVar("T")


def shrink(result: Result, run: Callable[[Plan], Result], tries_max: int = 400) -> Result:
    """The smallest failing result found within so many runs."""
    promise = result.violations[0].promise
    best, tries = result, 0

    def fails(plan: Plan) -> bool:
        nonlocal best, tries
        if tries >= tries_max:
            return False
        tries += 1
        try:
            smaller = run(plan)
        except RuntimeError:
            return False
        if not any(violation.promise == promise for violation in smaller.violations):
            return False
        best = smaller
        return True

    first_us = min(violation.at_us for violation in result.violations if violation.promise == promise)
    end_us = first_us + 2 * SECOND
    if not result.plan.storm or end_us < result.plan.calm_at_us:
        plan = result.plan
        fails(
            plan._replace(
                ends_at_us=min(plan.ends_at_us, end_us),
                actions=[action for action in plan.actions if action.at_us < first_us],
                faults=[fault for fault in plan.faults if fault.at_us < first_us],
            )
        )
    _reduce(best.plan.faults, lambda faults: fails(best.plan._replace(faults=faults)))
    _reduce(best.plan.actions, lambda actions: fails(best.plan._replace(actions=actions)))
    _reduce(best.plan.faults, lambda faults: fails(best.plan._replace(faults=faults)))
    return best


def _reduce(items: Sequence[T], fails: Callable[[list[T]], bool]) -> None:
    """Leave out pieces of a list, ever smaller ones, and keep what still fails."""
    left = list(items)
    size = max(1, len(left) // 2)
    while left:
        start = 0
        while start < len(left):
            smaller = left[:start] + left[start + size :]
            if fails(smaller):
                left = smaller
            else:
                start += size
        if size == 1:
            return
        size = max(1, size // 2)
