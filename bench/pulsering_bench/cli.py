"""The verbs ``demo`` and ``bench``, hung onto the ``pulsering`` command by entry points.

Options are parsed here and nothing else happens; what does the work is imported inside, so that
``pulsering --help`` does not load numpy, and so that a missing ``bench`` extra is a sentence instead of a
traceback.
"""

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, ParamSpec

import typer

from pulsering_bench import verbs

DEFAULT_CONFIG: Final = Path("cluster.yaml")
_NEEDED: Final = ("numpy", "hdrh", "psutil")
_PEERS_NEED: Final = ("redis", "hiredis", "pymemcache", "psycopg")

P = ParamSpec("P")

bench = typer.Typer(no_args_is_help=True, help="Measure a part of Pulsering on this machine.")


def demo(
    users: Annotated[int, typer.Option(min=1, max=20_000_000, help="Users that beat at a time.")] = 1_000_000,
    seconds: Annotated[float, typer.Option(help="How long to play; at least 4.")] = 40.0,
    kill: Annotated[bool, typer.Option(help="Kill a node half-way and bring it back.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object last, on stdout.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Plays the same people and reads again.")] = 1,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", metavar="FILE", help="The cluster to imitate; default ./cluster.yaml."
        ),
    ] = None,
) -> None:
    """See it work: three real nodes, a million users, one node killed, every answer checked.

    \b
    [dim]pulsering demo[/]
    [dim]pulsering demo --users 2000 --seconds 8 --json[/]

    Exit code 0 only if no read was wrong: no ghost (online, but silent or gone) and no false offline.
    """
    _need_extra("demo")
    from pulsering_bench.demo import run_demo
    from pulsering_bench.plan import Plan

    try:
        plan = Plan(users=users, seconds=seconds, kill=kill, seed=seed)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if config is None and DEFAULT_CONFIG.exists():
        config = DEFAULT_CONFIG
    raise typer.Exit(run_demo(plan, config, as_json=as_json))


def _need_extra(verb: str, modules: tuple[str, ...] = _NEEDED) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            typer.echo(
                f"pulsering: '{verb}' needs the 'bench' extra ('{module}' is not installed)\n"
                "  pip install 'pulsering[bench]'",
                err=True,
            )
            raise typer.Exit(2)


def _needing_extra(verb: Callable[P, None]) -> Callable[P, None]:
    """The verb, which says what is missing before it does anything."""

    @functools.wraps(verb)
    def checked(*args: P.args, **kwargs: P.kwargs) -> None:
        _need_extra(f"bench {verb.__name__}", _NEEDED + _PEERS_NEED)
        verb(*args, **kwargs)

    return checked


@bench.callback()
def _bench() -> None:
    """Measure a part of Pulsering on this machine."""


@bench.command()
def node(
    users: Annotated[int, typer.Option(min=10_000, help="Users resident on the node.")] = 10_000_000,
    batch: Annotated[int, typer.Option(min=1, max=8192, help="Users in a call.")] = 8192,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each load runs.")] = 5.0,
    idle: Annotated[int, typer.Option(min=0, help="Idle connections beside the busy client.")] = 10_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, last.")] = False,
) -> None:
    """One node through the real client: users a second, CPU a million, latency of a page.

    \b
    [dim]pulsering bench node --users 100000000[/]

    Exit code 0 only if no answer was wrong.
    """
    _need_extra("bench node")
    from pulsering_bench.node import run

    raise typer.Exit(run(users, batch, seconds, idle, as_json=as_json))


@bench.command("client")
def bench_client(
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each workload runs.")] = 2.0,
    nodes: Annotated[int, typer.Option(min=1, max=64, help="Nodes of the stub cluster.")] = 1,
    replicas: Annotated[int, typer.Option(min=1, max=5, help="Owners of a user there.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """The client library alone, against a stub that costs little: users a second of its own core.

    \b
    [dim]pulsering bench client --nodes 3 --replicas 2[/]
    """
    _need_extra("bench client")
    from pulsering_bench.client import main

    options = ["--seconds", str(seconds), "--nodes", str(nodes), "--replicas", str(replicas)]
    raise typer.Exit(main([*options, *(["--json"] if as_json else [])]))


@bench.command("watch")
def bench_watch(
    users: Annotated[int, typer.Option(min=10, help="Users watched.")] = 100_000,
    samples: Annotated[int, typer.Option(min=1, help="Users timed one by one.")] = 500,
    nodes: Annotated[int, typer.Option(min=1, max=8, help="Nodes of the cluster.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Watch a crowd: how soon a change is told, what a watched user costs the client, changes a second.

    \b
    [dim]pulsering bench watch --users 100000[/]
    """
    _need_extra("bench watch")
    from pulsering_bench.watch import Work, main

    raise typer.Exit(main(Work(users=users, samples=min(samples, users), nodes=nodes), as_json=as_json))


@bench.command("table")
def bench_table(
    users: Annotated[int, typer.Option(min=1, help="Users in the table.")] = 1_000_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fill one node's table, without a network: bytes a user, users a second, and whether it ever errs.

    \b
    [dim]pulsering bench table --users 10000000[/]

    Exit code 0 only if no answer was wrong.
    """
    _need_extra("bench")
    from pulsering_bench.table import main

    raise typer.Exit(main(["--users", str(users), *(["--json"] if as_json else [])]))


size = verbs.size

for _verb in (verbs.compare, verbs.sweep, verbs.soak, verbs.billion, verbs.scale):
    bench.command()(_needing_extra(_verb))
