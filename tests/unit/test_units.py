"""Durations and sizes: one spelling, one meaning, and a bare number is never guessed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsering_server.units import (
    UnitError,
    format_duration_ms,
    format_size,
    parse_duration_ms,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "ms"),
    [("20s", 20_000), ("250ms", 250), ("1.5s", 1_500), ("5m", 300_000), ("1h", 3_600_000), ("2 s", 2_000)],
)
def test_duration_has_one_meaning(text: str, ms: int) -> None:
    assert parse_duration_ms(text) == ms


@pytest.mark.parametrize(
    ("text", "size"),
    [("1B", 1), ("64KiB", 65_536), ("64MiB", 1 << 26), ("1.5GiB", 3 << 29), ("1TiB", 1 << 40)],
)
def test_size_has_one_meaning(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("value", "hint"),
    [(20, "'20s'"), ("20", "'20s'"), (20_000, "'20s'"), (60, "'60s'"), (1500, "'1500s'"), (5_400_000, None)],
)
def test_bare_duration_names_the_unit_that_was_probably_meant(value: object, hint: str | None) -> None:
    with pytest.raises(UnitError, match="has no unit") as caught:
        parse_duration_ms(value, 1_000, 3_600_000)
    assert (f"did you mean {hint}?" in str(caught.value)) == (hint is not None)


@pytest.mark.parametrize(("value", "hint"), [(64, "64MiB"), (1 << 20, "1MiB"), (5_000_000, "5000000B")])
def test_bare_size_names_the_unit_that_was_probably_meant(value: int, hint: str) -> None:
    with pytest.raises(UnitError, match=f"did you mean '{hint}'"):
        parse_size(value, 1 << 20, 1 << 44)


@pytest.mark.parametrize(
    ("text", "hint"), [("20sec", "20s"), ("5min", "5m"), ("100msec", "100ms"), ("1H", "1h"), ("2days", "2d")]
)
def test_other_spelling_of_a_duration_is_pointed_at_ours(text: str, hint: str) -> None:
    with pytest.raises(UnitError, match=f"unknown unit .*did you mean '{hint}'"):
        parse_duration_ms(text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("64MB", "64MiB"),
        ("64mb", "64MiB"),
        ("64M", "64MiB"),
        ("8Gi", "8GiB"),
        ("1kB", "1KiB"),
        ("9bytes", "9B"),
    ],
)
def test_ambiguous_size_is_pointed_at_the_exact_unit(text: str, hint: str) -> None:
    with pytest.raises(UnitError, match=f"unknown unit .*did you mean '{hint}'"):
        parse_size(text)


@pytest.mark.parametrize(
    "value", ["", "s", "-1s", "1,5s", "1m30s", "1e3s", "٣s", "inf", "9" * 5000, "2h", "0s"]
)
def test_anything_else_is_no_duration(value: str) -> None:
    with pytest.raises(UnitError):
        parse_duration_ms(value, 1, 3_600_000)


@pytest.mark.parametrize("value", [None, True, [], {}, float("inf"), float("nan"), 10**300])
def test_other_types_are_refused_alike(value: object) -> None:
    with pytest.raises(UnitError):
        parse_duration_ms(value)
    with pytest.raises(UnitError):
        parse_size(value)


@given(st.integers(1, 365 * 86_400_000))
def test_formatted_duration_parses_back(duration_ms: int) -> None:
    assert parse_duration_ms(format_duration_ms(duration_ms)) == duration_ms


@given(st.integers(1, (1 << 50) - 1))
def test_formatted_size_parses_back(size: int) -> None:
    # Fifteen digits are the parser's limit; beyond, only multiples of a unit can be written.
    size -= size % 1024 if size >= 10**15 else 0
    assert parse_size(format_size(size)) == size
