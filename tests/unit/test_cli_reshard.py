"""The verbs that change a cluster, where none is needed: plans, refusals, and what is typed wrong."""

import json
from pathlib import Path

import pytest

from pulsering.topology import Node
from pulsering_server.cli import run
from pulsering_server.cli.exits import CANNOT_REACH, MISUSED, OK
from pulsering_server.cli.misuse import Misuse
from pulsering_server.cli.rollout import push_command

NODE = "  - {{name: {name}, address: '127.0.0.{index}:1'}}"


def file_of(path: Path, names: str, epoch: int, ttl: str = "20s") -> str:
    """A configuration of these nodes, none of which is running."""
    lines = ["version: 1", "cluster: here", f"epoch: {epoch}", f"ttl: {ttl}", "nodes:"]
    lines += [NODE.format(name=name, index=ord(name) - 96) for name in names]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def old(tmp_path: Path) -> str:
    """Three nodes."""
    return file_of(tmp_path / "old.yaml", "abc", 7)


@pytest.fixture
def new(tmp_path: Path) -> str:
    """A fourth."""
    return file_of(tmp_path / "new.yaml", "abcd", 8)


def test_a_plan_needs_no_cluster(old: str, new: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", old, new, "--timeout", "200ms", "-o", "json"]) == OK
    plan = json.loads(capfd.readouterr().out)
    assert (plan["epoch"], plan["new_epoch"], plan["refusal"]) == (7, 8, None)
    assert plan["users_online"] is plan["users_moved"] is None
    assert [node["part"] for node in plan["nodes"]] == ["stays", "stays", "stays", "joins"]
    joined = plan["nodes"][3]
    assert joined["slots_gained"] == joined["slots_after"] == round(plan["share_moved"] * 16384)

    assert run(["plan", old, new, "--timeout", "200ms"]) == OK
    out = capfd.readouterr().out
    assert out.startswith("epoch 7 -> 8: ")
    assert "% of the slots change hands\n" in out
    assert f"{joined['slots_gained']:,}" in out


def test_a_plan_that_nodes_refuse_is_exit_code_2(
    old: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = file_of(tmp_path / "ttl.yaml", "abc", 8, ttl="30s")
    assert run(["plan", old, other, "--timeout", "200ms"]) == MISUSED
    assert "ttl_ms: from 20000 to 30000 takes a restart of every node" in capfd.readouterr().out


def test_a_plan_of_a_bad_file_is_every_error_and_exit_code_2(
    old: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.yaml").write_text("version: 1\n")
    assert run(["plan", old, str(tmp_path / "bad.yaml")]) == MISUSED
    assert "bad.yaml" in capfd.readouterr().err


@pytest.mark.parametrize(
    "verb", [["apply", "NEW"], ["drain", "127.0.0.1:1"], ["drain", "a", "--config", "NEW"]]
)
def test_a_cluster_that_is_not_there_is_exit_code_3(
    verb: list[str], new: str, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = [new if word == "NEW" else word for word in verb]
    assert run([*arguments, "--timeout", "300ms"]) == CANNOT_REACH
    assert capfd.readouterr().err.startswith("pulsering: ")


def test_a_node_that_nobody_knows_is_asked_for_by_its_address(
    new: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["drain", "z", "--config", new]) == MISUSED
    assert "pulsering drain host:7400" in capfd.readouterr().err


def test_a_push_is_filled_in_word_by_word() -> None:
    node = Node("a-0", "10.0.0.1", 7400)
    words = push_command(
        "scp {file} root@{host}:'/etc/my file' {node} {address}", Path("x y.yaml"), "a", node
    )
    assert words == ["scp", "x y.yaml", "root@10.0.0.1:/etc/my file", "a", "10.0.0.1:7400"]


@pytest.mark.parametrize("template", ["scp {flie} x", "scp {} x", "scp '", "", "scp {file.name} {0}"])
def test_a_push_that_cannot_be_filled_in_is_misuse(template: str) -> None:
    with pytest.raises(Misuse, match="--push"):
        push_command(template, Path("f"), "a", Node("a", "h", 1))
