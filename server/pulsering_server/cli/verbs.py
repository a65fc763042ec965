"""The verbs of a client: tell, ask, watch, locate.

Each parses its options, makes one call of ``PresenceClient`` and answers with what came back; what a verb
means is the client's business. Two things are decided here: a person waits longer than a web page does
(``--timeout``), and an answer that is not one, a heartbeat that no owner took or a status that is unknown, is
exit code 1.
"""

import contextlib
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from pulsering.reports import HeartbeatReport
from pulsering.status import Status
from pulsering_server.cli.exits import FAILED, OK
from pulsering_server.cli.ids import parse_ids
from pulsering_server.cli.options import WAIT, Config, Format, Timeout, Url, Watch, call
from pulsering_server.cli.output import Answer, Output, duration, plain, respond, seconds_of, table, tell

if TYPE_CHECKING:
    from pulsering import Change, PresenceClient, Snapshot
    from pulsering.ids import UserId

_KIND: Final = "Kind of id (decimal digits are an int, all else a string)"

Ids = Annotated[list[str], typer.Argument(metavar="ID", help="User ids.", show_default=False)]
OneId = Annotated[str, typer.Argument(metavar="ID", help="A user id.", show_default=False)]
AsInt = Annotated[bool, typer.Option("--int", help="All ids are numbers.", rich_help_panel=_KIND)]
AsString = Annotated[bool, typer.Option("--string", help="All ids are strings.", rich_help_panel=_KIND)]
AsUuid = Annotated[bool, typer.Option("--uuid", help="All ids are UUIDs.", rich_help_panel=_KIND)]

_COLOURS: Final = {Status.ONLINE: "green", Status.OFFLINE: "dim", Status.UNKNOWN: "yellow"}


def heartbeat(
    ids: Ids,
    as_int: AsInt = False,
    as_string: AsString = False,
    as_uuid: AsUuid = False,
    url: Url = None,
    config: Config = None,
    timeout: Timeout = WAIT,
    output: Format = Output.TABLE,
) -> None:
    """Say that users are online now.

    \b
    [dim]pulsering heartbeat 42 alice[/]
    [dim]pulsering heartbeat --uuid 123e4567-e89b-12d3-a456-426614174000[/]
    """
    users = parse_ids(ids, as_int=as_int, as_string=as_string, as_uuid=as_uuid)
    respond(lambda: _written(call(url, config, timeout, lambda client: client.heartbeat_many(users))), output)


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
    timeout: Timeout = WAIT,
    output: Format = Output.TABLE,
) -> None:
    """Say goodbye for users: offline at once, or after a grace.

    \b
    [dim]pulsering leave 42[/]
    [dim]pulsering leave 42 --grace 10s[/]   # a second device may keep the user online
    """
    users = parse_ids(ids, as_int=as_int, as_string=as_string, as_uuid=as_uuid)
    grace_s = 0.0 if grace is None else seconds_of("--grace", grace)
    respond(
        lambda: _written(call(url, config, timeout, lambda client: client.leave_many(users, grace=grace_s))),
        output,
    )


def get(
    ids: Ids,
    strict: Annotated[
        bool, typer.Option("--strict", help="Offline only if every owner says so, else unknown.")
    ] = False,
    last_seen: Annotated[
        bool, typer.Option("--last-seen", help="When those who are offline were last seen.")
    ] = False,
    as_int: AsInt = False,
    as_string: AsString = False,
    as_uuid: AsUuid = False,
    url: Url = None,
    config: Config = None,
    timeout: Timeout = WAIT,
    output: Format = Output.TABLE,
    watch: Watch = None,
) -> None:
    """Ask whether users are online. Exit code 1 if any of them is unknown.

    \b
    [dim]pulsering get 42 alice[/]
    [dim]pulsering get 42 --last-seen[/]
    [dim]pulsering get 42 --watch 1s[/]
    [dim]pulsering get 42 -o json --url presence://10.0.0.1:7400[/]
    """
    users = parse_ids(ids, as_int=as_int, as_string=as_string, as_uuid=as_uuid)

    def ask() -> Answer:
        snapshot = call(
            url,
            config,
            timeout,
            lambda client: client.get_many(users, ages=True, last_seen=last_seen, strict=strict),
        )
        absences = _absences(snapshot) if last_seen else [({}, "")] * len(users)
        answers = zip(
            users, snapshot, snapshot.reasons, snapshot.ages, snapshot.retry_after, absences, strict=True
        )
        document, rows = [], []
        for user, status, reason, age, wait, (seen, absence) in answers:
            why = reason.name.lower() if status is Status.UNKNOWN else None
            document.append(
                {
                    "id": _plain(user),
                    "status": status.name.lower(),
                    "reason": why,
                    "age_ms": None if age is None else round(age * 1000),
                    "retry_after_ms": None if wait is None else round(wait * 1000),
                    **seen,
                }
            )
            note = why or absence
            if wait is not None:
                note += f", known in {duration(wait * 1000)}"
            if age is not None:
                note = f"heartbeat {duration(age * 1000)} ago"
            state = f"[{_COLOURS[status]}]{status.name.lower()}[/]"
            rows.append((_shown(user), state, f"[dim]{note}[/]"))
        code = FAILED if Status.UNKNOWN in list(snapshot) else OK
        return Answer(document, [table(("USER", "STATUS", ""), rows)], code)

    respond(ask, output, watch)


def watch(
    ids: Ids,
    changes: Annotated[
        int, typer.Option("--changes", "-n", metavar="N", min=0, help="End after so many lines; 0: never.")
    ] = 0,
    as_int: AsInt = False,
    as_string: AsString = False,
    as_uuid: AsUuid = False,
    url: Url = None,
    config: Config = None,
    timeout: Timeout = WAIT,
    output: Format = Output.TABLE,
) -> None:
    """Show the state of each user, and then each change as it happens, until Ctrl-C.

    A line says what has happened: a heartbeat, that the user left, or that no heartbeat came for one ttl; or
    why it is unknown.

    \b
    [dim]pulsering watch 42 alice[/]
    [dim]pulsering watch 42 -o json | jq --unbuffered -r .status[/]
    """
    users = parse_ids(ids, as_int=as_int, as_string=as_string, as_uuid=as_uuid)

    async def look(client: "PresenceClient") -> None:
        told = 0
        async with client.watch(users) as seen:
            async for change in seen:
                tell(_told(change), output)
                told += 1
                if told == changes:
                    break

    with contextlib.suppress(KeyboardInterrupt):
        call(url, config, timeout, look)
    raise typer.Exit(OK)


def _told(change: "Change") -> Answer:
    status, reason, cause = (each.name.lower() for each in change[1:4])
    document = {
        "id": _plain(change.id),
        "status": status,
        "reason": reason if change.reason else None,
        "cause": cause if change.cause else None,
        "version": change.version,
    }
    note = document["reason"] or document["cause"] or ""
    at = time.strftime("%H:%M:%S")
    line = f"[dim]{at}[/]  {_shown(change.id)}  [{_COLOURS[change.status]}]{status}[/]  [dim]{note}[/]"
    return Answer(document, [line])


def _absences(snapshot: "Snapshot") -> list[tuple[dict[str, int | None], str]]:
    """Of each user: what is said of when they were last seen, for programs and for people."""
    found: list[tuple[dict[str, int | None], str]] = []
    for seen, listened in zip(snapshot.last_seen, snapshot.listened, strict=True):
        seen_ms, listened_ms = (None if s is None else round(s * 1000) for s in (seen, listened))
        words = ""
        if seen_ms is not None:
            words = f"last seen {duration(seen_ms)} ago"
        elif listened_ms is not None:
            words = f"not seen for {duration(listened_ms)} at least" if listened_ms else "not remembered"
        found.append(({"last_seen_ms": seen_ms, "listened_ms": listened_ms}, words))
    return found


def count(
    url: Url = None,
    config: Config = None,
    timeout: Timeout = WAIT,
    output: Format = Output.TABLE,
    watch: Watch = None,
) -> None:
    """Count the users online in the whole cluster. Exit code 1 if it is a lower bound only.

    \b
    [dim]pulsering count[/]
    [dim]pulsering count -o json --watch 10s >> online.jsonl[/]
    """

    def ask() -> Answer:
        result = call(url, config, timeout, lambda client: client.count())
        document = {
            "online": result.online,
            "exact": result.exact,
            "missing": list(result.missing),
            "warming": list(result.warming),
        }
        line = f"{result.online:,} online" if result.exact else f"at least {result.online:,} online"
        for nodes, why in ((result.missing, "no answer from"), (result.warming, "still warming:")):
            if nodes:
                line += f"; {why} {', '.join(nodes)}"
        return Answer(document, [plain(line)], OK if result.exact else FAILED)

    respond(ask, output, watch)


def locate(
    user_id: OneId,
    as_int: AsInt = False,
    as_string: AsString = False,
    as_uuid: AsUuid = False,
    url: Url = None,
    config: Config = None,
    timeout: Timeout = WAIT,
    output: Format = Output.TABLE,
) -> None:
    """Show a user's key, slot and owners.

    \b
    [dim]pulsering locate 42[/]
    [dim]pulsering locate 42 --string[/]   # the user "42", somebody else than 42
    """
    [user] = parse_ids([user_id], as_int=as_int, as_string=as_string, as_uuid=as_uuid)

    async def look(client: "PresenceClient") -> Any:
        return client.locate(user)

    def ask() -> Answer:
        place = call(url, config, timeout, look)
        owners = [{"name": node.name, "address": node.address, "zone": node.zone} for node in place.owners]
        document = {"id": _plain(user), "key": f"{place.key:016x}", "slot": place.slot, "owners": owners}
        lines = [f"user   {_shown(user)}", f"key    {place.key:016x}", f"slot   {place.slot}"]
        lines += (
            f"owner  [bold]{node.name}[/]  {node.address}{'  asked first' if rank == 0 else ''}"
            for rank, node in enumerate(place.owners)
        )
        return Answer(document, lines)

    respond(ask, output)


def _written(report: HeartbeatReport) -> Answer:
    lost = report.unacknowledged
    if lost:
        line = f"{lost:,} of {report.total:,} not acknowledged: ask 'pulsering status' which nodes are down"
    else:
        reduced = f" ({report.reduced:,} by fewer than all owners)" if report.reduced else ""
        line = f"{report.accepted:,} acknowledged{reduced}"
    return Answer(dict(report._asdict()), [line], FAILED if lost else OK)


def _plain(user: "UserId") -> int | str:
    return user if isinstance(user, int) else str(user)


def _shown(user: "UserId") -> str:
    """Return an id for a terminal: strings keep quotes, so that 42 and "42" can be told apart."""
    from rich.markup import escape

    return escape(repr(user)) if isinstance(user, str) else str(user)
