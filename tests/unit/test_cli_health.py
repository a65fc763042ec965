"""``check``: what facts of a cluster mean, and how the answer reads to each of those who ask."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support.call_driver import topology

from pulsering.errors import NodeUnavailable
from pulsering.limits import CERTIFICATE_DAYS_LATE
from pulsering.messages import Vitals, Welcome
from pulsering_server.cli import check
from pulsering_server.cli.admin_ports import Told
from pulsering_server.cli.health import CHECKS, Facts, Finding, Grade, Limit, judge, limits_of, worst
from pulsering_server.cli.line import Seen
from pulsering_server.cli.misuse import Misuse

TOPOLOGY = topology("abcd", replicas=2, epoch=7)
SPLIT_HASH = 99


def seen(
    *,
    down: str = "",
    cold: str = "",
    old: str = "",
    split: str = "",
    draining: str = "",
    slow: str = "",
) -> list[Seen]:
    """Four nodes, those named in trouble."""
    found = []
    for node in TOPOLOGY.nodes:
        if node.name in down:
            found.append(Seen(node, f"{node.name} ({node.address}): connection refused"))
            continue
        epoch = 6 if node.name in old else 7
        topology_hash = SPLIT_HASH if node.name in split else TOPOLOGY.hash
        warming_ms = 5000 if node.name in cold else 0
        welcome = Welcome(
            1, "test", node.name, 1, epoch, topology_hash, warming_ms, 1 << 20, 8192, 1024, "x/1"
        )
        vitals = Vitals(epoch, 10, 60_000, warming_ms, node.name in draining, "x/1")
        found.append(Seen(node, "", welcome, vitals, 900.0 if node.name in slow else 0.5))
    return found


def body(name: str, **changes: Any) -> dict[str, Any]:
    """What an admin port says of a node at ease."""
    return {
        "node": name,
        "rates": {"gets_per_s": 1000.0, "unknown_per_s": 0.0},
        "latency_ms": {"get": {"p99": 0.2}, "loop_lag": {"p99": 1.0}},
        "table": {"memory_bytes": 10, "memory_max_bytes": 100},
        "connections": {"open": 5, "max": 100},
        "overloaded": False,
        "config": {"last_reload_ok": True, "topology_frozen": False},
        "tls": {"certificate_left_ms": CERTIFICATE_DAYS_LATE * 86_400_000, "client_ca_left_ms": None},
        **changes,
    }


def told(*bodies: dict[str, Any]) -> list[Told]:
    return [Told(each["node"], each) for each in bodies]


def findings(facts: Facts, *limits: str) -> dict[str, Finding]:
    return {each.check.name: each for each in judge(facts, limits_of(limits))}


def grades(found: Iterable[Finding]) -> dict[str, Grade]:
    """Those that are not well."""
    return {each.check.name: each.grade for each in found if each.grade}


def test_a_cluster_at_ease_is_ok() -> None:
    found = findings(Facts(TOPOLOGY, seen(), told(*map(body, "abcd"))))
    assert list(found) == [each.name for each in CHECKS]
    assert worst(found.values()) is Grade.OK
    assert all(each.value is not None for each in found.values())


def test_one_node_down_is_a_warning_while_each_user_has_another_owner() -> None:
    found = findings(Facts(TOPOLOGY, seen(down="b"), ()))
    assert grades(found.values()) == {"down": Grade.WARNING}
    assert found["down"].text == "1 of 4 down: b"


def test_users_without_an_owner_are_critical_and_their_share_is_exact() -> None:
    found = findings(Facts(TOPOLOGY, seen(down="bc"), ()))
    lost = sum({node.name for node in TOPOLOGY.owners_of(slot)} == {"b", "c"} for slot in range(16384))
    assert lost
    assert found["unowned"].value == 100 * lost / 16384
    assert grades(found.values()) == {"down": Grade.WARNING, "unowned": Grade.CRITICAL}


def test_users_with_cold_owners_alone_are_a_warning_and_not_counted_as_lost() -> None:
    found = findings(Facts(TOPOLOGY, seen(cold="abcd"), ()))
    assert grades(found.values()) == {"cold": Grade.WARNING}
    assert found["cold"].value == 100.0
    assert not grades(findings(Facts(TOPOLOGY, seen(cold="a"), ())).values())


def test_who_is_behind_split_off_leaving_or_slow_is_named() -> None:
    found = findings(Facts(TOPOLOGY, seen(old="a", split="b", draining="c", slow="d"), ()))
    assert grades(found.values()) == {
        "behind": Grade.WARNING,
        "split": Grade.CRITICAL,
        "leaving": Grade.WARNING,
        "ping": Grade.WARNING,
    }
    assert found["behind"].text == "1 of 4 behind epoch 7: a"
    assert found["split"].text == "1 of 4 with another topology of epoch 7: b"
    assert found["leaving"].text == "1 of 4 draining or removed: c"
    assert found["ping"].text == "d took 900.0 ms"


@pytest.mark.parametrize(
    ("changes", "name", "grade", "text"),
    [
        (
            {"rates": {"gets_per_s": 1000.0, "unknown_per_s": 10.0}},
            "unknown",
            Grade.WARNING,
            "0.5 % of 2,000 gets a second",
        ),
        ({"latency_ms": {"get": {"p99": 300.0}}}, "get", Grade.CRITICAL, "b has 300 ms"),
        ({"latency_ms": {"loop_lag": {"p99": 60.0}}}, "lag", Grade.WARNING, "b has 60 ms"),
        ({"table": {"memory_bytes": 96, "memory_max_bytes": 100}}, "memory", Grade.CRITICAL, "b has 96 %"),
        ({"connections": {"open": 80, "max": 100}}, "connections", Grade.WARNING, "b has 80 %"),
        ({"overloaded": True}, "overload", Grade.WARNING, "1 of 2 overloaded: b"),
        (
            {"config": {"last_reload_ok": False}},
            "reload",
            Grade.WARNING,
            "1 of 2 with a refused cluster.yaml: b",
        ),
        ({"config": {"topology_frozen": True}}, "frozen", Grade.WARNING, "1 of 2 without etcd: b"),
        (
            {
                "tls": {
                    "certificate_left_ms": None,
                    "client_ca_left_ms": CERTIFICATE_DAYS_LATE * 86_400_000 - 1,
                }
            },
            "certificate",
            Grade.WARNING,
            "1 of 2 with a certificate that ends: b",
        ),
    ],
)
def test_what_admin_ports_tell(changes: dict[str, Any], name: str, grade: Grade, text: str) -> None:
    found = findings(Facts(TOPOLOGY, seen(), told(body("a"), body("b", **changes))))
    assert grades(found.values()) == {name: grade}
    assert found[name].text == text


def test_without_admin_ports_their_checks_are_skipped_and_not_taken_for_good() -> None:
    off = [Told(name, why="off", off=True) for name in "abcd"]
    for facts in (Facts(TOPOLOGY, seen(), ()), Facts(TOPOLOGY, seen(), off)):
        found = findings(facts)
        assert {name for name, each in found.items() if each.value is None} == {
            each.name for each in CHECKS if each.admin
        }
        assert worst(found.values()) is Grade.OK
        assert check.summary(list(found.values())).startswith("OK: not checked: unknown, ")


def test_an_admin_port_that_is_on_and_silent_is_a_warning_and_one_that_is_off_is_named() -> None:
    facts = Facts(
        TOPOLOGY, seen(), [*told(body("a")), Told("b", why="refused"), Told("c", why="o", off=True)]
    )
    found = findings(facts)
    assert grades(found.values()) == {"admin": Grade.WARNING}
    assert found["admin"].text == "1 of 3 silent: b; not asked: c"
    assert grades(findings(Facts(TOPOLOGY, seen(), [Told("b", why="refused")])).values()) == {
        "admin": Grade.WARNING
    }


def test_a_node_of_another_version_that_lacks_figures_is_no_fault() -> None:
    found = findings(Facts(TOPOLOGY, seen(), told({"node": "a"}, {"node": "b", "rates": [], "table": None})))
    assert not grades(found.values())


# --- Limits ---------------------------------------------------------------------------------------------


def test_limits_are_changed_one_by_one() -> None:
    limits = limits_of(["ping=5ms:2s", "unknown=5%", "down=2:3", "memory=off"])
    never = float("inf")
    assert limits["ping"] == Limit(5, 2000)
    assert limits["unknown"] == Limit(5, never)
    assert limits["down"] == Limit(2, 3)
    assert limits["memory"] == Limit(never, never)
    assert limits["connections"] == Limit(80, 95)
    facts = Facts(TOPOLOGY, seen(down="abc", slow="d"), ())
    assert findings(facts, "down=2:3", "unowned=off")["down"].grade is Grade.CRITICAL


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("png=1ms", "expected NAME=WARNING.* one of down, unowned"),
        ("ping", "expected NAME=WARNING"),
        ("ping=5", "5 has no unit"),
        ("ping=1s:5ms", "critical is below that to warning"),
        ("unknown=1", "'1' is not a share above 0%, such as 0.5%"),
        ("unknown=nan%", "is not a share"),
        ("unknown=101%", "is not a share"),
        ("down=0", "'0' is not a number of nodes"),
        ("down=1:", "'' is not a number of nodes"),
        ("down=٣", "is not a number of nodes"),
    ],
)
def test_a_limit_that_cannot_be_says_what_is_accepted(text: str, message: str) -> None:
    with pytest.raises(Misuse, match=message):
        limits_of([text])


# --- Forms ----------------------------------------------------------------------------------------------


@pytest.fixture
def trouble() -> list[Finding]:
    """A node down, and users of two without an owner."""
    return list(findings(Facts(TOPOLOGY, seen(down="bc"), ())).values())


def test_nagios_gets_one_line_with_figures_behind_a_bar(trouble: list[Finding]) -> None:
    text = check.render(trouble, check.Form.NAGIOS)
    assert text.count("\n") == 1
    words, _, figures = text.partition(" | ")
    assert words.startswith("PULSERING CRITICAL: unowned: ")
    assert words.endswith("; down: 2 of 4 down: b, c")
    assert figures.startswith("down=2;1;;0 unowned=")
    assert "ping=0.5ms;250;1000;0" in figures.split()
    assert "memory" not in figures


def test_json_has_grade_summary_and_every_check(trouble: list[Finding]) -> None:
    document = json.loads(check.render(trouble, check.Form.JSON))
    assert document["grade"] == "critical"
    by_name = {each["name"]: each for each in document["checks"]}
    assert by_name["down"] == {
        "name": "down",
        "grade": "warning",
        "value": 2.0,
        "unit": "nodes",
        "warning": 1,
        "critical": None,
        "text": "2 of 4 down: b, c",
    }
    assert by_name["memory"]["grade"] is by_name["memory"]["value"] is None


def test_prometheus_can_read_it(trouble: list[Finding]) -> None:
    families = {each.name: each for each in parse_text(check.render(trouble, check.Form.PROMETHEUS))}
    (grade,) = families["pulsering_check_grade"].samples
    assert grade.value == 2
    parts = {each.labels["check"]: each.value for each in families["pulsering_check_part_grade"].samples}
    assert (parts["down"], parts["unowned"], parts["ping"]) == (1, 2, 0)
    assert "memory" not in parts
    values = {each.labels["check"]: each.labels["unit"] for each in families["pulsering_check_value"].samples}
    assert (values["down"], values["ping"], values["unowned"]) == ("nodes", "ms", "percent")


def test_a_person_gets_a_table_and_then_what_is_wrong(trouble: list[Finding]) -> None:
    text = check.render(trouble, check.Form.TEXT)
    lines = text.splitlines()
    assert lines[0].split() == ["GRADE", "CHECK", "VALUE", "WARN", "CRIT", "FOUND"]
    assert lines[2].split()[:5] == ["warning", "down", "2", "1", "off"]
    assert "CRITICAL" in lines
    assert lines[lines.index("CRITICAL") + 1] == "down: 2 of 4 down: b, c"
    assert any(line.split()[:2] == ["skipped", "memory"] for line in lines)


def test_nothing_that_a_node_says_ends_the_line_of_nagios_or_begins_its_figures() -> None:
    finding = check.unreachable(NodeUnavailable("a|b\nc"))
    assert check.render([finding], check.Form.NAGIOS) == "PULSERING CRITICAL: reach: a/b c\n"
