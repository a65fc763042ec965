"""Warnings: what may be meant so, and should not surprise anybody at night."""

from pathlib import Path

import pytest

from pulsering_server.config import read_text
from pulsering_server.config_advice import Machine, advise, memory_of_group, this_machine
from pulsering_server.config_errors import Problem
from pulsering_server.config_overrides import NONE, overrides_of

SPACIOUS = Machine(None, None)
TWO = """\
auth: {insecure_no_token: true}
nodes:
  - {name: a, address: 10.0.0.1:7400, cores: 8}
  - {name: b, address: 10.0.0.2:7400, cores: 8}
"""


def advice(
    text: str, machine: Machine = SPACIOUS, environment: dict[str, str] | None = None
) -> tuple[Problem, ...]:
    overrides = overrides_of(environment) if environment else NONE
    return advise(read_text(f"version: 1\ncluster: c\nepoch: 1\n{text}", "cluster.yaml", overrides), machine)


def test_file_without_zones_and_with_equal_weights_is_no_surprise() -> None:
    assert advice(TWO) == ()


def test_a_thousand_nodes_differ_by_chance_and_are_told_in_a_few_words() -> None:
    nodes = "".join(f"  - {{name: n{n}, address: 10.0.{n // 250}.{n % 250}:7400}}\n" for n in range(1000))
    (problem,) = advice(f"auth: {{insecure_no_token: true}}\nnodes:\n{nodes}")
    assert "as chance has it" in problem.message
    assert problem.message.endswith(" more")
    assert len(problem.message) < 500


@pytest.mark.parametrize(
    ("files", "warned"), [(20_000 // 8 + 64, False), (20_000 // 8 + 63, True), (None, False)]
)
def test_each_core_needs_files_for_its_share_of_the_connections(files: int | None, warned: bool) -> None:
    assert bool(advice("limits: {connections: 20000}\n" + TWO, Machine(files, None))) == warned


@pytest.mark.parametrize(("memory", "warned"), [(3 << 29, False), ((3 << 29) - 1, True), (None, False)])
def test_a_full_table_and_full_buffers_must_fit_the_machine(memory: int | None, warned: bool) -> None:
    """By default 1 GiB and 512 MiB; nodes elsewhere have machines of their own."""
    assert bool(advice(TWO, Machine(None, memory))) == warned


def test_default_that_is_too_much_has_no_line_to_show() -> None:
    (problem,) = advice(TWO, Machine(None, 1 << 20))
    assert problem.position is None
    assert problem.render("cluster.yaml").startswith("cluster.yaml: warning: limits.memory: 1GiB and 512MiB")


def test_warning_points_at_the_environment_if_that_is_where_the_value_is_from() -> None:
    (problem,) = advice(TWO, Machine(None, 4 << 30), {"PULSERING_LIMITS__MEMORY": "8GiB"})
    assert problem.render("cluster.yaml").startswith("environment: warning: limits.memory: 8GiB")


def test_this_machine_can_be_asked() -> None:
    machine = this_machine()
    assert machine.memory_bytes is not None
    assert machine.memory_bytes > 1 << 26
    assert machine.files_max is None or machine.files_max > 64


def test_container_has_the_memory_of_the_smallest_group_around_it(tmp_path: Path) -> None:
    (tmp_path / "pod" / "node").mkdir(parents=True)
    (tmp_path / "pod" / "node" / "memory.max").write_text("max\n")
    (tmp_path / "pod" / "memory.max").write_text("2147483648\n")
    process = tmp_path / "cgroup"
    process.write_text("0::/pod/node\n")
    assert memory_of_group(tmp_path, process) == 2 << 30
    process.write_text("12:memory:/v1\n")
    assert memory_of_group(tmp_path, process) is None
    assert memory_of_group(tmp_path, tmp_path / "nowhere") is None
