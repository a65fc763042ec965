"""The verbs of ``pulsering bench`` that compare and scale, and ``pulsering size``; registered by ``cli``.

As in ``cli``, options are parsed here and nothing else happens; what does the work is imported inside.
"""

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, progress on stderr.")]


def compare(
    users: Annotated[int, typer.Option(min=1000, help="Users on each store.")] = 5_000_000,
    peer: Annotated[
        list[str] | None, typer.Option(help="Only this store; may be given several times.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; medians are reported.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.05, help="How long each closed loop runs.")] = 1.5,
    seed: Annotated[int, typer.Option(min=0, help="Asks for the same users again.")] = 1,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write an HTML page too.")] = None,
    table: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a Markdown table too.")] = None,
    old: Annotated[
        Path | None, typer.Option("--compare", metavar="FILE", help="Judge against an earlier --json.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The same presence work on Redis, Valkey, memcached, PostgreSQL, a dictionary and Pulsering.

    \b
    [dim]pulsering bench compare --report report.html[/]
    [dim]pulsering bench compare --json > new.json[/]
    [dim]pulsering bench compare --compare new.json[/]

    Real servers on loopback, every answer checked. What is not installed is named and skipped. Exit code 0
    only if no answer of ours was wrong and nothing is worse than in the earlier run.
    """
    from pulsering_bench.compare import Work
    from pulsering_bench.comparison import run_compare

    work = Work(users=users, repeats=repeats, seconds=seconds, seed=seed)
    raise typer.Exit(run_compare(work, peer or (), as_json=as_json, report=report, table=table, old=old))
