"""``pulsering check``: one question for monitoring, is the cluster healthy, in the form that asks.

The exit code is that of Nagios, in every form: 0 ok, 1 warning, 2 critical, 3 unknown. A cluster that cannot
be reached is critical, so that somebody is woken; what is unknown is the question itself, an option or a
``cluster.yaml`` that is not usable. ``health`` decides, this asks and renders.
"""

import asyncio
import json
import math
import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from pulsering.errors import ClusterMismatch, PresenceError
from pulsering_server.cli.health import Check, Facts, Finding, Grade, Limit, judge, limits_of, worst
from pulsering_server.cli.misuse import Misuse
from pulsering_server.cli.options import WAIT, AdminAt, Config, Timeout, Url
from pulsering_server.cli.output import plain, seconds_of, stdout, table
from pulsering_server.cli.target import Target, target_of

if TYPE_CHECKING:
    from pulsering_server.cli.admin_ports import AdminPorts

__all__ = ["Form", "Verdict", "check", "document", "facts_of", "render", "summary", "unreachable"]

_COLOURS: Final = {
    Grade.OK: "green",
    Grade.WARNING: "yellow",
    Grade.CRITICAL: "bold red",
    Grade.UNKNOWN: "magenta",
}
_UOM: Final = {"nodes": "", "%": "%", "ms": "ms"}


class Form(StrEnum):
    """Who reads the answer."""

    TEXT = "text"
    NAGIOS = "nagios"
    JSON = "json"
    PROMETHEUS = "prometheus"


class Verdict(SystemExit):
    """The end of a check that could be made: unlike a usage error, its 2 means critical."""


def check(
    form: Annotated[Form, typer.Option("--output", "-o", help="How to answer.")] = Form.TEXT,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=WARNING[:CRITICAL]", help="In place of a usual limit, or NAME=off; repeatable."
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the answer there, at once, instead of on stdout."),
    ] = None,
    no_admin: Annotated[bool, typer.Option("--no-admin", help="Do not ask the admin ports.")] = False,
    admin: AdminAt = None,
    url: Url = None,
    config: Config = None,
    timeout: Timeout = WAIT,
) -> None:
    """Say whether the cluster is healthy, for monitoring. Its exit codes are those of Nagios.

    0 ok · 1 warning · 2 critical, also if no node can be reached · 3 unknown: the options or cluster.yaml are
    not usable.

    What is checked, and the limits, are in the table that it prints; --limit changes one.

    \b
    [dim]pulsering check[/]
    [dim]pulsering check -o nagios --limit ping=50ms:500ms --limit down=1:2[/]
    [dim]pulsering check -o prometheus --file /var/lib/node_exporter/textfile/pulsering.prom[/]
    """
    limits = limits_of(limit or ())
    target = target_of(url, config, os.environ)
    timeout_s = seconds_of("--timeout", timeout)
    ports = None
    if not no_admin:
        from pulsering_server.cli.admin_ports import AdminPorts

        ports = AdminPorts(target, admin or (), os.environ)
    try:
        findings = judge(asyncio.run(facts_of(target, ports, timeout_s)), limits)
    except ClusterMismatch:
        raise
    except PresenceError as error:
        findings = [unreachable(error)]
    _write(render(findings, form), file)
    raise Verdict(int(worst(findings)))


async def facts_of(target: Target, ports: "AdminPorts | None", timeout_s: float) -> Facts:
    """Ask all nodes at their data ports and admin ports; raises what opening a client does."""
    from pulsering.url import parse_url
    from pulsering_server.cli.line import look, topology_at

    topology = await topology_at(target.url, timeout_s)
    seen = await look(parse_url(target.url), topology, timeout_s)
    if ports is None:
        return Facts(topology, seen, ())
    # Of a node that is down it is known already.
    names = [each.node.name for each in seen if each.up]
    return Facts(topology, seen, await ports.ask(names, "/status", timeout_s))


def unreachable(error: PresenceError) -> Finding:
    """Return what it means that no node answers at all."""
    reach = Check("reach", "nodes", Limit(1, 1), "whether any node can be reached")
    return Finding(reach, reach.limit, None, Grade.CRITICAL, str(error))


# --- Forms ----------------------------------------------------------------------------------------------


def summary(findings: list[Finding]) -> str:
    """Return one line, the worst first."""
    grade = worst(findings)
    bad = sorted((each for each in findings if each.grade), key=lambda each: -each.grade)
    if bad:
        return f"{grade.name}: " + "; ".join(f"{each.check.name}: {each.text}" for each in bad)
    skipped = [each.check.name for each in findings if each.value is None]
    return "OK" + (f": not checked: {', '.join(skipped)}" if skipped else "")


def _text(findings: list[Finding]) -> str:
    rows = [
        (
            f"[{_COLOURS[each.grade]}]{_word(each)}[/]",
            each.check.name,
            _shown(each.value, each),
            _shown(each.limit.warning, each),
            _shown(each.limit.critical, each),
            plain(each.text),
        )
        for each in findings
    ]
    columns = ("GRADE", "CHECK", "VALUE", "WARN", "CRIT", "FOUND")
    grade, console = worst(findings), stdout()
    with console.capture() as captured:
        console.print(table(columns, rows, right=columns[2:5], words="FOUND"))
        console.print(f"[{_COLOURS[grade]}]{grade.name}[/]")
        for each in findings:
            if each.grade:
                console.print(f"{each.check.name}: {plain(each.text)}")
    return captured.get()


def _nagios(findings: list[Finding]) -> str:
    measured = [
        f"{each.check.name}={each.value:.6g}{_UOM[each.check.unit]};"
        f"{_edge(each.limit.warning)};{_edge(each.limit.critical)};0"
        for each in findings
        if each.value is not None
    ]
    # A bar would begin the figures.
    words = f"PULSERING {summary(findings)}".replace("|", "/").replace("\n", " ")
    return f"{words} | {' '.join(measured)}\n" if measured else f"{words}\n"


def document(findings: list[Finding]) -> dict[str, Any]:
    """Return the findings for scripts."""
    return {
        "grade": worst(findings).name.lower(),
        "summary": summary(findings),
        "checks": [
            {
                "name": each.check.name,
                "grade": each.grade.name.lower() if each.value is not None or each.grade else None,
                "value": each.value,
                "unit": each.check.unit,
                "warning": None if math.isinf(each.limit.warning) else each.limit.warning,
                "critical": None if math.isinf(each.limit.critical) else each.limit.critical,
                "text": each.text,
            }
            for each in findings
        ],
    }


def _json(findings: list[Finding]) -> str:
    return json.dumps(document(findings), indent=2, ensure_ascii=False) + "\n"


def _prometheus(findings: list[Finding]) -> str:
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()
    help_of = "0 ok, 1 warning, 2 critical, of"
    Gauge("pulsering_check_grade", f"{help_of} the whole cluster.", registry=registry).set(worst(findings))
    grades = Gauge("pulsering_check_part_grade", f"{help_of} one check.", ["check"], registry=registry)
    values = Gauge(
        "pulsering_check_value", "What one check found, in its unit.", ["check", "unit"], registry=registry
    )
    for each in findings:
        if each.value is not None or each.grade:
            grades.labels(each.check.name).set(each.grade)
        if each.value is not None:
            values.labels(each.check.name, {"%": "percent"}.get(each.check.unit, each.check.unit)).set(
                each.value
            )
    return generate_latest(registry).decode()


_RENDER: Final[dict[Form, Callable[[list[Finding]], str]]] = {
    Form.TEXT: _text,
    Form.NAGIOS: _nagios,
    Form.JSON: _json,
    Form.PROMETHEUS: _prometheus,
}


def render(findings: list[Finding], form: Form) -> str:
    """Return the answer in the form that was asked for."""
    return _RENDER[form](findings)


def _write(text: str, file: Path | None) -> None:
    """Print it, or put it in the place of a file in one step: nobody reads half of it."""
    if file is None:
        print(text, end="")
        return
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        beside.write_text(text, "utf-8")
        beside.replace(file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise Misuse(f"--file {file}: cannot be written: {error.strerror or error}") from None


def _word(finding: Finding) -> str:
    return "skipped" if finding.value is None and not finding.grade else finding.grade.name.lower()


def _shown(value: float | None, finding: Finding) -> str:
    if value is None:
        return "-"
    if math.isinf(value):
        return "off"
    return f"{value:.4g}{_UOM[finding.check.unit]}"


def _edge(limit: float) -> str:
    """A limit for Nagios, which alerts above it, where ours does from it on."""
    return "" if math.isinf(limit) else f"{limit:.6g}"
