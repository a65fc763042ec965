"""``pulsering config``: what each verb prints, and its exit code."""

import json
from pathlib import Path

import pytest

from pulsering_server.cli import run
from pulsering_server.cli.config import set_for_this_process
from pulsering_server.cli.exits import FAILED, MISUSED, OK
from pulsering_server.config import load_config, parse_config

VALID = """\
version: 1
cluster: here
epoch: 3
limits: {memory: 1MiB, buffers: 4MiB, connections: 10}
nodes:
  - {name: a, address: 127.0.0.1:7411}
  - {name: b, address: 127.0.0.2:7411}
  - {name: c, address: 127.0.0.3:7411}
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PULSERING_CONFIG", raising=False)


def write(text: str = VALID, name: str = "cluster.yaml") -> str:
    Path(name).write_text(text)
    return name


def test_validate_is_quiet_about_a_file_without_surprises(capfd: pytest.CaptureFixture[str]) -> None:
    write()
    assert run(["config", "validate", "--strict"]) == OK
    assert capfd.readouterr() == (
        "cluster.yaml: ok: cluster here, epoch 3, 3 nodes, 2 replicas, ttl 20s\n",
        "",
    )


def test_warnings_go_to_stderr_and_only_strict_makes_them_matter(capfd: pytest.CaptureFixture[str]) -> None:
    write(VALID.replace("7411}", "7411, zone: x}", 1))
    assert run(["config", "validate"]) == OK
    out, err = capfd.readouterr()
    assert out.startswith("cluster.yaml: ok: ")
    assert "cluster.yaml:7:5: warning: nodes[1]: no zone, while other nodes have one" in err
    assert run(["config", "validate", "--strict"]) == FAILED


def test_the_file_is_the_argument_else_the_variable_else_the_usual_one(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write(VALID.replace("here", "usual"))
    monkeypatch.setenv("PULSERING_CONFIG", write(VALID.replace("here", "variable"), "other.yaml"))
    write(VALID.replace("here", "argument"), "third.yaml")
    assert run(["config", "validate", "third.yaml"]) == OK
    assert run(["config", "validate"]) == OK
    monkeypatch.delenv("PULSERING_CONFIG")
    assert run(["config", "validate"]) == OK
    clusters = [line.split("cluster ")[1].split(",")[0] for line in capfd.readouterr().out.splitlines()]
    assert clusters == ["argument", "variable", "usual"]


def test_bad_setting_is_an_error_of_every_verb_that_takes_one(capfd: pytest.CaptureFixture[str]) -> None:
    write()
    for verb in (["config", "validate"], ["config", "show"], ["serve", "--node", "a"]):
        assert run([*verb, "--set", "limits.memory=8GB"]) == MISUSED
        out, err = capfd.readouterr()
        assert not out
        assert "command line: error: limits.memory: unknown unit 'GB' (did you mean '8GiB'?)" in err


def test_settings_of_serve_hold_for_its_cores_and_for_files_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULSERING_LIMITS__MEMORY", "2MiB")  # and taken away again at the end
    path = Path(write())
    set_for_this_process(path, ["limits.memory=8MiB"])
    assert load_config(path).limits.memory_bytes == 8 << 20
    write(VALID.replace("epoch: 3", "epoch: 4"))
    assert load_config(path).limits.memory_bytes == 8 << 20


def test_show_as_a_table_has_a_line_a_key(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    monkeypatch.setenv("PULSERING_LIMITS__USERS", "77")
    assert run(["config", "show", "--origin", "--set", "limits.in_flight=5"]) == OK
    rows = {line.split()[0]: line.split()[1:] for line in capfd.readouterr().out.splitlines()}
    assert rows["limits.users"] == ["77", "environment", "PULSERING_LIMITS__USERS"]
    assert rows["limits.in_flight"] == ["5", "command", "line", "--set"]
    assert rows["limits.memory"] == ["1MiB", "file", "cluster.yaml:4"]
    assert rows["nodes[2].name"] == ["c", "file", "cluster.yaml:8"]
    assert rows["heartbeat"] == ["-", "default"]
    assert run(["config", "show"]) == OK
    assert "ORIGIN" not in capfd.readouterr().out


@pytest.mark.parametrize("output", ["yaml", "json"])
def test_show_prints_a_file_that_means_the_same(output: str, capfd: pytest.CaptureFixture[str]) -> None:
    write()
    assert run(["config", "show", "-o", output]) == OK
    assert parse_config(capfd.readouterr().out) == load_config("cluster.yaml")


def test_show_as_json_with_origins_has_both(capfd: pytest.CaptureFixture[str]) -> None:
    write()
    assert run(["config", "show", "-o", "json", "--origin"]) == OK
    shown = json.loads(capfd.readouterr().out)
    assert shown["config"]["limits"]["memory"] == "1MiB"
    assert shown["origins"]["limits.memory"] == {"origin": "file", "where": "cluster.yaml:4"}
    assert shown["origins"]["ttl"] == {"origin": "default", "where": None}


def test_diff_of_the_same_is_nothing_and_exit_code_0(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULSERING_LIMITS__USERS", "77")
    assert run(["config", "diff", write(), write("# the same\n" + VALID, "new.yaml")]) == OK
    assert capfd.readouterr() == ("", "")


def test_diff_says_what_changes_and_what_it_takes(capfd: pytest.CaptureFixture[str]) -> None:
    new = VALID.replace("epoch: 3", "epoch: 4").replace("connections: 10", "connections: 20")
    new = new.replace("name: c", "name: d")
    assert run(["config", "diff", write(), write(new, "new.yaml")]) == FAILED
    lines = [" ".join(line.split()) for line in capfd.readouterr().out.splitlines()]
    assert "epoch 3 4 reload" in lines
    assert "limits.connections 10 20 restart of each node" in lines
    assert "nodes[c] 127.0.0.3:7411 - reload, moves users" in lines
    assert "nodes[d] - 127.0.0.3:7411 reload, moves users" in lines
    assert lines[-1].endswith("of the slots change hands; 'pulsering plan' says which node gains and loses")


def test_diff_says_what_running_nodes_will_refuse(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "diff", write(), write(VALID.replace("name: c", "name: d"), "new.yaml")]) == FAILED
    assert "running nodes will not follow it: epoch: 3 is taken by another topology" in capfd.readouterr().out


def test_diff_as_json_is_the_whole_of_it(capfd: pytest.CaptureFixture[str]) -> None:
    new = VALID.replace("epoch: 3", "epoch: 4\nreplicas: 1")
    assert run(["config", "diff", write(), write(new, "new.yaml"), "-o", "json"]) == FAILED
    shown = json.loads(capfd.readouterr().out)
    assert [change["key"] for change in shown["changes"]] == ["epoch", "replicas"]
    assert shown["changes"][1] == {
        "key": "replicas",
        "old": 2,
        "new": 1,
        "effect": "reload",
        "node": None,
        "moves_users": True,
    }
    assert shown["share_moved"] == 1.0
    assert shown["refusal"] is None


def test_diff_with_a_file_that_cannot_be_used_is_exit_code_2(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "diff", write(), "nowhere.yaml"]) == MISUSED
    assert "nowhere.yaml: error: cannot be read" in capfd.readouterr().err


def test_init_writes_a_valid_file_with_a_seed_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "init"]) == OK
    assert "cluster.yaml: written" in capfd.readouterr().out
    assert run(["config", "init", "other.yaml"]) == OK
    assert load_config("cluster.yaml").hash_seed != load_config("other.yaml").hash_seed
    assert load_config("cluster.yaml").hash_seed != 0


def test_init_overwrites_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    write("mine")
    assert run(["config", "init"]) == MISUSED
    assert "cluster.yaml exists, and nothing is overwritten" in capfd.readouterr().err
    assert Path("cluster.yaml").read_text() == "mine"


def test_init_prints_a_file_of_the_nodes_that_are_given(capfd: pytest.CaptureFixture[str]) -> None:
    nodes = ["--node", "a=10.0.0.1:7400", "--node", "b=[2001:db8::1]:7400"]
    assert run(["config", "init", "-", "--cluster", "prod", *nodes]) == OK
    config = parse_config(capfd.readouterr().out)
    assert config.cluster == "prod"
    assert [str(node.address) for node in config.nodes] == ["10.0.0.1:7400", "[2001:db8::1]:7400"]
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--node", "10.0.0.1:7400"], "expected NAME=HOST:PORT, such as a=10.0.0.1:7400"),
        (["--cluster", "Prod"], "cluster: 'Prod' is not a name"),
        (["--node", "a=10.0.0.1:7400", "--node", "a=10.0.0.2:7400"], "duplicate name 'a'"),
    ],
)
def test_init_writes_nothing_that_would_be_refused(
    options: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["config", "init", *options]) == MISUSED
    assert message in capfd.readouterr().err
    assert not list(Path().iterdir())


def test_schema_is_printed_for_editors(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "schema"]) == OK
    schema = json.loads(capfd.readouterr().out)
    assert schema["properties"]["ttl"]["default"] == "20s"
    assert schema["properties"]["ttl"]["description"].startswith("A user is online this long")
