"""``pulsering top``: the cluster as it runs, a line a node, until Ctrl-C.

Users and states come over the data port; rates and latencies from the admin ports, where nodes keep them for
the last 5 to 10 s. A node whose admin port says nothing has its line all the same, and below the table stands
why. On a terminal the table stays in its place; in a pipe each look is printed below the one before.
"""

import asyncio
import itertools
import os
import time
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from pulsering.reports import NodeStatus
from pulsering_server.cli.exits import OK
from pulsering_server.cli.options import WAIT, AdminAt, Config, Timeout, Url
from pulsering_server.cli.output import compact, duration, number, plain, seconds_of, stdout, table
from pulsering_server.cli.status import coloured_state, remarks
from pulsering_server.cli.target import target_of

if TYPE_CHECKING:
    from pulsering_server.cli.admin_ports import AdminPorts, Told

__all__ = ["Line", "Sort", "frame", "line_of", "top"]


class Line(NamedTuple):
    """What is shown of one node; None where nobody told."""

    node: NodeStatus
    beats: float | None = None
    gets: float | None = None
    unknown: float | None = None
    p99_ms: float | None = None
    lag_ms: float | None = None
    connections: float | None = None
    memory: float | None = None
    """Percent of its limit."""


class Sort(StrEnum):
    """By what the greatest come first."""

    NAME = "name"
    USERS = "users"
    BEATS = "beats"
    GETS = "gets"
    UNKNOWN = "unknown"
    P99 = "p99"
    LAG = "lag"


_KEYS: Final[dict[Sort, Callable[[Line], float | None]]] = {
    Sort.USERS: lambda line: line.node.users,
    Sort.BEATS: lambda line: line.beats,
    Sort.GETS: lambda line: line.gets,
    Sort.UNKNOWN: lambda line: line.unknown,
    Sort.P99: lambda line: line.p99_ms,
    Sort.LAG: lambda line: line.lag_ms,
}


def top(
    every: Annotated[str, typer.Option(metavar="DURATION", help="Look again this often.")] = "1s",
    sort: Annotated[Sort, typer.Option(help="The greatest of these come first.")] = Sort.NAME,
    frames: Annotated[
        int | None, typer.Option("-n", "--frames", min=1, help="End after so many looks.")
    ] = None,
    admin: AdminAt = None,
    url: Url = None,
    config: Config = None,
    timeout: Timeout = WAIT,
) -> None:
    """Watch the nodes at work: users, rates, latencies, unknowns. Ctrl-C ends it.

    USERS are those kept there, so with replicas each counts more than once in the sum.
    BEATS, GETS and UNKN are users a second, heartbeats, asked for, and answered unknown; P99 is of gets in
    the node and LAG of its event loop, in ms; MEM is the table's share of its limit, WARM how long it will be
    warming. Rates and what follows need the admin ports. Of P99, LAG and MEM the last line has the worst.

    \b
    [dim]pulsering top[/]
    [dim]pulsering top --sort unknown --every 5s[/]
    [dim]pulsering top -n 1 > now.txt[/]
    [dim]pulsering top --admin a=127.0.0.1:8400[/]   # by a tunnel
    """
    from pulsering_server.cli.admin_ports import AdminPorts

    target = target_of(url, config, os.environ)
    ports = AdminPorts(target, admin or (), os.environ)
    every_s, timeout_s = seconds_of("--every", every), seconds_of("--timeout", timeout)
    try:
        asyncio.run(_run(target.url, ports, every_s, timeout_s, sort, frames))
    except KeyboardInterrupt:
        raise typer.Exit(OK) from None


async def _run(
    where: str, ports: "AdminPorts", every_s: float, timeout_s: float, sort: Sort, frames: int | None
) -> None:
    from rich.live import Live

    from pulsering import PresenceClient

    console = stdout()
    async with PresenceClient.from_url(where, timeout=timeout_s, connect_timeout=timeout_s) as client:

        async def look() -> RenderableType:
            topology = client.topology
            nodes = await client.status()
            names = [node.name for node in nodes if node.up]
            told = await ports.ask(names, "/status", timeout_s)
            return frame(f"{topology.cluster}  epoch {topology.epoch}", nodes, told, sort)

        seen = await look()
        if console.is_terminal and frames is None:
            with Live(seen, console=console, screen=True, auto_refresh=False) as live:
                while True:
                    await asyncio.sleep(every_s)
                    live.update(await look(), refresh=True)
        console.print(seen)
        for _ in itertools.count() if frames is None else range(frames - 1):
            await asyncio.sleep(every_s)
            console.print(await look())


def line_of(node: NodeStatus, body: Any) -> Line:
    """Return the line of a node; ``body`` is its status at the admin port, None if there is none."""
    used, most = number(body, "table", "memory_bytes"), number(body, "table", "memory_max_bytes")
    return Line(
        node,
        number(body, "rates", "heartbeats_per_s"),
        number(body, "rates", "gets_per_s"),
        number(body, "rates", "unknown_per_s"),
        number(body, "latency_ms", "get", "p99"),
        number(body, "latency_ms", "loop_lag", "p99"),
        number(body, "connections", "open"),
        100 * used / most if used is not None and most else None,
    )


def frame(title: str, nodes: list[NodeStatus], told: "list[Told]", sort: Sort) -> Group:
    """Return one look: a line a node, the sum, and what else is to be known."""
    from pulsering_server.cli.admin_ports import silence

    bodies = {each.node: each.body for each in told}
    lines = [line_of(node, bodies.get(node.name)) for node in nodes]
    if sort is not Sort.NAME:
        key = _KEYS[sort]
        lines.sort(key=lambda line: -(key(line) or 0.0))
    columns = ("--", "NODE", "USERS", "BEATS", "GETS", "UNKN", "P99", "LAG", "CONNS", "MEM", "WARM")
    rows = [_row(line) for line in lines]
    if len(lines) > 1:
        rows.append(_sum(lines))
    up = sum(node.up for node in nodes)
    parts: list[RenderableType] = [
        f"cluster [bold]{plain(title)}[/]  {up} of {len(nodes)} up  [dim]{time.strftime('%H:%M:%S')}[/]\n",
        table(columns, rows, right=columns[2:]),
        *remarks(nodes),
        *(f"[yellow]![/] {plain(line)}" for line in silence(told)),
    ]
    return Group(*map(_rendered, parts))


def _rendered(part: RenderableType) -> RenderableType:
    return Text.from_markup(part) if isinstance(part, str) else part


def _row(line: Line) -> tuple[str, ...]:
    node = line.node
    unknown = compact(line.unknown)
    return (
        coloured_state(node),
        plain(node.name),
        compact(node.users),
        compact(line.beats),
        compact(line.gets),
        f"[yellow]{unknown}[/]" if line.unknown else unknown,
        _ms(line.p99_ms),
        _ms(line.lag_ms),
        compact(line.connections),
        "-" if line.memory is None else f"{line.memory:.0f}%",
        duration(node.warming * 1000) if node.warming else "",
    )


def _sum(lines: list[Line]) -> tuple[str, ...]:
    def total(values: list[float | None]) -> str:
        there = [value for value in values if value is not None]
        return f"[bold]{compact(sum(there) if there else None)}[/]"

    def most(values: list[float | None]) -> str:
        return f"[bold]{_ms(max((value for value in values if value is not None), default=None))}[/]"

    memory = max((line.memory for line in lines if line.memory is not None), default=None)
    return (
        "",
        "[dim]all[/]",
        total([line.node.users for line in lines]),
        total([line.beats for line in lines]),
        total([line.gets for line in lines]),
        total([line.unknown for line in lines]),
        most([line.p99_ms for line in lines]),
        most([line.lag_ms for line in lines]),
        total([line.connections for line in lines]),
        "[bold]-[/]" if memory is None else f"[bold]{memory:.0f}%[/]",
        "",
    )


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 10 else f"{value:.0f}"
