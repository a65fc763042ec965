"""Is the cluster healthy? Facts about its nodes held against limits, each with a name that stays.

Pure: what was seen goes in, findings come out. A check that cannot be made, as no admin port told, is skipped
and says so; it is never taken for good. Invariant: the same facts and limits give the same findings, in the
same order.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pulsering.ids import SLOTS
from pulsering.limits import CERTIFICATE_DAYS_LATE
from pulsering_server.cli.misuse import Misuse
from pulsering_server.cli.output import number
from pulsering_server.stats import TLS_FILES

if TYPE_CHECKING:
    from pulsering.topology import Topology
    from pulsering_server.cli.admin_ports import Told
    from pulsering_server.cli.line import Seen

__all__ = ["CHECKS", "Check", "Facts", "Finding", "Grade", "Limit", "judge", "limits_of", "worst"]


class Grade(IntEnum):
    """As Nagios has it, and as its exit codes are."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


class Limit(NamedTuple):
    """From which value on it is a warning, and critical; infinity is never."""

    warning: float
    critical: float

    def grade(self, value: float) -> Grade:
        """What a value means."""
        if value >= self.critical:
            return Grade.CRITICAL
        return Grade.WARNING if value >= self.warning else Grade.OK


class Check(NamedTuple):
    """One question. ``unit`` is ``nodes``, ``%`` or ``ms``; ``admin`` whether only admin ports can tell."""

    name: str
    unit: str
    limit: Limit
    what: str
    admin: bool = False


class Facts(NamedTuple):
    """What was seen of a cluster. ``told`` are the answers of the admin ports, empty if nobody asked them."""

    topology: "Topology"
    seen: "Sequence[Seen]"
    told: "Sequence[Told]"


class Finding(NamedTuple):
    """The answer to one question; ``value`` is None if it could not be had."""

    check: Check
    limit: Limit
    value: float | None
    grade: Grade
    text: str


_NEVER: Final = math.inf

CHECKS: Final = (
    Check("down", "nodes", Limit(1, _NEVER), "nodes that do not answer"),
    Check("unowned", "%", Limit(0.001, 0.001), "users none of whose owners answers: they are unknown"),
    Check("cold", "%", Limit(0.001, _NEVER), "users none of whose owners is warm: who is silent is unknown"),
    Check("behind", "nodes", Limit(1, _NEVER), "nodes that follow an older epoch than others"),
    Check("split", "nodes", Limit(1, 1), "nodes that follow another topology of the newest epoch than most"),
    Check("leaving", "nodes", Limit(1, _NEVER), "nodes that drain, or that their own topology does not name"),
    Check("ping", "ms", Limit(250, 1000), "round trip of a PING, of the slowest node"),
    Check("unknown", "%", Limit(0.1, 1), "users asked for lately who were unknown", admin=True),
    Check("get", "ms", Limit(50, 250), "99th percentile of a get in the slowest node", admin=True),
    Check(
        "lag", "ms", Limit(50, 250), "99th percentile of the event loop's lag in the slowest node", admin=True
    ),
    Check("memory", "%", Limit(80, 95), "table of the fullest node, of its limit", admin=True),
    Check("connections", "%", Limit(80, 95), "connections of the fullest node, of its limit", admin=True),
    Check(
        "overload",
        "nodes",
        Limit(1, _NEVER),
        "nodes that refuse requests, as they are overloaded",
        admin=True,
    ),
    Check(
        "reload", "nodes", Limit(1, _NEVER), "nodes that refused the last cluster.yaml they read", admin=True
    ),
    Check(
        "frozen",
        "nodes",
        Limit(1, _NEVER),
        "nodes that cannot reach the etcd of which they have their topology",
        admin=True,
    ),
    Check(
        "certificate",
        "nodes",
        Limit(1, _NEVER),
        f"nodes with a certificate that ends within {CERTIFICATE_DAYS_LATE} days",
        admin=True,
    ),
    Check("admin", "nodes", Limit(1, _NEVER), "nodes whose admin port is on but does not answer", admin=True),
)
"""Every question, its usual limits, in the order of the answers."""

_BY_NAME: Final = {check.name: check for check in CHECKS}


def limits_of(texts: Iterable[str]) -> dict[str, Limit]:
    """Return the limits, those of ``NAME=WARNING[:CRITICAL]`` and ``NAME=off`` put in; else ``Misuse``."""
    limits = {check.name: check.limit for check in CHECKS}
    for text in texts:
        name, equals, values = text.partition("=")
        if name not in _BY_NAME or not equals:
            known = ", ".join(limits)
            raise Misuse(f"--limit {text}: expected NAME=WARNING[:CRITICAL] or NAME=off, NAME one of {known}")
        if values == "off":
            limits[name] = Limit(_NEVER, _NEVER)
            continue
        first, colon, second = values.partition(":")
        try:
            warning = _value(first, _BY_NAME[name].unit)
            critical = _value(second, _BY_NAME[name].unit) if colon else _NEVER
        except ValueError as error:
            raise Misuse(f"--limit {text}: {error}") from None
        if critical < warning:
            raise Misuse(f"--limit {text}: the limit to critical is below that to warning")
        limits[name] = Limit(warning, critical)
    return limits


def _value(text: str, unit: str) -> float:
    from pulsering_server.units import UnitError, parse_duration_ms

    if text == "off":
        return _NEVER
    if unit == "ms":
        try:
            return float(parse_duration_ms(text))
        except UnitError as error:
            raise ValueError(str(error)) from None
    if unit == "nodes":
        if text.isascii() and text.isdigit() and len(text) <= 9 and int(text):
            return float(text)
        raise ValueError(f"'{text}' is not a number of nodes, such as 2")
    number, percent = text.removesuffix("%"), text.endswith("%")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not percent or not 0 < value <= 100:
        raise ValueError(f"'{text}' is not a share above 0%, such as 0.5%")
    return value


def judge(facts: Facts, limits: dict[str, Limit]) -> list[Finding]:
    """Return what the facts mean, a finding for each of ``CHECKS``."""
    found = {**_of_data(facts), **_of_admin(facts)}
    findings = []
    for check in CHECKS:
        value, text = found[check.name]
        limit = limits[check.name]
        grade = Grade.OK if value is None else limit.grade(value)
        findings.append(Finding(check, limit, value, grade, text))
    return findings


def worst(findings: Iterable[Finding]) -> Grade:
    """Return what they come to."""
    return max((finding.grade for finding in findings), default=Grade.UNKNOWN)


_Found = tuple[float | None, str]


def _of_data(facts: Facts) -> dict[str, _Found]:
    seen, topology = facts.seen, facts.topology
    up = [each for each in seen if each.up]
    down = [each.node.name for each in seen if not each.up]
    warm = {each.node.name for each in up if each.vitals is not None and not each.vitals.warming_ms}
    welcomes = [each.welcome for each in up if each.welcome is not None]
    newest = max((welcome.epoch for welcome in welcomes), default=0)
    behind = [welcome.node for welcome in welcomes if welcome.epoch != newest]
    hashes = Counter(welcome.topology_hash for welcome in welcomes if welcome.epoch == newest)
    usual = max(hashes, key=lambda each: (hashes[each], each), default=0)
    split = [each.node for each in welcomes if each.epoch == newest and each.topology_hash != usual]
    leaving = [
        each.node.name
        for each in up
        if each.vitals is not None and (each.vitals.draining or each.vitals.removed)
    ]
    unowned = _share_without(topology, {each.node.name for each in up})
    cold = _share_without(topology, warm) - unowned
    slowest = max(up, key=lambda each: each.ping_ms or 0.0, default=None)
    return {
        "down": _nodes(down, len(seen), "down"),
        "unowned": (unowned, f"{unowned:.3g} % of users have no owner that answers" if unowned else "none"),
        "cold": (cold, f"{cold:.3g} % of users have no owner that is warm" if cold else "none"),
        "behind": _nodes(behind, len(welcomes), f"behind epoch {newest}"),
        "split": _nodes(split, len(welcomes), f"with another topology of epoch {newest}"),
        "leaving": _nodes(leaving, len(up), "draining or removed"),
        "ping": (None, "no node answers")
        if slowest is None
        else (slowest.ping_ms, f"{slowest.node.name} took {slowest.ping_ms:.1f} ms"),
    }


def _of_admin(facts: Facts) -> dict[str, _Found]:
    bodies: list[dict[str, Any]] = [each.body for each in facts.told if each.body is not None]
    faults = [each.node for each in facts.told if each.why and not each.off]
    if not bodies:
        why = "no admin port told"
        silent: dict[str, _Found] = {check.name: (None, why) for check in CHECKS if check.admin}
        return silent | {"admin": _silent(facts.told) if faults else (None, why)}
    gets = sum(number(body, "rates", "gets_per_s") or 0.0 for body in bodies)
    unknown = sum(number(body, "rates", "unknown_per_s") or 0.0 for body in bodies)
    share = 100 * unknown / gets if gets else 0.0
    return {
        "unknown": (share, f"{share:.3g} % of {gets:,.0f} gets a second"),
        "get": _highest(bodies, "ms", ("latency_ms", "get", "p99")),
        "lag": _highest(bodies, "ms", ("latency_ms", "loop_lag", "p99")),
        "memory": _highest(bodies, "%", ("table", "memory_bytes"), ("table", "memory_max_bytes")),
        "connections": _highest(bodies, "%", ("connections", "open"), ("connections", "max")),
        "overload": _nodes(
            [body["node"] for body in bodies if body.get("overloaded")], len(bodies), "overloaded"
        ),
        "reload": _nodes(
            [body["node"] for body in bodies if body.get("config", {}).get("last_reload_ok") is False],
            len(bodies),
            "with a refused cluster.yaml",
        ),
        "frozen": _nodes(
            [body["node"] for body in bodies if body.get("config", {}).get("topology_frozen")],
            len(bodies),
            "without etcd",
        ),
        "certificate": _nodes(
            [body["node"] for body in bodies if _ends_soon(body)], len(bodies), "with a certificate that ends"
        ),
        "admin": _silent(facts.told),
    }


def _ends_soon(body: dict[str, Any]) -> bool:
    left = [number(body, "tls", f"{name}_left_ms") for name in TLS_FILES]
    return any(each is not None and each < CERTIFICATE_DAYS_LATE * 86_400_000 for each in left)


def _share_without(topology: "Topology", names: set[str]) -> float:
    """Percent of the slots none of whose owners is among these nodes."""
    there = [node.name in names for node in topology.nodes]
    columns = [topology.column(rank) for rank in range(topology.replicas)]
    missing = sum(not any(there[index] for index in owners) for owners in zip(*columns, strict=True))
    return 100 * missing / SLOTS


def _nodes(names: list[str], total: int, what: str) -> _Found:
    if not names:
        return 0.0, "none"
    return float(len(names)), f"{len(names)} of {total} {what}: {_listed(names)}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _silent(told: "Sequence[Told]") -> _Found:
    """Nodes that should have told, and those of which nobody expected it."""
    value, text = _nodes([each.node for each in told if each.why and not each.off], len(told), "silent")
    off = [each.node for each in told if each.off]
    return value, f"{text}; not asked: {_listed(off)}" if off else text


def _highest(
    bodies: list[dict[str, Any]], unit: str, path: tuple[str, ...], of: tuple[str, ...] | None = None
) -> _Found:
    """The highest value over all nodes, or with ``of`` percentage of a limit, with the node it is of."""
    best: tuple[float, str] | None = None
    for body in bodies:
        value = number(body, *path)
        if of is not None and value is not None:
            whole = number(body, *of)
            value = 100 * value / whole if whole else None
        if value is not None and (best is None or value > best[0]):
            best = value, str(body["node"])
    return (0.0, "nothing to tell") if best is None else (best[0], f"{best[1]} has {best[0]:.3g} {unit}")
