"""The command line answers mistakes with a sentence and the right exit code, and never with a traceback."""

import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from pulsering import errors
from pulsering.reports import HeartbeatReport, NodeStatus
from pulsering_server.cli import run
from pulsering_server.cli.app import build_app
from pulsering_server.cli.exits import CANNOT_REACH, FAILED, MISUSED, OK
from pulsering_server.cli.failures import exit_code_of, explain
from pulsering_server.cli.health import Grade
from pulsering_server.cli.ids import parse_ids
from pulsering_server.cli.misuse import Misuse
from pulsering_server.cli.output import duration, print_table
from pulsering_server.cli.status import node_state
from pulsering_server.cli.target import cluster_url
from pulsering_server.config import ConfigErrors

VALID = """\
version: 1
cluster: here
epoch: 3
ttl: 5s
nodes:
  - {name: a, address: 127.0.0.1:7411}
  - {name: b, address: 127.0.0.2:7412}
"""

NOWHERE = "presence://127.0.0.1:1"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster.yaml in sight, no URL in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PULSERING_URL", raising=False)
    monkeypatch.setenv("COLUMNS", "110")


# --- Ids ------------------------------------------------------------------------------------------------


def test_digits_are_an_int_and_all_else_a_string() -> None:
    ids = ["42", "007", "alice", "-5", "4e2", "٣", str(2**64 - 1)]
    parsed = parse_ids(ids, as_int=False, as_string=False, as_uuid=False)
    assert parsed == [42, 7, "alice", "-5", "4e2", "٣", 2**64 - 1]


def test_a_kind_can_be_forced() -> None:
    text = "123e4567-e89b-12d3-a456-426614174000"
    assert parse_ids(["42"], as_int=False, as_string=True, as_uuid=False) == ["42"]
    assert parse_ids(["42"], as_int=True, as_string=False, as_uuid=False) == [42]
    assert parse_ids([text], as_int=False, as_string=False, as_uuid=True) == [uuid.UUID(text)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["get", "18446744073709551616"], "18446744073709551616 is above 2^64-1"),
        (["get", "9" * 5000], "is above 2^64-1"),
        (["get", "--int", "alice"], "'alice' is not a decimal number"),
        (["get", "--uuid", "alice"], "'alice' is not a UUID"),
        (["get", "--uuid", "--int", "1"], "exclude each other"),
        (["get", "1"], "which cluster? Give --url"),
        (["get", "1", "--url", NOWHERE, "--config", "x"], "--url and --config exclude each other"),
        (["get", "1", "--url", "http://x"], "presence://"),
        (["get", "1", "--url", "presence://h:99999"], "99999"),
        (["get", "1", "--timeout", "20"], "20 has no unit"),
        (["leave", "1", "--url", NOWHERE, "--grace", "10 parsecs"], "unknown unit 'parsecs'"),
        (["get", "1", "--config", "missing.yaml"], "missing.yaml: error: cannot be read"),
        (["config", "validate"], "cluster.yaml: error: cannot be read"),
        (["serve", "--config", "missing.yaml", "--node", "a"], "missing.yaml: error: cannot be read"),
        (["dev", "--ttl", "soon"], "'soon' is not a duration"),
        (["dev", "--nodes", "0"], "--nodes"),
        (["get"], "Missing argument"),
        (["gte", "1"], "Did you mean 'get'?"),
        (["get", "--ulr", "x", "1"], "--ulr"),
        (["get", "1", "-o", "xml"], "xml"),
        (["status", "--watch", "2", "--url", NOWHERE], "2 has no unit"),
        (["top", "--every", "often", "--url", NOWHERE], "'often' is not a duration"),
        (["top", "--admin", "a=h", "--url", NOWHERE], "--admin a=h: no port"),
        (["top", "--sort", "colour", "--url", NOWHERE], "colour"),
        (["top", "-n", "0", "--url", NOWHERE], "--frames"),
        (["latency", "--for", "5ms", "--every", "1s", "--url", NOWHERE], "nothing would be asked"),
        (["latency", "--page", "9000", "--url", NOWHERE], "--page"),
        (["conns", "--url", NOWHERE], "which admin ports? a URL does not tell admin ports"),
        (
            ["conns", "--node", "b", "--admin", "a=h:1", "--url", NOWHERE],
            "there is no such node; there are: a",
        ),
        (["conns", "-n", "1001", "--url", NOWHERE], "--limit"),
        (["support-dump"], "which cluster? Give --url"),
        (["demo", "--seconds", "1"], "at least 4"),
        (["demo", "--users", "0"], "--users"),
        (["demo", "--config", "missing.yaml", "--users", "1"], "missing.yaml: error: cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == MISUSED
    out, err = capfd.readouterr()
    assert message in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in out + err
    assert not out


def test_every_error_of_a_configuration_comes_at_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cluster.yaml").write_text(VALID.replace("ttl: 5s", "tll: 5").replace("7412", "0"))
    for arguments in (["config", "validate"], ["count"], ["serve", "--node", "a"]):
        assert run(arguments) == MISUSED
        err = capfd.readouterr().err
        assert "cluster.yaml:4:1: error: tll: unknown key (did you mean 'ttl'?)" in err
        assert "cluster.yaml:7:" in err


def test_a_good_configuration_is_summed_up(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cluster.yaml").write_text(VALID)
    assert run(["config", "validate"]) == OK
    assert capfd.readouterr().out == "cluster.yaml: ok: cluster here, epoch 3, 2 nodes, 2 replicas, ttl 5s\n"


# --- Which cluster --------------------------------------------------------------------------------------


def test_the_most_explicit_cluster_wins(tmp_path: Path) -> None:
    env = {"PULSERING_URL": "presence://env"}
    of_file = "presence://127.0.0.1:7411,127.0.0.2:7412/here"
    (tmp_path / "cluster.yaml").write_text(VALID)
    assert cluster_url("presence://option", None, env) == "presence://option"
    assert cluster_url(None, Path("cluster.yaml"), env) == of_file
    assert cluster_url(None, None, env) == "presence://env"
    assert cluster_url(None, None, {"PULSERING_URL": ""}) == of_file


@pytest.mark.parametrize(
    "verb",
    [["heartbeat", "1"], ["get", "1"], ["leave", "1"], ["count"], ["status"], ["top"], ["latency"]],
    ids="-".join,
)
def test_a_cluster_that_is_not_there_is_exit_code_3(
    verb: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run([*verb, "--url", NOWHERE, "--timeout", "300ms"]) == CANNOT_REACH
    out, err = capfd.readouterr()
    assert err.startswith("pulsering: ")
    assert "127.0.0.1:1" in err
    assert not out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check"], "which cluster? Give --url"),
        (["check", "--url", NOWHERE, "-o", "xml"], "xml"),
        (["check", "--url", NOWHERE, "--limit", "png=1"], "NAME one of down, unowned"),
        (["check", "--config", "missing.yaml"], "missing.yaml: error: cannot be read"),
        (["check", "--url", NOWHERE, "--timeout", "9ms", "--file", "no/such/x.prom"], "cannot be written"),
    ],
)
def test_a_check_that_cannot_be_made_is_unknown_to_nagios(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == Grade.UNKNOWN
    out, err = capfd.readouterr()
    assert message in " ".join(err.replace("│", " ").split())
    assert not out


def test_a_check_of_a_cluster_that_is_not_there_is_critical(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "-o", "nagios", "--url", NOWHERE, "--timeout", "300ms"]) == Grade.CRITICAL
    assert capfd.readouterr().out.startswith("PULSERING CRITICAL: reach: ")


# --- Errors ---------------------------------------------------------------------------------------------


def test_each_error_has_its_exit_code() -> None:
    assert exit_code_of(Misuse("x")) == MISUSED
    assert exit_code_of(ConfigErrors("f", [])) == MISUSED
    assert exit_code_of(errors.ConfigError("x")) == MISUSED
    assert exit_code_of(errors.ClusterMismatch("x")) == MISUSED
    assert exit_code_of(errors.NoNodeReachable("x")) == CANNOT_REACH
    assert exit_code_of(errors.CallTimeout("x")) == CANNOT_REACH
    assert exit_code_of(errors.NodeBusy("x")) == FAILED
    assert exit_code_of(OSError("x")) == FAILED
    assert exit_code_of(ZeroDivisionError()) is None
    assert explain(errors.NodeBusy("node a is full")) == "pulsering: node a is full"


# --- Help and version -----------------------------------------------------------------------------------


def test_help_lists_every_verb_and_the_exit_codes(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == OK
    out = capfd.readouterr().out
    for verb in (
        *("serve", "dev", "heartbeat", "get", "leave", "count", "status", "locate", "config", "demo"),
        *("plan", "apply", "drain", "top", "latency", "check", "conns", "support-dump"),
    ):
        assert f" {verb} " in out
    text = " ".join(out.split())
    assert "0 ok · 1 failed · 2 usage or configuration · 3 cannot reach the cluster" in text
    assert "bench" in text


def test_the_demos_help_shows_an_example(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--help"]) == OK
    assert " pulsering demo" in capfd.readouterr().out.split("Usage", 1)[1].split("\n", 1)[1]


def test_version_names_package_and_protocol(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == OK
    assert capfd.readouterr().out == "pulsering 0.1.0 (protocol 1)\n"


def test_no_colour_where_nobody_sees_it(capfd: pytest.CaptureFixture[str]) -> None:
    print_table(("A", "N"), [("[green]x[/]", "1"), ("y" * 300, "22")], right=("N",))
    out = capfd.readouterr().out
    assert "\x1b" not in out
    assert "y" * 300 in out


def test_own_verbs_do_not_load_what_hangs_on_the_command() -> None:
    names = {command.name for command in build_app(["get", "1"]).registered_commands}
    assert "get" in names
    assert "demo" not in names
    assert "demo" in {command.name for command in build_app(["demo"]).registered_commands}


def test_the_bench_of_the_table_is_a_verb(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "table", "--users", "10000", "--json"]) == OK
    figures = json.loads(capfd.readouterr().out)
    assert (figures["users"], figures["wrong_answers"]) == (10_000, 0)
    assert run(["bench", "table", "--users", "0"]) == MISUSED


# --- Without the extra ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hidden", "arguments", "message"),
    [
        ("typer", ["get", "1"], "needs the 'server' extra ('typer' is not installed)"),
        ("rich", ["--help"], "needs the 'server' extra ('rich' is not installed)"),
        ("numpy", ["demo"], "'demo' needs the 'bench' extra ('numpy' is not installed)"),
    ],
)
def test_a_missing_extra_is_named_with_how_to_install_it(
    hidden: str, arguments: list[str], message: str
) -> None:
    script = (
        f"import sys; sys.modules[{hidden!r}] = None\n"
        f"sys.argv = ['pulsering', *{arguments!r}]\n"
        "from pulsering_server.__main__ import main\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ended.returncode == MISUSED, ended.stderr
    assert message in ended.stderr
    assert "pip install 'pulsering[" in ended.stderr
    assert "Traceback" not in ended.stderr


# --- What is shown --------------------------------------------------------------------------------------


def test_node_states_have_the_letters_operators_know() -> None:
    up = NodeStatus("a", "h:1", up=True, circuit="closed", error="", warming=0.0, draining=False)
    assert node_state(up) == "UN"
    assert node_state(up._replace(warming=3.0)) == "UW"
    assert node_state(up._replace(warming=3.0, draining=True)) == "UR"
    assert node_state(up._replace(up=False)) == "DN"


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (None, "-"),
        (0, "0ms"),
        (999, "999ms"),
        (12_900, "12s"),
        (250_000, "4m10s"),
        (11_100_000, "3h05m"),
        (187_200_000, "2d04h"),
    ],
)
def test_durations_read_as_people_say_them(milliseconds: float | None, text: str) -> None:
    assert duration(milliseconds) == text


def test_a_report_as_json_has_the_librarys_names() -> None:
    document = HeartbeatReport(2, 2, 0, 0, 0, 0)._asdict()
    assert json.loads(json.dumps(document))["accepted"] == 2
