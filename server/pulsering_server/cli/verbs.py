"""The verbs of a client: tell, ask, look at the nodes.

Each parses its options, makes one call of ``PresenceClient`` and prints what came back; what a verb means
is the client's business. Two things are decided here: a person waits longer than a web page does
(``--timeout``), and an answer that is not one, a heartbeat that no owner took or a status that is
unknown, is exit code 1.
"""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from pulsering.reports import HeartbeatReport, NodeStatus
from pulsering.status import Status
from pulsering_server.cli.exits import CANNOT_REACH, FAILED, OK
from pulsering_server.cli.ids import TypedId, parse_ids
from pulsering_server.cli.output import Output, duration, print_json, print_table, stdout
from pulsering_server.cli.target import cluster_url

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pulsering import PresenceClient

T = TypeVar("T")

_CLUSTER = "Which cluster"
_KIND = "Kind of id (decimal digits are an int, all else a string)"

Ids = Annotated[list[str], typer.Argument(metavar="ID", help="User ids.", show_default=False)]
OneId = Annotated[str, typer.Argument(metavar="ID", help="A user id.", show_default=False)]
Url = Annotated[
    str | None, typer.Option(metavar="URL", help="presence://host:port,host:port", rich_help_panel=_CLUSTER)
]
Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="Its cluster.yaml.", rich_help_panel=_CLUSTER),
]
Timeout = Annotated[str, typer.Option(metavar="DURATION", help="Give up after.", rich_help_panel=_CLUSTER)]
AsInt = Annotated[bool, typer.Option("--int", help="All ids are numbers.", rich_help_panel=_KIND)]
AsString = Annotated[bool, typer.Option("--string", help="All ids are strings.", rich_help_panel=_KIND)]
AsUuid = Annotated[bool, typer.Option("--uuid", help="All ids are UUIDs.", rich_help_panel=_KIND)]
Format = Annotated[Output, typer.Option("--output", "-o", help="How to answer.")]

_WAIT = "2s"
_COLOURS = {Status.ONLINE: "green", Status.OFFLINE: "dim", Status.UNKNOWN: "yellow"}
_STATE_COLOURS = {"UN": "green", "UW": "yellow", "UR": "yellow", "UL": "yellow", "DN": "bold red"}


def heartbeat(
    ids: Ids,
    as_int: AsInt = False,
    as_string: AsString = False,
    as_uuid: AsUuid = False,
    url: Url = None,
    config: Config = None,
    timeout: Timeout = _WAIT,
    output: Format = Output.TABLE,
) -> None:
    """Say that users are online now.

    \b
    [dim]pulsering heartbeat 42 alice[/]
    [dim]pulsering heartbeat --uuid 123e4567-e89b-12d3-a456-426614174000[/]
    """
    users = parse_ids(ids, as_int=as_int, as_string=as_string, as_uuid=as_uuid)
    report = _call(url, config, timeout, lambda client: client.heartbeat_many(users))
    raise typer.Exit(_report("heartbeat", report, output))


def leave(
    ids: Ids,
    grace: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Offline only after this, unless a heartbeat comes first."),
    ] = None,
    as_int: AsInt = False,
    as_string: AsString = False,
    as_uuid: AsUuid = False,
    url: Url = None,
    config: Config = None,
    timeout: Timeout = _WAIT,
    output: Format = Output.TABLE,
) -> None:
    """Say goodbye for users: offline at once, or after a grace.

    \b
    [dim]pulsering leave 42[/]
    [dim]pulsering leave 42 --grace 10s[/]   a second device may keep the user online
    """
    users = parse_ids(ids, as_int=as_int, as_string=as_string, as_uuid=as_uuid)
    seconds = 0.0 if grace is None else _seconds("--grace", grace)
    report = _call(url, config, timeout, lambda client: client.leave_many(users, grace=seconds))
    raise typer.Exit(_report("leave", report, output))


def get(
    ids: Ids,
    as_int: AsInt = False,
    as_string: AsString = False,
    as_uuid: AsUuid = False,
    url: Url = None,
    config: Config = None,
    timeout: Timeout = _WAIT,
    output: Format = Output.TABLE,
) -> None:
    """Ask whether users are online. Exit code 1 if any of them is unknown.

    \b
    [dim]pulsering get 42 alice[/]
    [dim]pulsering get 42 -o json --url presence://10.0.0.1:7400[/]
    """
    users = parse_ids(ids, as_int=as_int, as_string=as_string, as_uuid=as_uuid)
    snapshot = _call(url, config, timeout, lambda client: client.get_many(users, ages=True))
    answers = list(zip(users, snapshot, snapshot.reasons, snapshot.ages, strict=True))
    if output is Output.JSON:
        print_json(
            [
                {
                    "id": _plain(user),
                    "status": status.name.lower(),
                    "reason": reason.name.lower() if status is Status.UNKNOWN else None,
                    "age_ms": None if age is None else round(age * 1000),
                }
                for user, status, reason, age in answers
            ]
        )
    else:
        rows = []
        for user, status, reason, age in answers:
            note = reason.name.lower() if status is Status.UNKNOWN else ""
            if age is not None:
                note = f"heartbeat {duration(age * 1000)} ago"
            rows.append((_shown(user), _coloured(status.name.lower(), _COLOURS[status]), f"[dim]{note}[/]"))
        print_table(("USER", "STATUS", ""), rows)
    raise typer.Exit(FAILED if Status.UNKNOWN in list(snapshot) else OK)


def count(
    url: Url = None, config: Config = None, timeout: Timeout = _WAIT, output: Format = Output.TABLE
) -> None:
    """Count the users online in the whole cluster. Exit code 1 if it is a lower bound only.

    \b
    [dim]pulsering count[/]
    """
    result = _call(url, config, timeout, lambda client: client.count())
    if output is Output.JSON:
        print_json(
            {
                "online": result.online,
                "exact": result.exact,
                "missing": list(result.missing),
                "warming": list(result.warming),
            }
        )
    else:
        line = f"{result.online:,} online" if result.exact else f"at least {result.online:,} online"
        for nodes, why in ((result.missing, "no answer from"), (result.warming, "still warming:")):
            if nodes:
                line += f"; {why} {', '.join(nodes)}"
        typer.echo(line)
    raise typer.Exit(OK if result.exact else FAILED)


def status(
    url: Url = None, config: Config = None, timeout: Timeout = _WAIT, output: Format = Output.TABLE
) -> None:
    """Show one line a node. Exit code 1 if any is down, 3 if all are.

    \b
    UN up, normal · UW up, warming · UR up, draining · UL up, leaving · DN down
    [dim]pulsering status[/]
    [dim]watch -n1 pulsering status[/]
    """
    nodes = _call(url, config, timeout, lambda client: client.status())
    if output is Output.JSON:
        print_json([_node_document(node) for node in nodes])
    else:
        columns = ("--", "NODE", "ADDRESS", "USERS", "EPOCH", "UPTIME", "VERSION", "")
        print_table(columns, [_node_row(node) for node in nodes], right=("USERS", "EPOCH", "UPTIME"))
    up = sum(node.up for node in nodes)
    raise typer.Exit(OK if up == len(nodes) else FAILED if up else CANNOT_REACH)


def locate(
    user_id: OneId,
    as_int: AsInt = False,
    as_string: AsString = False,
    as_uuid: AsUuid = False,
    url: Url = None,
    config: Config = None,
    timeout: Timeout = _WAIT,
    output: Format = Output.TABLE,
) -> None:
    """Show a user's key, slot and owners.

    \b
    [dim]pulsering locate 42[/]
    [dim]pulsering locate 42 --string[/]   the user "42", somebody else than 42
    """
    [user] = parse_ids([user_id], as_int=as_int, as_string=as_string, as_uuid=as_uuid)

    async def look(client: "PresenceClient") -> Any:
        return client.locate(user)

    place = _call(url, config, timeout, look)
    if output is Output.JSON:
        owners = [{"name": node.name, "address": node.address, "zone": node.zone} for node in place.owners]
        print_json({"id": _plain(user), "key": f"{place.key:016x}", "slot": place.slot, "owners": owners})
    else:
        console = stdout()
        console.print(f"user   {_shown(user)}\nkey    {place.key:016x}\nslot   {place.slot}")
        for rank, node in enumerate(place.owners):
            console.print(
                f"owner  [bold]{node.name}[/]  {node.address}{'  asked first' if rank == 0 else ''}"
            )


def node_state(node: NodeStatus) -> str:
    """Return the two letters that operators know: U or D, then N, W (warming), R (draining), L (leaving)."""
    if not node.up:
        return "DN"
    return "UR" if node.draining else "UL" if node.removed else "UW" if node.warming else "UN"


def _call(
    url: str | None, config: Path | None, timeout: str, verb: "Callable[[PresenceClient], Awaitable[T]]"
) -> T:
    """Open a client for the cluster that is meant, make one call, and close it."""
    from pulsering import PresenceClient

    seconds = _seconds("--timeout", timeout)
    where = cluster_url(url, config, os.environ)

    async def session() -> T:
        async with PresenceClient.from_url(where, timeout=seconds, connect_timeout=seconds) as client:
            return await verb(client)

    return asyncio.run(session())


def _seconds(option: str, text: str) -> float:
    from pulsering_server.cli.node import duration_s

    return duration_s(option, text)


def _report(what: str, report: HeartbeatReport, output: Output) -> int:
    if output is Output.JSON:
        print_json(dict(report._asdict()))
    elif report.accepted == report.total:
        reduced = f" ({report.reduced:,} by fewer than all owners)" if report.reduced else ""
        typer.echo(f"{report.accepted:,} acknowledged{reduced}")
    else:
        lost = report.total - report.accepted
        typer.echo(f"pulsering: {what}: {lost:,} of {report.total:,} not acknowledged", err=True)
    return OK if report.accepted == report.total else FAILED


def _node_document(node: NodeStatus) -> dict[str, Any]:
    def milliseconds(seconds: float | None) -> int | None:
        return None if seconds is None else round(seconds * 1000)

    return {
        "state": node_state(node),
        "name": node.name,
        "address": node.address,
        "up": node.up,
        "error": node.error or None,
        "users": node.users,
        "epoch": node.epoch,
        "uptime_ms": milliseconds(node.uptime),
        "warming_ms": milliseconds(node.warming),
        "draining": node.draining,
        "removed": node.removed,
        "needed_ms": milliseconds(node.needed),
        "version": node.agent,
    }


def _node_row(node: NodeStatus) -> tuple[str, ...]:
    state = node_state(node)
    note = node.error
    if node.up and node.warming:
        note = f"warming, {duration(node.warming * 1000)} left"
    elif node.draining:
        note = "draining"
    elif node.removed:
        note = (
            f"removed, may be stopped in {duration(node.needed * 1000)}" if node.needed else "may be stopped"
        )
    return (
        _coloured(state, _STATE_COLOURS[state]),
        node.name,
        node.address,
        "-" if node.users is None else f"{node.users:,}",
        "-" if node.epoch is None else str(node.epoch),
        "-" if node.uptime is None else duration(node.uptime * 1000),
        (node.agent or "-").removeprefix("pulsering/"),
        f"[dim]{note}[/]" if note else "",
    )


def _coloured(text: str, style: str) -> str:
    return f"[{style}]{text}[/]"


def _plain(user: TypedId) -> int | str:
    return user if isinstance(user, int) else str(user)


def _shown(user: TypedId) -> str:
    """Return an id for a terminal: strings keep quotes, so that 42 and "42" can be told apart."""
    from rich.markup import escape

    return escape(repr(user)) if isinstance(user, str) else str(user)
