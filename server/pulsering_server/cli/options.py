"""The options that verbs share, so that one means the same everywhere, and the call that most verbs make."""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from pulsering_server.cli.completion import core_names
from pulsering_server.cli.output import Output, seconds_of
from pulsering_server.cli.target import cluster_url

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pulsering import PresenceClient

__all__ = ["WAIT", "AdminAt", "Config", "Format", "Nodes", "Timeout", "Url", "Watch", "call"]

T = TypeVar("T")

WAIT: Final = "2s"
"""A person waits longer than a web page does."""

_CLUSTER: Final = "Which cluster"

Url = Annotated[
    str | None, typer.Option(metavar="URL", help="presence://host:port,host:port", rich_help_panel=_CLUSTER)
]
Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="Its cluster.yaml.", rich_help_panel=_CLUSTER),
]
Timeout = Annotated[str, typer.Option(metavar="DURATION", help="Give up after.", rich_help_panel=_CLUSTER)]
AdminAt = Annotated[
    list[str] | None,
    typer.Option(
        "--admin",
        metavar="NODE=HOST:PORT",
        help="Where to ask a node's admin port instead, such as the near end of a tunnel; repeatable.",
        rich_help_panel=_CLUSTER,
    ),
]
Nodes = Annotated[
    list[str] | None,
    typer.Option("--node", metavar="NAME", help="Only of this node; repeatable.", autocompletion=core_names),
]
Format = Annotated[Output, typer.Option("--output", "-o", help="How to answer.")]
Watch = Annotated[
    str | None, typer.Option("--watch", metavar="DURATION", help="Ask again every so often, until Ctrl-C.")
]


def call(
    url: str | None, config: Path | None, timeout: str, verb: "Callable[[PresenceClient], Awaitable[T]]"
) -> T:
    """Open a client for the cluster that is meant, make one call, and close it."""
    from pulsering import PresenceClient

    limit_s = seconds_of("--timeout", timeout)
    where = cluster_url(url, config, os.environ)

    async def session() -> T:
        async with PresenceClient.from_url(where, timeout=limit_s, connect_timeout=limit_s) as client:
            return await verb(client)

    return asyncio.run(session())
