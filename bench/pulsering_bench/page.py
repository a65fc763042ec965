"""A report as one HTML file: no script, no font, no picture from elsewhere; light and dark.

Invariant: every value that goes into a page is escaped here or in ``charts``.
"""

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

__all__ = ["document", "note", "picture", "section", "table"]

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1d2330; --soft: #5b6474; --paper: #fdfdfc; --line: #d9dde3;
  --ours: #1f6feb; --peer: #9aa5b4; --packed: #c7a252; --good: #1a7f37; --bad: #b3261e; --open: #8a6d00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #9aa5b4; --paper: #14171c;
  --line: #323842; --ours: #5b9dff; --peer: #6b7686; --packed: #b08d3f; --good: #4cc26b; --bad: #ff7b72;
  --open: #e0b84a; } }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
p.note, figcaption, .facts { color: var(--soft); font-size: .9rem; }
figure { margin: 1.5rem 0; } svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--ink); } svg text.value { fill: var(--soft); }
svg rect.ours { fill: var(--ours); } svg rect.peer { fill: var(--peer); }
svg rect.packed { fill: var(--packed); }
svg polyline { fill: none; stroke-width: 2; stroke: var(--peer); } svg polyline.ours { stroke: var(--ours); }
svg polyline.packed { stroke: var(--packed); }
svg line.grid { stroke: var(--line); } svg line.limit { stroke: var(--bad); stroke-dasharray: 5 4; }
div.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; vertical-align: top; }
th:first-child, td:first-child, td.text { text-align: left; }
.reached { color: var(--good); font-weight: 600; } .not-reached { color: var(--bad); font-weight: 600; }
.no-verdict { color: var(--open); font-weight: 600; }
code { font-size: .9em; }
"""


def document(title: str, parts: Iterable[str]) -> str:
    """The whole file."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def picture(title: str, figure: str) -> str:
    """A chart of ``charts`` as an SVG file of its own, with the page's colours."""
    drawn = re.search(r"<svg (.*)</svg>", figure, re.DOTALL)
    inner = drawn[1] if drawn else 'viewBox="0 0 1 1">'
    head, _, body = inner.partition(">")
    style = f'<style>{_STYLE}</style><rect width="100%" height="100%" style="fill: var(--paper)"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {head}><title>{escape(title)}</title>{style}{body}</svg>\n'
    )


def section(title: str, *parts: str) -> str:
    """A heading and what belongs to it."""
    return f"<section><h2>{escape(title)}</h2>" + "\n".join(parts) + "</section>"


def note(text: str) -> str:
    """A paragraph that explains."""
    return f'<p class="note">{escape(text)}</p>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], classes: Sequence[str] = ()) -> str:
    """A table of texts; ``classes`` are CSS classes of the rows, one each, if given."""
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
    for index, row in enumerate(rows):
        kind = f' class="{escape(classes[index])}"' if classes else ""
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        lines.append(f"{cells}" if not kind else cells.replace("<td>", f"<td{kind}>"))
    return '<div class="wide"><table>' + "".join(f"<tr>{line}</tr>" for line in lines) + "</table></div>"
