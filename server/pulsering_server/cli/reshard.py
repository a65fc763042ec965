"""The verbs that change a running cluster: what would move, bring it about, and when a node may go.

A topology reaches the nodes as a file that each of them watches, so ``apply`` writes nothing itself: it hands
the file to a command of yours for one node after the other, or waits for you to put it there, and looks each
time whether the node has loaded it. Where the file says that it is published in etcd, ``apply`` writes that
key, if nobody else has meanwhile. Stopped half-way it can be started again, and finds done what is done.
"""

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pulsering.errors import PresenceError
from pulsering.probe import probe, probe_topology
from pulsering.topology import Topology
from pulsering.url import Address, ServiceUrl, parse_url
from pulsering_server.cli.completion import node_names
from pulsering_server.cli.exits import FAILED, MISUSED, OK
from pulsering_server.cli.misuse import Misuse
from pulsering_server.cli.options import Config, Format, Timeout, Url
from pulsering_server.cli.output import Output, duration, print_document, print_table, seconds_of
from pulsering_server.cli.rollout import LOOK_S, Rollout
from pulsering_server.cli.target import cluster_url, url_of
from pulsering_server.reshard import Part, Plan, plan_of

if TYPE_CHECKING:
    from pulsering_server.config import ClusterConfig

_WAIT = "60s"

OldFile = Annotated[Path, typer.Argument(metavar="OLD", help="The configuration that runs.")]
NewFile = Annotated[Path, typer.Argument(metavar="NEW", help="The one that shall.")]


def plan(old: OldFile, new: NewFile, timeout: Timeout = "1s", output: Format = Output.TABLE) -> None:
    """Show what a new configuration moves, before anything happens.

    Of the cluster that runs by OLD, if it can be reached, the users are counted. Exit code 2 if running nodes
    would not follow NEW.

    \b
    [dim]pulsering plan cluster.yaml new.yaml[/]
    """
    from pulsering_server.config import load_config

    before, after = load_config(old).topology(), load_config(new).topology()
    seconds = seconds_of("--timeout", timeout)
    users, online = asyncio.run(_users(url_of(old), seconds))
    made = plan_of(before, after, users)
    if output is not Output.TABLE:
        print_document(_document(made, online), output)
    else:
        _show(made, online)
    raise typer.Exit(MISUSED if made.refusal else OK)


def apply(
    new: NewFile,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Brings the file to one node; {file}, {node}, {host} and {address} are filled in.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before pushing.")] = False,
    wait: Annotated[
        str, typer.Option(metavar="DURATION", help="For each node to load the file, and to be warm.")
    ] = _WAIT,
    url: Url = None,
    config: Config = None,
    timeout: Timeout = "2s",
    output: Format = Output.TABLE,
) -> None:
    """Bring a new configuration to every node, one after the other, and watch the warm-up.

    New nodes first, which must be running with the new file; those that leave last. Without --push you put
    the file in place yourself, and each node is waited for; if the file says 'topology: etcd://…', it is
    published there. It may be stopped and started again at any time;
    with --config OLD it then also finds nodes that leave and have not been told.

    \b
    [dim]pulsering apply new.yaml --push 'scp {file} {host}:/etc/pulsering/cluster.yaml'[/]
    [dim]pulsering apply new.yaml[/]         # only waits until all nodes have it
    """
    from pulsering_server.config import load_config

    loaded = load_config(new)
    seconds, wait_s = seconds_of("--timeout", timeout), seconds_of("--wait", wait)
    where = cluster_url(url, config, os.environ) if url or config else url_of(new)
    topology = loaded.topology()
    made = plan_of(asyncio.run(_oldest_running(where, topology, seconds)), topology)
    if output is Output.TABLE:
        _show(made, None)
    if made.refusal:
        raise Misuse(f"running nodes will not follow {new}: {made.refusal}")
    if push and loaded.published:
        raise Misuse(
            "--push: nodes follow etcd, as 'topology' says in the file, so nothing is pushed to them"
        )
    if (push or loaded.published) and not yes:
        _ask("Push it to the nodes?" if push else f"Publish it in {loaded.published}?")
    applied = asyncio.run(
        _roll_out(
            made,
            loaded,
            new,
            new.read_text("utf-8-sig"),
            push,
            url=parse_url(url_of(new)),
            wait_s=wait_s,
            timeout_s=seconds,
            quiet=output is not Output.TABLE,
        )
    )
    if output is not Output.TABLE:
        print_document(applied, output)


def drain(
    node: Annotated[
        str,
        typer.Argument(metavar="NODE", help="A node's name, or its host:port.", autocompletion=node_names),
    ],
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Say how it is, and wait for nothing.")] = False,
    url: Url = None,
    config: Config = None,
    timeout: Timeout = "2s",
    output: Format = Output.TABLE,
) -> None:
    """Wait until a node that was taken out of cluster.yaml may be stopped, and say so.

    For one ttl it answers for users who have not been heard elsewhere yet. Exit code 1 if it is not removed,
    or with --no-wait if it is still needed. Of a name, the file of --config is asked (also an older one).

    \b
    [dim]pulsering drain 10.0.0.4:7400[/]
    [dim]pulsering drain d --config old.yaml[/]
    """
    seconds = seconds_of("--timeout", timeout)
    addresses, where = asyncio.run(_addresses_of(node, url, config, seconds))
    left_ms, epoch = asyncio.run(_drained(node, addresses, where, seconds, wait=not no_wait))
    if output is not Output.TABLE:
        found = {"node": node, "epoch": epoch, "removed": left_ms is not None, "needed_ms": left_ms}
        print_document(found, output)
    elif left_ms is None:
        typer.echo(
            f"{node} is part of the cluster at epoch {epoch}:"
            " take it out of cluster.yaml and raise the epoch, then ask again"
        )
    elif left_ms:
        typer.echo(f"{node} may be stopped in {duration(left_ms)}")
    else:
        typer.echo(f"{node} may be stopped")
    raise typer.Exit(OK if left_ms == 0 else FAILED)


# --- What plan shows ------------------------------------------------------------------------------------


async def _users(url: str, seconds: float) -> tuple[dict[str, int] | None, int | None]:
    """The users each node holds, and those online in all; None and None if nobody can be asked."""
    from pulsering import PresenceClient

    try:
        async with PresenceClient.from_url(url, timeout=seconds, connect_timeout=seconds) as client:
            nodes = await client.status()
            online = (await client.count()).online
    except PresenceError:
        return None, None
    return {node.name: node.users for node in nodes if node.users is not None}, online


def _show(made: Plan, online: int | None) -> None:
    share = f"{made.share_moved:.1%} of the slots change hands"
    if online is not None:
        share += f", with about {made.users_moved(online):,} of {online:,} users online"
    typer.echo(f"epoch {made.old.epoch} -> {made.new.epoch}: {share}")
    columns = ("", "NODE", "ADDRESS", "SLOTS", "THEN", "GAINS", "LOSES", "USERS", "LOSES ABOUT")
    marks = {Part.JOINS: "[green]+[/]", Part.STAYS: " ", Part.LEAVES: "[red]-[/]"}
    rows = [
        (
            marks[change.part],
            change.node.name,
            change.node.address,
            f"{change.slots_before:,}",
            f"{change.slots_after:,}",
            f"{change.slots_gained:,}",
            f"{change.slots_lost:,}",
            "-" if change.users_before is None else f"{change.users_before:,}",
            "-" if change.users_lost is None else f"{change.users_lost:,}",
        )
        for change in made.nodes
    ]
    print_table(columns, rows, right=columns[3:])
    if made.refusal:
        typer.echo(f"running nodes will not follow it: {made.refusal}")


def _document(made: Plan, online: int | None) -> dict[str, Any]:
    return {
        "epoch": made.old.epoch,
        "new_epoch": made.new.epoch,
        "share_moved": round(made.share_moved, 6),
        "users_online": online,
        "users_moved": None if online is None else made.users_moved(online),
        "refusal": made.refusal or None,
        "nodes": [
            {
                "name": change.node.name,
                "address": change.node.address,
                "part": change.part.value,
                "slots_before": change.slots_before,
                "slots_after": change.slots_after,
                "slots_gained": change.slots_gained,
                "slots_lost": change.slots_lost,
                "users_before": change.users_before,
                "users_lost": change.users_lost,
            }
            for change in made.nodes
        ],
    }


# --- What apply asks before it begins ------------------------------------------------------------------


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise Misuse("this changes the cluster: say --yes where nobody can be asked")
    typer.confirm(question, abort=True, err=True)


async def _roll_out(
    made: Plan,
    config: "ClusterConfig",
    file: Path,
    text: str,
    push: str | None,
    *,
    url: ServiceUrl,
    wait_s: float,
    timeout_s: float,
    quiet: bool,
) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        publish = None
        if config.published is not None:
            from pulsering_server.cli.publishing import Publishing

            publishing = await stack.enter_async_context(Publishing(config, text, quiet=quiet))
            publish = publishing.write
        rollout = Rollout(
            made, config, file, push, url=url, publish=publish, wait_s=wait_s, timeout_s=timeout_s
        )
        return await rollout.run(quiet=quiet)


async def _oldest_running(url: str, new: Topology, seconds: float) -> Topology:
    """The topology that the last of the nodes still follow: an ``apply`` before may have got half-way."""
    from pulsering import PresenceClient

    async with PresenceClient.from_url(url, timeout=seconds, connect_timeout=seconds) as client:
        oldest = client.topology
    nodes = {Address(node.host, node.port) for node in (*oldest.nodes, *new.nodes) if node.port}
    where = parse_url(url)
    nodes.update(where.seeds)
    found = await asyncio.gather(
        *(probe_topology(address, where, seconds) for address in nodes), return_exceptions=True
    )
    for each in found:
        if isinstance(each, Topology) and each.epoch < oldest.epoch:
            oldest = each
    return oldest


# --- What drain waits for -------------------------------------------------------------------------------


async def _addresses_of(
    name: str, url: str | None, config: Path | None, seconds: float
) -> tuple[list[Address], ServiceUrl]:
    """Where a node listens, with all its cores, and the cluster that it belongs to."""
    from pulsering import PresenceClient
    from pulsering_server.config import load_config

    if ":" in name:
        alone = f"presence://{name}"
        where = cluster_url(url, config, os.environ) if url or config else alone
        return list(parse_url(alone).seeds), parse_url(where)
    where = cluster_url(url, config, os.environ)
    if config is not None:
        found = [Address(*shard.address) for shard in load_config(config).shards_named(name)]
    else:
        async with PresenceClient.from_url(where, timeout=seconds, connect_timeout=seconds) as client:
            topology = client.topology
        found = [Address(node.host, node.port) for node in topology.nodes if node.name == name]
    if not found:
        raise Misuse(
            f"the cluster has no node '{name}': ask one that was removed by its address, "
            "pulsering drain host:7400, or by name with the file that still has it, --config old.yaml"
        )
    return found, parse_url(where)


async def _drained(
    name: str, addresses: list[Address], where: ServiceUrl, seconds: float, *, wait: bool
) -> tuple[int | None, int]:
    """(ms for which it is still needed, its epoch); None for ms if it is part of its topology."""
    told = False
    while True:
        found = [await probe(address, where, seconds) for address in addresses]
        epoch = max(each.vitals.epoch for each in found)
        if not all(each.vitals.removed for each in found):
            return None, epoch
        left_ms = max(each.vitals.needed_ms for each in found)
        if not left_ms or not wait:
            return left_ms, epoch
        if not told:
            told = True
            typer.echo(f"{name}: is needed for {duration(left_ms)} more", err=True)
        await asyncio.sleep(min(left_ms / 1000, LOOK_S))
