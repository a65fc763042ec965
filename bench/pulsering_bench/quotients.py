"""Rates and ratios of what may not have happened: a round that served nobody, a peer without a figure.

Every division of a measured figure by another goes through here. Invariant: what cannot be divided is None,
never 0, infinity or an exception, and is shown as a dash; JSON has ``null``, which every reader knows.
"""

import statistics
from collections.abc import Iterable
from typing import Final

__all__ = ["NOTHING", "median_of", "per", "shown"]

NOTHING: Final = "-"
"""Stands where there is no figure."""


def per(amount: float | None, of: float | None, factor: float = 1.0) -> float | None:
    """``factor * amount / of``; None where either is missing or there is nothing to divide by."""
    return None if amount is None or not of else factor * amount / of


def median_of(values: Iterable[float | None]) -> float | None:
    """Of those that there are; None if there are none."""
    found = [value for value in values if value is not None]
    return statistics.median(found) if found else None


def shown(value: float | None, form: str = ".1f", factor: float = 1.0) -> str:
    """A figure in the given format, times ``factor``; a dash where there is none."""
    return NOTHING if value is None else format(value * factor, form)
