"""The verbs of ``pulsering bench`` that compare and scale, and ``pulsering size``; registered by ``cli``.

As in ``cli``, options are parsed here and nothing else happens; what does the work is imported inside.
"""

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, progress on stderr.")]


def compare(
    users: Annotated[int, typer.Option(min=1000, help="Users on each store.")] = 5_000_000,
    peer: Annotated[
        list[str] | None, typer.Option(help="Only this store; may be given several times.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; medians are reported.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.05, help="How long each closed loop runs.")] = 1.5,
    seed: Annotated[int, typer.Option(min=0, help="Asks for the same users again.")] = 1,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write an HTML page too.")] = None,
    table: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a Markdown table too.")] = None,
    old: Annotated[
        Path | None, typer.Option("--compare", metavar="FILE", help="Judge against an earlier --json.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The same presence work on Redis, Valkey, memcached, PostgreSQL, a dictionary and Pulsering.

    \b
    [dim]pulsering bench compare --report report.html[/]
    [dim]pulsering bench compare --json > new.json[/]
    [dim]pulsering bench compare --compare new.json[/]

    Real servers on loopback, every answer checked. What is not installed is named and skipped. Exit code 0
    only if no answer of ours was wrong and nothing is worse than in the earlier run.
    """
    from pulsering_bench.compare import Work
    from pulsering_bench.comparison import run_compare

    work = Work(users=users, repeats=repeats, seconds=seconds, seed=seed)
    raise typer.Exit(run_compare(work, peer or (), as_json=as_json, report=report, table=table, old=old))


def sweep(
    users: Annotated[int, typer.Option(min=1000, help="Users on the store.")] = 1_000_000,
    peer: Annotated[str, typer.Option(help="Which store; as in compare.")] = "pulsering",
    page: Annotated[int, typer.Option(min=1, max=8192, help="Users in a request.")] = 1000,
    target: Annotated[str, typer.Option(metavar="DURATION", help="Stop when the p99 is above it.")] = "5ms",
    start: Annotated[float, typer.Option(min=1, help="Requests a second of the first step.")] = 500.0,
    factor: Annotated[float, typer.Option(min=1.01, help="From step to step.")] = 1.5,
    seconds: Annotated[float, typer.Option(min=0.05, help="How long each step lasts.")] = 2.0,
    chart: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the curve as SVG too.")] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write an HTML page too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Step the load up until the p99 breaks, then close in on the knee; prints latency against load.

    \b
    [dim]pulsering bench sweep --target 2ms --report sweep.html --chart sweep.svg[/]

    Open loop: each request counts from when it was due. Exit code 0 only if no answer was wrong.
    """
    from pulsering_bench.compare import PEERS
    from pulsering_bench.sweep import Plan
    from pulsering_bench.sweep_report import run_sweep
    from pulsering_server.units import UnitError, parse_duration_ms

    kinds = {kind.name: kind for kind in PEERS}
    if peer not in kinds:
        raise typer.BadParameter(f"no such peer: {peer}; there are {', '.join(kinds)}")
    absent = kinds[peer].missing()
    if absent:
        raise typer.BadParameter(f"{absent} is not installed: {kinds[peer].install}")
    try:
        target_ms = parse_duration_ms(target)
    except UnitError as error:
        raise typer.BadParameter(str(error), param_hint="'--target'") from None
    plan = Plan(
        users=users, page=page, target_ms=target_ms, start_per_s=start, factor=factor, seconds=seconds
    )
    raise typer.Exit(run_sweep(kinds[peer], plan, as_json=as_json, report=report, chart=chart))


def soak(
    minutes: Annotated[float, typer.Option(min=0.01, help="How long.")] = 60.0,
    users: Annotated[int, typer.Option(min=1000, help="Users on the node.")] = 1_000_000,
    rate: Annotated[float, typer.Option(min=2, help="Requests a second, half of them pages.")] = 2000.0,
    as_json: AsJson = False,
) -> None:
    """The same load for an hour: do memory, files, tasks and CPU a request stay flat?

    \b
    [dim]pulsering bench soak --minutes 5[/]

    Exit code 0 only if nothing grew and no answer was wrong.
    """
    from pulsering_bench.soak import Plan, run_soak

    slice_s = min(10.0, minutes * 60 / 6)
    plan = Plan(users=users, minutes=minutes, slice_s=slice_s, requests_per_s=rate)
    raise typer.Exit(run_soak(plan, as_json=as_json))


def billion(
    users: Annotated[int, typer.Option(min=10_000, help="Users to load.")] = 1_000_000_000,
    seconds: Annotated[float, typer.Option(min=0.05, help="How long each rate is measured.")] = 10.0,
    as_json: AsJson = False,
) -> None:
    """One node, a billion users with 64-bit ids over TCP; then refreshes, gets and a partial expiry.

    \b
    [dim]pulsering bench billion --users 10000000[/]

    Asks for the memory first. Exit code 0 only if no answer and no count was wrong.
    """
    from pulsering_bench.billion import Plan, run_billion

    raise typer.Exit(run_billion(Plan(users=users, seconds=seconds), as_json=as_json))


def scale(
    users: Annotated[int, typer.Option(min=1000, help="Users on the cluster.")] = 2_000_000,
    batch: Annotated[int, typer.Option(min=1, max=100_000, help="Users in a call.")] = 1000,
    seconds: Annotated[float, typer.Option(min=0.05, help="How long each load runs.")] = 3.0,
    as_json: AsJson = False,
) -> None:
    """1, 2 and 4 nodes: users a second of a core, and what the client pays; more nodes are calculated.

    \b
    [dim]pulsering bench scale --batch 8192[/]

    Exit code 0 only if no answer was wrong.
    """
    from pulsering_bench.scale import Plan, run_scale

    raise typer.Exit(run_scale(Plan(users=users, batch=batch, seconds=seconds), as_json=as_json))


def size(
    users: Annotated[float, typer.Option(min=1, help="Users there are, such as 1e9.")] = 1e9,
    online: Annotated[
        float | None, typer.Option(min=1, help="Of them online at a time; default: all.")
    ] = None,
    interval: Annotated[str, typer.Option(metavar="DURATION", help="Between a user's heartbeats.")] = "10s",
    replicas: Annotated[int, typer.Option(min=1, max=5, help="Owners of each user.")] = 2,
    gets: Annotated[
        float | None, typer.Option(min=0, help="Users asked for a second; default: as many as heartbeats.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Users in a call of an API server.")] = 1000,
    api_servers: Annotated[int, typer.Option(min=1, help="Processes that run the client.")] = 1000,
    cores_per_node: Annotated[int, typer.Option(min=1, help="Cores of a machine.")] = 16,
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Memory of a machine.")] = "64GiB",
    zones: Annotated[int, typer.Option(min=1, help="Zones the machines are in.")] = 3,
    connections: Annotated[int, typer.Option(min=1, help="limits.connections of a core.")] = 10_000,
    profile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What a core does: a 'bench compare --json'.")
    ] = None,
    markdown: Annotated[bool, typer.Option(help="Print a Markdown table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a cluster of that size needs: nodes, cores, memory, network, connections; with the arithmetic.

    \b
    [dim]pulsering size --users 1e9 --online 1e9 --interval 10s --replicas 2[/]
    [dim]pulsering bench compare --json > measured.json && pulsering size --profile measured.json[/]
    """
    import json

    from pulsering_bench import sizing
    from pulsering_server.units import UnitError, parse_duration_ms, parse_size

    try:
        demand = sizing.Demand(
            users=users,
            online=users if online is None else online,
            interval_s=parse_duration_ms(interval) / 1000,
            replicas=replicas,
            gets_per_s=gets,
            batch=batch,
            api_servers=api_servers,
            cores_per_node=cores_per_node,
            memory_bytes=float(parse_size(memory)),
            zones=zones,
            connections=connections,
        )
        measured = sizing.load_profile(profile)
        if demand.online > users:
            raise ValueError(f"--online {demand.online:,.0f} is more than --users {users:,.0f}")
        result = sizing.size_of(demand, measured)
    except (UnitError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    if as_json:
        typer.echo(json.dumps(sizing.facts_of(result, demand, measured), indent=1))
    elif markdown:
        typer.echo(sizing.markdown_of(result))
    else:
        typer.echo(sizing.text_of(result, demand, measured))
