"""``pulsering conns``: who is connected, from the nodes' admin ports, the greatest first over all of them."""

import asyncio
import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from pulsering_server.cli.exits import CANNOT_REACH, FAILED, OK
from pulsering_server.cli.misuse import Misuse
from pulsering_server.cli.options import WAIT, AdminAt, Config, Format, Nodes, Timeout, Url, Watch
from pulsering_server.cli.output import Answer, Output, duration, plain, respond, seconds_of, table
from pulsering_server.cli.target import target_of
from pulsering_server.units import about_size

if TYPE_CHECKING:
    from pulsering_server.cli.admin_ports import Told

_SENDS_MAX: Final = 1000
"""Connections that a node lists at most."""


class Sort(StrEnum):
    """By what the greatest come first."""

    SENT = "sent"
    RECEIVED = "received"
    HELD = "held"
    AGE = "age"


_FIELD: Final = {
    Sort.SENT: "sent_bytes",
    Sort.RECEIVED: "received_bytes",
    Sort.HELD: "held_bytes",
    Sort.AGE: "age_ms",
}


def conns(
    node: Nodes = None,
    sort: Annotated[Sort, typer.Option(help="The greatest of these come first.")] = Sort.SENT,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=_SENDS_MAX, help="How many to show.")
    ] = 20,
    admin: AdminAt = None,
    url: Url = None,
    config: Config = None,
    timeout: Timeout = WAIT,
    output: Format = Output.TABLE,
    watch: Watch = None,
) -> None:
    """Show who is connected to the nodes, from their admin ports. Exit code 1 if any node did not say.

    SENT and RECEIVED are bytes of the node since the connection was made, FLIGHT requests that wait for an
    answer, HELD the memory of requests and unread replies, with * while the node reads nothing more of it.

    \b
    [dim]pulsering conns[/]
    [dim]pulsering conns --sort held -n 5 --watch 2s[/]
    [dim]pulsering conns --node b --admin b=127.0.0.1:8400[/]   # by a tunnel
    """
    from pulsering_server.cli.admin_ports import AdminPorts

    ports = AdminPorts(target_of(url, config, os.environ), admin or (), os.environ)
    names = node or ports.names
    if not names:
        raise Misuse(f"which admin ports? {ports.place('')}")
    for name in names:
        if name not in ports.names:
            raise Misuse(f"--node {name}: there is no such node; there are: {', '.join(ports.names[:8])}")
    timeout_s = seconds_of("--timeout", timeout)
    path = f"/connections?sort={sort}&limit={limit}"

    def ask() -> Answer:
        return _answer(asyncio.run(ports.ask(names, path, timeout_s)), sort, limit)

    respond(ask, output, watch)


def _answer(told: "list[Told]", sort: Sort, limit: int) -> Answer:
    from pulsering_server.cli.admin_ports import silence

    bodies = [each.body for each in told if each.body is not None]
    rows = [{"node": body["node"], **connection} for body in bodies for connection in body["connections"]]
    rows.sort(key=lambda row: row[_FIELD[sort]], reverse=True)
    del rows[limit:]
    total = sum(body["open"] for body in bodies)
    document = {
        "open": total,
        "sort": sort.value,
        "connections": rows,
        "unanswered": [{"node": each.node, "why": each.why} for each in told if each.why],
    }
    columns = ("NODE", "PEER", "CLIENT", "AGE", "SENT", "RECEIVED", "FLIGHT", "HELD")
    parts: list[Any] = []
    if bodies:
        parts.append(table(columns, map(_row, rows), right=columns[3:], words="CLIENT"))
        parts.append(f"[dim]{len(rows):,} of {total:,} connections of {len(bodies)} of {len(told)} nodes[/]")
    parts += (f"[yellow]![/] {plain(line)}" for line in silence(told))
    return Answer(document, parts, OK if len(bodies) == len(told) else FAILED if bodies else CANNOT_REACH)


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        plain(row["node"]),
        plain(row["peer"]),
        plain(row["client"]),
        duration(row["age_ms"]),
        about_size(row["sent_bytes"]),
        about_size(row["received_bytes"]),
        str(row["in_flight"]),
        about_size(row["held_bytes"]) + ("*" if row["paused"] else ""),
    )
