"""A thousand clients that lose their node in one moment, on the virtual clock: nobody runs in step."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from sim import cluster
from sim.cluster import PORT, ClientProcess, NodeProcess, Shape, simulated, topology_of
from sim.network import Network
from sim.world import Process, World

from pulsering.options import ClientOptions
from pulsering.url import Address
from pulsering_server.config_schema import LimitsConfig

SECOND = 1_000_000
CLIENTS = 1000
ASKERS = 300
DOWN_S = 3
WINDOWS = 50
"""Of 100 ms: longer than the longest back-off after so long a time."""


class Dialled(Network):
    """A network that remembers whom each process dialled first."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.first: dict[Process, str] = {}

    async def connect(self, process: Process, factory: Callable[[], Any], host: str, port: int) -> Any:
        self.first.setdefault(process, host)
        return await super().connect(process, factory, host, port)


class Crowd:
    """Some nodes, and clients that know all of them as seeds and are about to start."""

    def __init__(self, names: str, clients: int) -> None:
        self.world = World(42)
        self.network = Dialled(self.world)
        self.world.network = self.network
        topology = topology_of(Shape(ttl_ms=20_000, ticks=80, replicas=1), names, 1)
        self.nodes = {name: NodeProcess(self.world, self.network, name, topology, 0) for name in names}
        seeds = [Address(f"node-{name}", PORT) for name in names]
        self.clients = [
            ClientProcess(self.world, self.network, f"c{number}", seeds, ClientOptions(), 0)
            for number in range(clients)
        ]
        for node in self.nodes.values():
            node.start()
        self.run(1)
        for client in self.clients:
            client.start()

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        self.world.run(self.world.now_us + round(seconds * SECOND))

    def close(self) -> None:
        """Close all clients, and end everything."""
        for client in self.clients:
            if client.client is not None:
                client.process.loop.create_task(client.client.aclose())
        self.run(2)
        for client in self.clients:
            client.end()
        for node in self.nodes.values():
            node.end()
        assert not self.world.problems

    def accepted(self, name: str) -> int:
        """Connections that a node took since its start."""
        return self.nodes[name].core.stats.connections_accepted


@pytest.fixture
def crowd_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, int], Crowd]]:
    monkeypatch.setattr(cluster, "LIMITS", LimitsConfig.model_construct(connections=2 * CLIENTS))
    with simulated(World(0)), contextlib.ExitStack() as stack:

        def make(names: str, clients: int) -> Crowd:
            crowd = Crowd(names, clients)
            stack.callback(crowd.close)
            return crowd

        yield make


def is_ready(client: ClientProcess) -> bool:
    """Whether a client has a connection to its node that takes requests."""
    presence = client.client
    return presence is not None and bool(client.process.loop.inside(presence.stats)["nodes"]["a"]["ready"])


@pytest.mark.timeout(400)  # 17 s of a core, and tests share theirs
def test_a_thousand_clients_that_lose_a_node_come_back_one_after_the_other(
    crowd_of: Callable[[str, int], Crowd],
) -> None:
    """Scenario 42: it is back after three seconds, and no 100 ms holds more than a tenth of them."""
    crowd = crowd_of("a", CLIENTS)
    crowd.run(2)
    assert all(client.client is not None for client in crowd.clients)
    crowd.nodes["a"].end()
    crowd.run(DOWN_S)
    crowd.nodes["a"].start()
    arrived = [0]
    for _ in range(WINDOWS):
        crowd.run(0.1)
        arrived.append(crowd.accepted("a"))
    assert all(is_ready(client) for client in crowd.clients)
    assert arrived[-1] >= CLIENTS
    assert max(now - before for before, now in pairwise(arrived)) <= CLIENTS / 10


def test_clients_do_not_all_ask_the_same_seed_first(crowd_of: Callable[[str, int], Crowd]) -> None:
    """Scenario 42: seeds are shuffled; each is asked first by its share of the clients."""
    crowd = crowd_of("abc", ASKERS)
    crowd.run(0.05)
    firsts = Counter(crowd.network.first[client.process] for client in crowd.clients)
    assert firsts.total() == ASKERS
    assert firsts.keys() == {"node-a", "node-b", "node-c"}
    assert min(firsts.values()) > ASKERS / 3 * 0.7
