"""What verbs print: a table for people, one JSON document for scripts.

JSON goes to stdout alone and is the stable contract (snake_case, durations in ``_ms``); tables follow the
terminal's width, colour and ``NO_COLOR`` by way of rich, and stay plain in a pipe.
"""

import json
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


class Output(StrEnum):
    """How a verb answers."""

    TABLE = "table"
    JSON = "json"


def print_json(document: Any) -> None:
    """Print one document, indented, ids of any kind included."""
    print(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print rows under their headings; the columns named in ``right`` are numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    stdout().print(table)


def stdout() -> Console:
    """Return a console for answers; a pipe has no width, and nothing may be cut off or wrapped in a file."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 500
    return console


def duration(milliseconds: float | None) -> str:
    """Return a duration as people say it: ``850ms``, ``12s``, ``4m10s``, ``3h05m``, ``2d04h``."""
    if milliseconds is None:
        return "-"
    if milliseconds < 1000:
        return f"{milliseconds:.0f}ms"
    seconds = int(milliseconds // 1000)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02}s"
    if seconds < 86_400:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02}m"
    return f"{seconds // 86_400}d{seconds % 86_400 // 3600:02}h"
