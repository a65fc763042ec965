"""pytest fixtures for tests of code that uses Pulsering; pytest finds them once this package is installed.

- ``presence_memory``: a ``pulsering.testing.MemoryCluster``, fresh for each test, with a clock to move.
- ``presence_cluster``: real nodes on loopback, a ``LocalCluster``; one with a ttl of 20 s, unless
  ``@pytest.mark.presence(nodes=3, ttl="2s")`` says otherwise.
- ``presence_url``: the URL of ``presence_cluster``.

Invariant: nothing is imported or started for a test that asks for none of them.
"""

import asyncio
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pulsering.testing import MemoryCluster
    from pulsering_server.local_cluster import LocalCluster

__all__ = ["presence_cluster", "presence_memory", "presence_url", "pytest_configure"]


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line(
        "markers", "presence(nodes=1, ttl='20s'): what the fixture presence_cluster starts for this test"
    )


@pytest.fixture
def presence_memory() -> "MemoryCluster":
    """A cluster in this process, with a ``clock`` that one can move."""
    from pulsering.testing import MemoryCluster

    return MemoryCluster()


@pytest.fixture
def presence_cluster(request: pytest.FixtureRequest) -> "Iterator[LocalCluster]":
    """Real nodes on loopback, ended after the test; cold for their first ttl, as nodes are."""
    from pulsering.options import seconds_of
    from pulsering_server.local_cluster import LocalCluster

    mark = request.node.get_closest_marker("presence")
    wanted = {"nodes": 1, "ttl": "20s", **(mark.kwargs if mark is not None else {})}
    ttl = seconds_of("ttl", wanted.pop("ttl"), none_allowed=False)
    assert ttl is not None
    # Its own loop, awake only to start and stop: the nodes are processes, the test may bring any loop.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        cluster = LocalCluster(**wanted, ttl_ms=round(ttl * 1000))
        runner.run(cluster.start())
        try:
            yield cluster
        finally:
            runner.run(cluster.stop())


@pytest.fixture
def presence_url(presence_cluster: "LocalCluster") -> str:
    """The URL of a real node, for ``PresenceClient.from_url``."""
    return presence_cluster.url
