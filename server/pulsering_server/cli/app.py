"""Puts the one command together, runs it, and turns what went wrong into a sentence and an exit code.

Verbs of the node and the client are registered here; whoever stands above the server (the demo, the
bench) hangs on by the entry-point group ``pulsering.commands``, so that imports only point down. Those
are loaded when their name, or the help that lists them, is asked for: ``serve`` does not pay for a load
generator.

Invariant: a mistake of the person at the keyboard, or a cluster that is not there, never ends in a
traceback.
"""

import importlib.metadata
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Final

import typer

from pulsering.wire import VERSION as PROTOCOL_VERSION
from pulsering_server.cli import (
    check,
    config,
    conns,
    latency,
    node,
    reshard,
    status,
    support,
    top,
    verbs,
)
from pulsering_server.cli.exits import FAILED, INTERRUPTED, MISUSED, OK
from pulsering_server.cli.failures import exit_code_of, explain
from pulsering_server.cli.health import Grade

PLUGIN_GROUP: Final = "pulsering.commands"

_EPILOG: Final = (
    "Exit codes: [bold]0[/] ok · [bold]1[/] failed · [bold]2[/] usage or configuration · "
    "[bold]3[/] cannot reach the cluster; of [cyan]check[/] those of Nagios. "
    "The cluster is the one of [cyan]--url[/], else [cyan]--config[/], else [cyan]$PULSERING_URL[/], "
    "else [cyan]$PULSERING_CONFIG[/], else ./cluster.yaml."
)

_OWN: Final[dict[str, tuple[str, Callable[..., object]]]] = {
    "heartbeat": ("Ask and tell", verbs.heartbeat),
    "get": ("Ask and tell", verbs.get),
    "watch": ("Ask and tell", verbs.watch),
    "leave": ("Ask and tell", verbs.leave),
    "count": ("Ask and tell", verbs.count),
    "locate": ("Ask and tell", verbs.locate),
    "status": ("Look", status.status),
    "top": ("Look", top.top),
    "latency": ("Look", latency.latency),
    "check": ("Look", check.check),
    "conns": ("Look", conns.conns),
    "support-dump": ("Look", support.support_dump),
    "plan": ("Operate", reshard.plan),
    "apply": ("Operate", reshard.apply),
    "drain": ("Operate", reshard.drain),
    "serve": ("Operate", node.serve),
    "dev": ("Try it", node.dev),
}


def run(arguments: Sequence[str]) -> int:
    """Run one command line (without the program's name) and return its exit code."""
    try:
        build_app(arguments)(args=list(arguments), prog_name="pulsering")
    except check.Verdict as verdict:
        return int(verdict.code or OK)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else OK if stop.code is None else FAILED
        return _for_whom(arguments, code)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe has left: not our failure, and nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        meant = exit_code_of(error)
        if meant is None:
            raise
        print(explain(error), file=sys.stderr)
        return _for_whom(arguments, meant)
    return OK


def _for_whom(arguments: Sequence[str], code: int) -> int:
    """The exit code; where monitoring asks, a question that is not usable is unknown and not critical."""
    return int(Grade.UNKNOWN) if code == MISUSED and arguments[:1] == ["check"] else code


def build_app(arguments: Sequence[str] = ()) -> typer.Typer:
    """Return the command with every verb that ``arguments`` could mean."""
    app = typer.Typer(
        name="pulsering",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=_EPILOG,
    )
    app.callback()(_root)
    for name, (panel, verb) in _OWN.items():
        app.command(name, help=_flowing(verb.__doc__ or ""), rich_help_panel=panel)(verb)
    app.add_typer(config.commands(), name="config", rich_help_panel="Operate")
    if not arguments or arguments[0] not in (*_OWN, "config", "--version"):
        for plugin in importlib.metadata.entry_points(group=PLUGIN_GROUP):
            _add(app, plugin)
    return app


def _flowing(help_text: str) -> str:
    """A docstring whose paragraphs are as wide as the terminal; what stands after a line of \\b is kept."""
    paragraphs = inspect.cleandoc(help_text).split("\n\n")
    return "\n\n".join(each if "\b" in each else each.replace("\n", " ") for each in paragraphs)


def _add(app: typer.Typer, plugin: importlib.metadata.EntryPoint) -> None:
    try:
        verb = plugin.load()
    except ModuleNotFoundError as error:
        verb = _absent(plugin.name, error.name or "a module")
    if isinstance(verb, typer.Typer):
        app.add_typer(verb, name=plugin.name, rich_help_panel="Try it")
    else:
        app.command(plugin.name, rich_help_panel="Try it")(verb)


def _absent(name: str, module: str) -> Callable[[], None]:
    def verb() -> None:
        typer.echo(
            f"pulsering: '{name}' needs the 'bench' extra ('{module}' is not installed)\n"
            "  pip install 'pulsering[bench]'",
            err=True,
        )
        raise typer.Exit(MISUSED)

    verb.__doc__ = "Not installed: needs the 'bench' extra."
    return verb


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pulsering {importlib.metadata.version('pulsering')} (protocol {PROTOCOL_VERSION})")
        raise typer.Exit(OK)


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Show package and protocol version."
        ),
    ] = False,
) -> None:
    """Presence for a billion users: is this user online right now?"""
