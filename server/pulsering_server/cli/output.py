"""What verbs print: a table for people, one JSON or YAML document for scripts, once or again and again.

Documents go to stdout alone and are the stable contract (snake_case, durations in ``_ms``); with ``--watch``
each is one line of JSON, or one document of a YAML stream. Tables follow the terminal's width, colour and
``NO_COLOR`` by way of rich, and stay plain and uncut in a pipe. Invariant: watching goes on while the cluster
cannot be reached, and ends at once for what will not get better.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from io import StringIO
from typing import Any, Final, Literal, NamedTuple, NoReturn

import typer
from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from pulsering_server.cli.exits import MISUSED, OK
from pulsering_server.cli.failures import exit_code_of, explain

__all__ = [
    "Answer",
    "Output",
    "compact",
    "duration",
    "number",
    "plain",
    "print_document",
    "print_json",
    "print_table",
    "respond",
    "seconds_of",
    "stdout",
    "table",
    "tell",
]

_PIPE_WIDTH: Final = 500


class Output(StrEnum):
    """How a verb answers."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class Answer(NamedTuple):
    """What a verb found: the document for scripts, the same for people, and the exit code."""

    document: Any
    parts: Sequence[RenderableType]
    """Printed one below the other; texts are markup."""
    code: int = OK


def respond(make: Callable[[], Answer], output: Output, watch: str | None = None) -> NoReturn:
    """Answer and end with the exit code; with ``watch``, a duration, answer that often until Ctrl-C."""
    if watch is None:
        raise typer.Exit(_print(make(), output))
    watch_s = seconds_of("--watch", watch)
    console = stdout()
    try:
        while True:
            due = time.monotonic() + watch_s
            try:
                found: Answer | str = make()
            except Exception as error:
                if exit_code_of(error) in (None, MISUSED):
                    raise
                found = explain(error)
            if output is Output.TABLE and console.is_terminal:
                console.clear()
                console.print(f"[dim]{time.strftime('%H:%M:%S')}, every {watch_s:g} s, Ctrl-C ends[/]\n")
            if isinstance(found, str):
                print(found, file=sys.stderr, flush=True)
            else:
                _print(found, output, stream=True)
            time.sleep(max(0.0, due - time.monotonic()))
    except KeyboardInterrupt:
        raise typer.Exit(OK) from None


def tell(answer: Answer, output: Output) -> None:
    """Print one of many answers: a line of JSON, or a document of a YAML stream."""
    _print(answer, output, stream=True)


def _print(answer: Answer, output: Output, *, stream: bool = False) -> int:
    if output is Output.TABLE:
        console = stdout()
        for part in answer.parts:
            console.print(part, soft_wrap=isinstance(part, str) and not console.is_terminal)
    elif output is Output.JSON and stream:
        print(json.dumps(answer.document, ensure_ascii=False, default=str))
    else:
        if stream:
            print("---")
        print_document(answer.document, output)
    sys.stdout.flush()
    return answer.code


def print_document(document: Any, output: Output) -> None:
    """Print one document as YAML if that is wanted, else as JSON."""
    if output is not Output.YAML:
        print_json(document)
        return
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.allow_unicode = True
    yaml.width = 4096
    text = StringIO()
    yaml.dump(json.loads(json.dumps(document, default=str)), text)
    print(text.getvalue(), end="")


def print_json(document: Any) -> None:
    """Print one document, indented, ids of any kind included."""
    print(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def seconds_of(option: str, text: str) -> float:
    """Return the seconds of an option's text such as ``20s``; a usage error says what is accepted."""
    from pulsering_server.units import UnitError, parse_duration_ms

    try:
        return parse_duration_ms(text) / 1000
    except UnitError as error:
        raise typer.BadParameter(str(error), param_hint=f"'{option}'") from None


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[str] = (),
    words: str | None = None,
) -> Table:
    """Return rows, which are markup, under their headings.

    The columns named in ``right`` are numbers. Where there is not room enough, the one called ``words`` gets
    narrow and long, and only then are others cut.
    """
    made = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", show_edge=False
    )
    for column in columns:
        side: Literal["left", "right"] = "right" if column in right else "left"
        made.add_column(column, justify=side, no_wrap=column != words, overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print a ``table``."""
    stdout().print(table(columns, rows, right=right))


def stdout() -> Console:
    """Return a console for answers; a pipe has no width, and nothing may be cut off or wrapped in a file."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


def plain(text: str) -> str:
    """Text from outside as markup that shows it as it is, on one line, and moves no cursor."""
    from pulsering_server.logs import printable

    return escape(printable(text))


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


def number(document: Any, *path: str) -> float | None:
    """Return a number deep in a document; None if it is not there, as with a node of another version."""
    for step in path:
        document = document.get(step) if isinstance(document, dict) else None
    return float(document) if isinstance(document, int | float) and not isinstance(document, bool) else None


def compact(value: float | None) -> str:
    """Return a number in at most five letters: ``7``, ``0.4``, ``980``, ``60.1k``, ``1.2M``."""
    if value is None:
        return "-"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size * 0.99995:
            return f"{value / size:.{0 if value >= 99.95 * size else 1}f}{unit}"
    return f"{value:.1f}" if 0 < value < 9.95 and value != int(value) else f"{value:.0f}"
