"""``pulsering latency``: how long a PING and a page of users take, from here to each node.

Questions are due at a steady pace, PING and page in turn, and each is timed from when it was due: a node that
stands still for a second costs every question of that second, not one. A question that gets no answer is
counted as lost. How late this process itself came is shown too, as a busy machine measures itself.
"""

import asyncio
import math
import os
import random
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from pulsering.errors import PresenceError
from pulsering_server.cli.exits import CANNOT_REACH, FAILED, OK
from pulsering_server.cli.misuse import Misuse
from pulsering_server.cli.options import WAIT, Config, Format, Nodes, Timeout, Url
from pulsering_server.cli.output import Answer, Output, plain, respond, seconds_of, table
from pulsering_server.cli.target import cluster_url

if TYPE_CHECKING:
    from pulsering.topology import Node
    from pulsering_server.cli.line import Line

__all__ = ["Round", "latency", "percentile"]

_SHARES: Final = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999))
_PAGES: Final = 16
"""Different pages a node is asked for, in turn."""
_LATE_MS: Final = 10.0
"""Of this process, at the 99th percentile, above which it says so."""


class Round(NamedTuple):
    """What was measured of one kind of question to one node; times in ms, in the order of size."""

    times_ms: list[float]
    lost: int

    def document(self) -> dict[str, Any]:
        """The figures for scripts."""
        found = {name: percentile(self.times_ms, share) for name, share in _SHARES}
        extremes = {"min": percentile(self.times_ms, 0.0), "max": percentile(self.times_ms, 1.0)}
        rounded = {
            f"{name}_ms": None if value is None else round(value, 4)
            for name, value in (found | extremes).items()
        }
        return {"answered": len(self.times_ms), "lost": self.lost, **rounded}


class _Measured(NamedTuple):
    node: "Node"
    ping: Round
    page: Round
    late_ms: list[float]
    error: str


def percentile(ordered: list[float], share: float) -> float | None:
    """The smallest value that ``share`` of all are not above; None of none."""
    if not ordered:
        return None
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def latency(
    duration: Annotated[str, typer.Option("--for", metavar="DURATION", help="How long to measure.")] = "5s",
    every: Annotated[
        str, typer.Option(metavar="DURATION", help="A question to each node this often.")
    ] = "10ms",
    page: Annotated[int, typer.Option(min=1, max=8192, help="Users in a page.")] = 100,
    node: Nodes = None,
    url: Url = None,
    config: Config = None,
    timeout: Timeout = WAIT,
    output: Format = Output.TABLE,
) -> None:
    """Measure round trips of PING and of a page of users, from here to each node.

    Users asked for are random ones: nothing is changed. Exit code 1 if a node did not answer everything, 3 if
    none answered.

    \b
    [dim]pulsering latency[/]
    [dim]pulsering latency --for 60s --every 100ms --page 1000[/]
    [dim]pulsering latency --node b -o json[/]
    """
    where = cluster_url(url, config, os.environ)
    for_s, every_s = seconds_of("--for", duration), seconds_of("--every", every)
    if every_s > for_s:
        raise Misuse(f"--every {every} is more than --for {duration}: nothing would be asked")
    timeout_s = seconds_of("--timeout", timeout)

    def ask() -> Answer:
        return _answer(asyncio.run(_measure(where, node or [], for_s, every_s, page, timeout_s)), page)

    respond(ask, output)


async def _measure(
    where: str, names: list[str], for_s: float, every_s: float, page: int, timeout_s: float
) -> list[_Measured]:
    from pulsering.url import parse_url
    from pulsering_server.cli.line import Line, keys_owned, topology_at

    topology = await topology_at(where, timeout_s)
    known = {node.name for node in topology.nodes}
    for name in names:
        if name not in known:
            raise Misuse(f"--node {name}: there is no such node; there are: {', '.join(sorted(known)[:8])}")
    rng, url = random.Random(), parse_url(where)
    nodes = [node for node in topology.nodes if not names or node.name in names]

    async def one(index: int, node: "Node") -> _Measured:
        line = Line(url, topology.cluster, node, timeout_s)
        pages = [keys_owned(topology, node.name, page, rng) for _ in range(_PAGES)]
        try:
            await line.open()
            # Nodes have their turns one after another, so that their answers do not wait for each other here.
            return await _ask_on_time(line, pages, for_s, every_s, index / len(nodes))
        except PresenceError as error:
            lost = max(2, int(for_s / every_s))
            return _Measured(node, Round([], lost - lost // 2), Round([], lost // 2), [], str(error))
        finally:
            await line.close()

    return list(await asyncio.gather(*(one(index, node) for index, node in enumerate(nodes))))


async def _ask_on_time(
    line: "Line", pages: list[bytes], for_s: float, every_s: float, phase: float
) -> _Measured:
    """PING and page in turn, each due ``every_s`` after the one before, whether that has come back or not."""
    loop = asyncio.get_running_loop()
    began_s = loop.time() + phase * every_s
    times: tuple[list[float], list[float]] = ([], [])
    lost = [0, 0]
    late_ms: list[float] = []
    error = ""
    total = max(2, int(for_s / every_s))
    for number in range(total):
        due_s = began_s + number * every_s
        if due_s > loop.time():
            await asyncio.sleep(due_s - loop.time())
            late_ms.append((loop.time() - due_s) * 1000)
        kind = number % 2
        try:
            await (line.get(pages[number // 2 % len(pages)]) if kind else line.ping())
            times[kind].append((loop.time() - due_s) * 1000)
        except PresenceError as failure:
            lost[kind] += 1
            error = str(failure)
            if not line.alive or loop.time() > began_s + for_s + line.timeout_s:
                for following in range(number + 1, total):
                    lost[following % 2] += 1
                break
    return _Measured(
        line.node, Round(sorted(times[0]), lost[0]), Round(sorted(times[1]), lost[1]), sorted(late_ms), error
    )


def _answer(measured: list[_Measured], page: int) -> Answer:
    late_ms = percentile(sorted(ms for each in measured for ms in each.late_ms), 0.99)
    columns = ("NODE", "ASKED", "P50", "P90", "P99", "P99.9", "MAX", "LOST")
    rows, document = [], []
    for each in measured:
        for what, found in (("ping", each.ping), (f"get {page}", each.page)):
            figures = found.document()
            shown = (_ms(figures[f"{name}_ms"]) for name in ("p50", "p90", "p99", "p999", "max"))
            rows.append((plain(each.node.name), what, *shown, str(found.lost) if found.lost else ""))
        document.append(
            {
                "name": each.node.name,
                "address": each.node.address,
                "ping": each.ping.document(),
                "get": {"keys": page, **each.page.document()},
                "error": each.error or None,
            }
        )
    parts: list[Any] = [table(columns, rows, right=columns[2:])]
    parts.append("[dim]milliseconds, from when each question was due[/]")
    parts += (f"[bold red]![/] {plain(each.error)}" for each in measured if each.error)
    if late_ms is not None and late_ms > _LATE_MS:
        parts.append(
            f"[yellow]![/] this process came {late_ms:.0f} ms late at the 99th percentile: "
            "the machine is busy, and part of the times is its own"
        )
    answered = [bool(each.ping.times_ms) for each in measured]
    whole = not any(each.error for each in measured)
    code = OK if whole else FAILED if any(answered) else CANNOT_REACH
    late = None if late_ms is None else round(late_ms, 4)
    return Answer({"late_p99_ms": late, "nodes": document}, parts, code)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"
