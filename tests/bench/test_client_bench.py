"""What a call costs the client, tiny: the real client against a stub in a process of its own."""

import asyncio
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
