"""Charts as inline SVG, for reports that are one file: bars and curves, nothing else.

Colours come from the page by CSS classes and ``currentColor``, so a chart is readable on light and dark. A
logarithmic scale is said in the chart's title by whoever asks for it. Invariant: a bar's length and its
printed figure are made of the same number.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

from pulsering_bench.quotients import NOTHING

__all__ = ["Bar", "Curve", "bars", "curves", "figure_of"]

WIDTH: Final = 720
_LABEL: Final = 190
_VALUE: Final = 90
_ROW: Final = 26


class Bar(NamedTuple):
    """One bar, of no length without a value; ``kind`` is a CSS class: ours, peer, packed."""

    label: str
    value: float | None
    kind: str = "peer"
    note: str = ""


class Curve(NamedTuple):
    """One line of (x, y) points."""

    label: str
    points: Sequence[tuple[float, float]]
    kind: str = "ours"


def figure_of(value: float | None) -> str:
    """A number as people read it: three digits that count; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= factor:
            return f"{_three(value / factor)} {unit}"
    return _three(value)


def _three(value: float) -> str:
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{min(digits, 4)}f}"


def bars(title: str, rows: Sequence[Bar], *, logarithmic: bool = False) -> str:
    """A chart of horizontal bars, in the order given."""
    room = WIDTH - _LABEL - _VALUE
    lengths = _lengths([row.value or 0.0 for row in rows], room, logarithmic=logarithmic)
    height = _ROW * len(rows) + 8
    parts = [
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {height}" '
        f'role="img" aria-label="{escape(title)}">'
    ]
    for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        y = 4 + index * _ROW
        text = figure_of(row.value) + (f" {row.note}" if row.note else "")
        parts.append(
            f'<text class="label" x="{_LABEL - 8}" y="{y + 16}" text-anchor="end">{escape(row.label)}</text>'
            f'<rect class="{escape(row.kind)}" x="{_LABEL}" y="{y + 3}" width="{length:.1f}" '
            f'height="{_ROW - 8}" rx="2"/>'
            f'<text class="value" x="{_LABEL + length + 6:.1f}" y="{y + 16}">{escape(text)}</text>'
        )
    return "".join([*parts, "</svg></figure>"])


def _lengths(values: Sequence[float], room: float, *, logarithmic: bool) -> list[float]:
    largest = max([*values, 0.0])
    if largest <= 0:
        return [0.0] * len(values)
    if not logarithmic:
        return [room * max(value, 0.0) / largest for value in values]
    floor = min(value for value in values if value > 0) / 2
    span = math.log(largest / floor)
    return [room * math.log(value / floor) / span if value > 0 else 0.0 for value in values]


def curves(title: str, x_label: str, y_label: str, lines: Sequence[Curve], limit: float | None = None) -> str:
    """Curves over a linear x and a logarithmic y; ``limit`` is a horizontal line."""
    left, right, top, bottom, height = 64, WIDTH - 16, 12, 288, 330
    lines = [line._replace(points=[point for point in line.points if point[1] > 0]) for line in lines]
    lines = [line for line in lines if line.points]
    points = [point for line in lines for point in line.points]
    if not points:
        return ""
    x_max = max(x for x, _ in points) * 1.02
    ys = [y for _, y in points] + ([limit] if limit else [])
    low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))
    high = max(high, low + 1)

    def x_of(value: float) -> float:
        return left + (right - left) * value / x_max

    def y_of(value: float) -> float:
        return bottom - (bottom - top) * (math.log10(value) - low) / (high - low)

    parts = [
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {height}" '
        f'role="img" aria-label="{escape(title)}">'
    ]
    for power in range(low, high + 1):
        y = y_of(10.0**power)
        parts.append(
            f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
            f'<text class="value" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{figure_of(10.0**power)}</text>"
        )
    for step in range(5):
        value = x_max * step / 4
        parts.append(
            f'<text class="value" x="{x_of(value):.1f}" y="{bottom + 18}" text-anchor="middle">'
            f"{figure_of(value)}</text>"
        )
    if limit:
        y = y_of(limit)
        parts.append(f'<line class="limit" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
    for line in lines:
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in line.points)
        x, y = line.points[-1]
        parts.append(
            f'<polyline class="{escape(line.kind)}" points="{path}"/>'
            f'<text class="label" x="{x_of(x) - 4:.1f}" y="{y_of(y) - 6:.1f}" text-anchor="end">'
            f"{escape(line.label)}</text>"
        )
    parts.append(
        f'<text class="label" x="{(left + right) / 2}" y="{height - 4}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
        f'<text class="label" x="{left}" y="{top - 2}">{escape(y_label)}</text></svg></figure>'
    )
    return "".join(parts)
