"""The verbs of the configuration: check it, show what counts, compare two, begin one, describe it to an
editor.

Thin: each reads a file and prints what ``config_show``, ``config_diff``, ``config_example``,
``config_advice`` or the schema make of it. Results go to stdout, warnings and errors to stderr. Exit codes: 0
ok; 1 of ``diff`` that there are differences, as diff(1) has it, and of ``validate --strict`` that there are
warnings; 2 a file that cannot be used. Nothing is ever overwritten."""

import json
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from pulsering_server.cli.exits import FAILED, OK
from pulsering_server.cli.misuse import Misuse
from pulsering_server.cli.output import Output, print_document, print_json, print_table
from pulsering_server.cli.target import config_file

if TYPE_CHECKING:
    from pulsering_server.config_overrides import Overrides


File = Annotated[
    Path | None,
    typer.Argument(metavar="[FILE]", help="Else $PULSERING_CONFIG, else cluster.yaml.", show_default=False),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="In place of the file and the environment; repeatable."),
]


def validate(
    file: File = None,
    settings: Settings = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 if there are warnings.")] = False,
) -> None:
    """Check a configuration: every error at once, each with its line, then what may surprise you.

    \b
    [dim]pulsering config validate[/]
    [dim]pulsering config validate new.yaml --strict[/]   # in a pipeline
    """
    from pulsering_server.config import read_config
    from pulsering_server.config_advice import advise, this_machine
    from pulsering_server.config_errors import render
    from pulsering_server.units import format_duration_ms

    path = config_file(file, os.environ)
    reading = read_config(path, overrides(settings), files=True)
    config = reading.config
    warnings = advise(reading, this_machine())
    if warnings:
        print(render(str(path), warnings), file=sys.stderr)
    count, cores = len(config.nodes), len(config.shards)
    typer.echo(
        f"{path}: ok: cluster {config.cluster}, epoch {config.epoch}, "
        f"{count} node{'s' if count > 1 else ''}{f' with {cores} cores' if cores > count else ''}, "
        f"{config.replicas} replica{'s' if config.replicas > 1 else ''}, "
        f"ttl {format_duration_ms(config.ttl_ms)}"
    )
    raise typer.Exit(FAILED if strict and warnings else OK)


def show(
    file: File = None,
    settings: Settings = None,
    origin: Annotated[bool, typer.Option("--origin", help="Also say where each value comes from.")] = False,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to answer.")] = Output.TABLE,
) -> None:
    """Show the values that count, defaults included: command line, environment, file, default, in this order.

    As yaml or json it is a valid configuration itself.

    \b
    [dim]pulsering config show --origin[/]
    [dim]PULSERING_LIMITS__MEMORY=8GiB pulsering config show --origin[/]
    [dim]pulsering config show -o yaml > complete.yaml[/]
    """
    from pulsering_server.config import read_config
    from pulsering_server.config_show import effective, to_yaml
    from pulsering_server.config_show import settings as settings_of

    reading = read_config(config_file(file, os.environ), overrides(settings))
    if output is Output.YAML:
        print(to_yaml(reading, origins=origin), end="")
        return
    found = settings_of(reading)
    if output is Output.JSON:
        document = effective(reading)
        origins = {each.name: {"origin": each.origin, "where": each.where or None} for each in found}
        print_json({"config": document, "origins": origins} if origin else document)
        return
    columns = ("KEY", "VALUE", "ORIGIN", "WHERE") if origin else ("KEY", "VALUE")
    rows = [
        (escape(each.name), _text(each.value), each.origin, escape(each.where))[: len(columns)]
        for each in found
    ]
    print_table(columns, rows)


def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The configuration that runs.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The one that shall.")],
    output: Annotated[Output, typer.Option("--output", "-o", help="How to answer.")] = Output.TABLE,
) -> None:
    """Show what changes, and whether it takes a reload or a restart, or moves users.

    The files alone are compared, not the environment. Exit code 1 if they differ, as diff has it.

    \b
    [dim]pulsering config diff cluster.yaml new.yaml[/]
    [dim]pulsering plan cluster.yaml new.yaml[/]        # what moves, node by node
    """
    from pulsering.topology import moved
    from pulsering_server.config import load_config
    from pulsering_server.config_diff import differences
    from pulsering_server.config_overrides import NONE
    from pulsering_server.ownership import Refused, check_change

    before, after = load_config(old, NONE), load_config(new, NONE)
    found = differences(before, after)
    share = moved(before.topology(), after.topology()) if found else 0.0
    refusal = ""
    try:
        check_change(before.topology(), after.topology())
    except Refused as error:
        refusal = str(error)
    if output is not Output.TABLE:
        print_document(
            {
                "changes": [
                    {
                        "key": each.name,
                        "old": each.old,
                        "new": each.new,
                        "effect": each.effect,
                        "node": each.node or None,
                        "moves_users": each.moves,
                    }
                    for each in found
                ],
                "share_moved": round(share, 6),
                "refusal": refusal or None,
            },
            output,
        )
    elif found:
        rows = [(escape(each.name), _text(each.old), _text(each.new), each.takes) for each in found]
        print_table(("KEY", "OLD", "NEW", "TAKES"), rows)
        if share:
            typer.echo(
                f"{share:.1%} of the slots change hands; 'pulsering plan' says which node gains and loses"
            )
        if refusal:
            typer.echo(f"running nodes will not follow it: {refusal}")
    raise typer.Exit(FAILED if found else OK)


def init(
    file: Annotated[
        str, typer.Argument(metavar="[FILE]", help="Where to; '-' prints it.", show_default=True)
    ] = "cluster.yaml",
    cluster: Annotated[str, typer.Option(metavar="NAME", help="What the cluster is called.")] = "local",
    nodes: Annotated[
        list[str] | None,
        typer.Option(
            "--node", metavar="NAME=HOST:PORT", help="A node of it; repeatable. Else three on loopback."
        ),
    ] = None,
) -> None:
    """Write a complete configuration with a comment on every key. It overwrites nothing.

    The hash seed is a random one, so that nobody can guess which users share a node.

    \b
    [dim]pulsering config init[/]
    [dim]pulsering config init - --cluster prod --node a=10.0.0.1:7400 --node b=10.0.0.2:7400[/]
    """
    from pulsering_server.config import parse_config
    from pulsering_server.config_example import LOOPBACK, SampleNode, example

    pairs = [node.partition("=") for node in nodes or ()]
    for name, equals, address in pairs:
        if not (name and equals and address):
            raise Misuse(f"--node {name}{equals}{address}: expected NAME=HOST:PORT, such as a=10.0.0.1:7400")
    sample = [SampleNode(name, address) for name, _, address in pairs] or LOOPBACK
    text = example(cluster, secrets.randbits(64), sample)
    parse_config(text, "what it would be" if file == "-" else f"{file} (not written)")
    if file == "-":
        print(text, end="")
        return
    try:
        with Path(file).open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise Misuse(
            f"{file} exists, and nothing is overwritten: give another name, or '-' to print it"
        ) from None
    typer.echo(f"{file}: written; 'pulsering config validate {file}' checks it after an edit")


def schema() -> None:
    """Print the JSON schema, for the help of an editor.

    \b
    [dim]pulsering config schema > cluster.schema.json[/]
    [dim]# then, as the first line of cluster.yaml:[/]
    [dim]# yaml-language-server: $schema=./cluster.schema.json[/]
    """
    from pulsering_server.config_keys import json_schema

    print_json(json_schema())


def commands() -> typer.Typer:
    """Return ``pulsering config``."""
    app = typer.Typer(no_args_is_help=True, help="Begin, check, show and compare configurations.")
    for verb in (init, validate, show, diff, schema):
        app.command(verb.__name__)(verb)
    return app


def overrides(settings: list[str] | None) -> "Overrides":
    """Return what the environment and the options say in place of the file."""
    from pulsering_server.config_overrides import overrides_of

    return overrides_of(os.environ, settings or ())


def set_for_this_process(file: Path, settings: list[str]) -> None:
    """Check ``--set`` with its file, and make it hold for this process, its cores, and files to come."""
    from pulsering_server.config import load_config

    chosen = overrides(settings)
    load_config(file, chosen)
    os.environ.update(chosen.as_environment())


def _text(value: object) -> str:
    """A value as a cell of a table, whose brackets are no markup."""
    return "-" if value is None else escape(value if isinstance(value, str) else json.dumps(value))
