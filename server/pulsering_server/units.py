"""Durations and sizes as an operator writes them: ``20s``, ``250ms``, ``64MiB``.

A bare number hides its unit, and the wrong guess is off by a factor of a thousand, so nothing is guessed:
what lacks a unit is refused, with the unit that was probably meant. Every spelling has one meaning, hence no
``MB`` (a million bytes, or 1048576?). Values come out whole: milliseconds and bytes.
"""

import re
from decimal import Decimal
from typing import Final

from pulsering_server.config_errors import look_alike

DURATION_UNITS: Final[dict[str, int]] = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
SIZE_UNITS: Final[dict[str, int]] = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

# Tried in this order when a bare number needs a unit: the commonest in configuration files first.
_DURATION_GUESSES: Final = ("s", "ms", "m", "h", "d")
_SIZE_GUESSES: Final = ("B", "MiB", "GiB", "KiB", "TiB")

# Fifteen digits hold every value in range; more would only feed quadratic conversions.
_QUANTITY: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-zµ]*)")


class UnitError(ValueError):
    """Not a duration or size. The message says what is wrong and, where it can, what was probably meant."""


def parse_duration_ms(value: object, low_ms: int = 1, high_ms: int = 365 * 86_400_000) -> int:
    """Return the milliseconds of a text such as ``20s``; ``UnitError`` outside ``low_ms``..``high_ms``."""
    return _parse("duration", value, DURATION_UNITS, _DURATION_GUESSES, low_ms, high_ms)


def parse_size(value: object, low: int = 1, high: int = 1 << 50) -> int:
    """Return the bytes of a text such as ``64MiB``; ``UnitError`` outside ``low``..``high``."""
    return _parse("size", value, SIZE_UNITS, _SIZE_GUESSES, low, high)


def format_duration_ms(duration_ms: int) -> str:
    """Return the shortest exact text of a duration: ``20_000`` is ``20s``; parsing gives it back."""
    return _format(duration_ms, DURATION_UNITS)


def format_size(size: int) -> str:
    """Return the shortest exact text of a size: ``1 << 26`` is ``64MiB``; parsing gives it back."""
    return _format(size, SIZE_UNITS)


def about_size(size: float) -> str:
    """Return the text of a size to read, not to parse: one digit after the point, ``5.4GiB``."""
    unit = max(
        (unit for unit, factor in SIZE_UNITS.items() if factor <= max(size, 1)), key=SIZE_UNITS.__getitem__
    )
    return f"{size / SIZE_UNITS[unit]:.1f}".removesuffix(".0") + unit


def _parse(
    kind: str, value: object, units: dict[str, int], guesses: tuple[str, ...], low: int, high: int
) -> int:
    bounds = f"{_format(low, units)} to {_format(high, units)}"
    example = "'20s' or '250ms'" if kind == "duration" else "'64MiB' or '1GiB'"
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    if not isinstance(text, str):
        found = {type(None): ", found nothing", bool: f", found {str(text).lower()}"}.get(type(text), "")
        raise UnitError(f"expected a {kind} such as {example}{found}")
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        meant = _compound(text.strip(), low, high) if kind == "duration" else None
        hint = f" (did you mean '{meant}'?)" if meant else _why_not(text.strip())
        raise UnitError(
            f"{_quoted(text)} is not a {kind}: expected a number and a unit, such as {example}{hint}"
        )
    number, unit = Decimal(match[1]), match[2]
    if not unit:
        guess = _guess(number, units, guesses, low, high)
        raise UnitError(f"{text} has no unit" + (f" (did you mean '{guess}'?)" if guess else f": {example}"))
    if unit not in units:
        meant = _similar(unit, units)
        hint = f" (did you mean '{match[1]}{meant}'?)" if meant else ""
        raise UnitError(f"unknown unit '{unit}'{hint}; the units of a {kind} are {', '.join(units)}")
    amount = number * units[unit]
    if amount != int(amount):
        smallest = next(iter(units))
        raise UnitError(f"{_quoted(text)} is finer than 1{smallest}, the smallest {kind} there is")
    if not low <= amount <= high:
        raise UnitError(f"{_quoted(text)} is out of range: must be {bounds}")
    return int(amount)


def _guess(
    number: Decimal, units: dict[str, int], guesses: tuple[str, ...], low: int, high: int
) -> str | None:
    """Return the bare number with the first usual unit that puts it in range, or None."""
    for unit in guesses:
        amount = number * units[unit]
        if low <= amount <= high and amount == int(amount):
            return _format(int(amount), units) if unit in ("B", "ms") else f"{number}{unit}"
    return None


def _compound(text: str, low: int, high: int) -> str | None:
    """Return the duration of ``1m30s`` or ``00:01:30``, which have one meaning but are not how it is
    written."""
    if match := re.fullmatch(r"([0-9]{1,3}):([0-9]{2}):([0-9]{2})", text):
        amount = sum(
            int(part) * unit for part, unit in zip(match.groups(), (3_600_000, 60_000, 1_000), strict=True)
        )
    else:
        parts = re.findall(r"([0-9]{1,9})(ms|[smhd])", text)
        if len(parts) < 2 or "".join(number + unit for number, unit in parts) != text:
            return None
        amount = sum(int(number) * DURATION_UNITS[unit] for number, unit in parts)
    return _format(amount, DURATION_UNITS) if low <= amount <= high else None


def _why_not(text: str) -> str:
    """Return what commonly goes wrong on the way from one file to another."""
    if not text.isascii():
        return look_alike(text)
    if re.search(r"[$%{}]", text):
        return " (a placeholder left over?)"
    if re.match(r"[^ ]+#", text):
        return " (a comment needs a space before its '#')"
    return "; it cannot be negative" if text.startswith("-") else ""


def _similar(unit: str, units: dict[str, int]) -> str | None:
    """Return the unit that another spelling (``sec``, ``MB``, ``kb``) probably stands for."""
    if units is DURATION_UNITS:
        # "M" is left alone: minutes and a million are both plausible.
        spellings = {"min": "m", "mins": "m", "minute": "m", "minutes": "m"}
        spellings |= {"sec": "s", "secs": "s", "second": "s", "seconds": "s", "S": "s"}
        spellings |= {"msec": "ms", "millis": "ms", "milliseconds": "ms", "MS": "ms", "Ms": "ms"}
        spellings |= {"hour": "h", "hours": "h", "hr": "h", "H": "h", "day": "d", "days": "d", "D": "d"}
        return spellings.get(unit)
    if re.fullmatch(r"(?i)[kmgt](i?b?)", unit):
        return f"{unit[0].upper()}iB"
    return "B" if unit.lower() in ("b", "byte", "bytes") else None


def _format(amount: int, units: dict[str, int]) -> str:
    for unit, factor in reversed(units.items()):
        if amount and amount % factor == 0:
            return f"{amount // factor}{unit}"
    return f"{amount}{next(iter(units))}"


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
