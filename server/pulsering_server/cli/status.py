"""``pulsering status``: the cluster on one screen, a line a node, its state in two letters.

Everything here comes over the data port, so it works wherever a client does. Below the table stands what an
operator should know of and not have to find: who is down and why, who is warming, who follows another epoch.
"""

from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pulsering import PresenceClient
from pulsering.errors import PresenceError
from pulsering.reports import Count, NodeStatus
from pulsering.topology import Topology
from pulsering_server.cli.exits import CANNOT_REACH, FAILED, OK
from pulsering_server.cli.options import WAIT, Config, Format, Timeout, Url, Watch, call
from pulsering_server.cli.output import Answer, Output, duration, plain, respond, table
from pulsering_server.units import format_duration_ms

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["STATES", "coloured_state", "node_state", "remarks", "status"]

STATES: Final = {
    "UN": ("up, normal", "green"),
    "UW": ("up, warming", "yellow"),
    "UR": ("up, draining", "yellow"),
    "UL": ("up, leaving", "yellow"),
    "DN": ("down", "bold red"),
}
"""What the two letters mean, and their colour."""


class _Sight(NamedTuple):
    topology: Topology
    nodes: list[NodeStatus]
    online: Count | None


def status(
    url: Url = None,
    config: Config = None,
    timeout: Timeout = WAIT,
    output: Format = Output.TABLE,
    watch: Watch = None,
) -> None:
    """Show one line a node. Exit code 1 if any is down, 3 if all are.

    UN up, normal · UW up, warming · UR up, draining · UL up, leaving (no longer in the topology) · DN down.
    OWNS is the share of all users that are kept there; with replicas it adds up to more than 100 %.

    \b
    [dim]pulsering status[/]
    [dim]pulsering status --watch 2s[/]
    [dim]pulsering status -o json | jq -r '.[] | select(.up | not).name'[/]
    """

    async def see(client: PresenceClient) -> _Sight:
        nodes = await client.status()
        try:
            count = await client.count()
        except PresenceError:
            count = None
        return _Sight(client.topology, nodes, count)

    def ask() -> Answer:
        sight = call(url, config, timeout, see)
        shares = sight.topology.shares(None)
        columns = ("--", "NODE", "ADDRESS", "USERS", "OWNS", "EPOCH", "UPTIME", "VERSION")
        rows = [_row(node, shares.get(node.name)) for node in sight.nodes]
        right = ("USERS", "OWNS", "EPOCH", "UPTIME")
        parts: list[RenderableType] = [
            _headline(sight),
            table(columns, rows, right=right),
            *remarks(sight.nodes),
        ]
        up = sum(node.up for node in sight.nodes)
        code = OK if up == len(sight.nodes) else FAILED if up else CANNOT_REACH
        return Answer([_document(node, shares.get(node.name)) for node in sight.nodes], parts, code)

    respond(ask, output, watch)


def node_state(node: NodeStatus) -> str:
    """Return the two letters that operators know: U or D, then N, W (warming), R (draining), L (leaving)."""
    if not node.up:
        return "DN"
    return "UR" if node.draining else "UL" if node.removed else "UW" if node.warming else "UN"


def coloured_state(node: NodeStatus) -> str:
    """Return the letters as markup."""
    state = node_state(node)
    return f"[{STATES[state][1]}]{state}[/]"


def remarks(nodes: list[NodeStatus]) -> list[str]:
    """Return a line, as markup, for all that a table of these nodes does not tell."""
    lines = [f"[bold red]![/] {plain(_down(node))}" for node in nodes if not node.up]
    of = {state: [node for node in nodes if node_state(node) == state] for state in STATES}
    if of["UR"]:
        lines.append(f"[yellow]![/] {_names(of['UR'])} draining: told to stop")
    for node in of["UL"]:
        left = f"in {duration(node.needed * 1000)}" if node.needed else "now"
        lines.append(f"[yellow]![/] {node.name} is out of the topology, and may be stopped {left}")
    if of["UW"]:
        left = duration(max(node.warming or 0.0 for node in of["UW"]) * 1000)
        lines.append(
            f"[yellow]![/] {_names(of['UW'])} warming, for {left} more: whom nobody hears of is unknown"
        )
    epochs = Counter(node.epoch for node in nodes if node.epoch is not None)
    if len(epochs) > 1:
        newest = max(epochs)
        behind = ", ".join(
            f"{node.name} ({node.epoch})" for node in nodes if node.up and node.epoch != newest
        )
        lines.append(
            f"[yellow]![/] epoch {newest} is not everywhere yet, but older at {behind}: "
            "'pulsering apply' brings it there"
        )
    return lines


def _names(nodes: list[NodeStatus]) -> str:
    names = ", ".join(node.name for node in nodes[:8])
    more = f" and {len(nodes) - 8} more" if len(nodes) > 8 else ""
    return f"{names}{more} {'is' if len(nodes) == 1 else 'are'}"


def _down(node: NodeStatus) -> str:
    return node.error if node.error.startswith(node.name) else f"{node.name}: {node.error}"


def _headline(sight: _Sight) -> str:
    topology, count = sight.topology, sight.online
    if count is None:
        users = "users online unknown"
    else:
        users = f"{'' if count.exact else 'at least '}{count.online:,} online"
    replicas = f"{topology.replicas} replica{'s' if topology.replicas > 1 else ''}"
    up, of = sum(node.up for node in sight.nodes), len(sight.nodes)
    return (
        f"cluster [bold]{plain(topology.cluster)}[/]  epoch {topology.epoch}  {replicas}"
        f"  ttl {format_duration_ms(topology.ttl_ms)}  {up} of {of} up  [bold]{users}[/]\n"
    )


def _row(node: NodeStatus, share: float | None) -> tuple[str, ...]:
    return (
        coloured_state(node),
        node.name,
        node.address,
        "-" if node.users is None else f"{node.users:,}",
        "-" if share is None else f"{share:.1%}",
        "-" if node.epoch is None else str(node.epoch),
        "-" if node.uptime is None else duration(node.uptime * 1000),
        plain((node.agent or "-").rpartition("/")[2]),
    )


def _document(node: NodeStatus, share: float | None) -> dict[str, Any]:
    def milliseconds(seconds: float | None) -> int | None:
        return None if seconds is None else round(seconds * 1000)

    return {
        "state": node_state(node),
        "name": node.name,
        "address": node.address,
        "up": node.up,
        "error": node.error or None,
        "users": node.users,
        "share": None if share is None else round(share, 6),
        "epoch": node.epoch,
        "uptime_ms": milliseconds(node.uptime),
        "warming_ms": milliseconds(node.warming),
        "draining": node.draining,
        "removed": node.removed,
        "needed_ms": milliseconds(node.needed),
        "version": node.agent,
    }
