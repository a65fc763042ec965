"""The operator's verbs: run a node, run a throw-away cluster.

Thin on purpose: each parses its options and hands over. The node's own modules are imported inside the
verbs, so that ``pulsering get`` does not load a server and a started node does not load a client's verbs.
"""

from pathlib import Path
from typing import Annotated

import typer

from pulsering_server.cli.completion import node_names
from pulsering_server.cli.config import Settings, set_for_this_process
from pulsering_server.cli.output import seconds_of
from pulsering_server.cli.target import CONFIG_VARIABLE

Config = Annotated[
    Path,
    typer.Option(
        "--config", "-c", metavar="FILE", envvar=CONFIG_VARIABLE, help="The cluster's configuration."
    ),
]


def serve(
    name: Annotated[
        str,
        typer.Option(
            "--node",
            metavar="NAME",
            envvar="PULSERING_NODE",
            help="Which node of the file, or core of it.",
            autocompletion=node_names,
        ),
    ],
    config: Config = Path("cluster.yaml"),
    host: Annotated[str | None, typer.Option(help="Listen here instead of on the node's address.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Listen from this port on; 0 takes any free one.")
    ] = None,
    settings: Settings = None,
) -> None:
    """Run one node, all its cores, until SIGTERM, which drains it and exits 0.

    \b
    [dim]pulsering serve -c cluster.yaml --node a[/]
    [dim]pulsering serve --node a-3             [/] # one core of a node that has several
    [dim]pulsering serve --node b --port 0      [/] # any free port; the ready line says which
    [dim]pulsering serve --node a --set limits.memory=8GiB[/]
    """
    from pulsering_server.serve import run

    if settings:
        set_for_this_process(config, settings)
    raise typer.Exit(run(config, name, host, port) or 0)


def dev(
    nodes: Annotated[int, typer.Option(min=1, max=64, help="How many nodes.")] = 3,
    ttl: Annotated[
        str, typer.Option(metavar="DURATION", help="Silence after which a user is offline.")
    ] = "20s",
) -> None:
    """Run a throw-away cluster on loopback and print its URL; Ctrl-C ends it.

    \b
    [dim]pulsering dev --nodes 5 --ttl 5s[/]
    """
    from pulsering_server.dev import run

    raise typer.Exit(run(nodes, seconds_of("--ttl", ttl)) or 0)
