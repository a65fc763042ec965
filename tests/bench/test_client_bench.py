"""What a call costs the client, tiny: the real client against a stub in a process of its own."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from pulsering_bench.client import WORKLOADS, measure, report, stub_cluster


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with stub_cluster(nodes=2, replicas=2) as url:
        yield url


@pytest.mark.parametrize("workload", list(WORKLOADS))
def test_client(benchmark: Any, url: str, workload: str) -> None:
    figure = benchmark.pedantic(lambda: asyncio.run(measure(url, workload, 0.05)), rounds=1)
    assert figure.calls > 0
    assert figure.users_per_cpu_s > 0
    assert report([figure]).row_count == 1


def test_the_bench_of_the_client_is_a_verb() -> None:
    """As a process of its own, as it pins itself to a core."""
    command = [sys.executable, "-m", "pulsering_server", "bench", "client", "--seconds", "0.1", "--json"]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert [figure["name"] for figure in json.loads(printed)] == list(WORKLOADS)
