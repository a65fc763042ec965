"""The real node and the real client, each as a process of the simulated world.

A node is what ``serve`` makes of it, less signals and standard output: ``NodeCore``, ``Listener`` and
``keep_house`` on the process's loop. A client is ``PresenceClient`` over ``TcpTransport``. Only four things
are put in their place, by ``simulated``: sockets, the timing of housekeeping slices, the log, and who counts
waits. Invariant: what is under test is imported, never copied.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator, MutableMapping
from functools import partial
from typing import Any, Final, NoReturn
from unittest.mock import patch

import structlog
from sim.network import FakeSocketModule, Network
from sim.world import Machine, Process, World

from pulsering import limits
from pulsering.client import PresenceClient
from pulsering.errors import PresenceError
from pulsering.options import ClientOptions
from pulsering.topology import Node, Topology
from pulsering.transport import TcpTransport
from pulsering.url import Address
from pulsering_server import housekeeping, listener
from pulsering_server.config_schema import LimitsConfig
from pulsering_server.housekeeping import keep_house
from pulsering_server.listener import Listener
from pulsering_server.node import NodeCore

__all__ = ["ClientProcess", "NodeProcess", "Shape", "simulated", "topology_of"]

PORT: Final = 7400
LIMITS: Final = LimitsConfig.model_construct(connections=64)
LOG_LINES_MAX: Final = 20_000


@contextlib.contextmanager
def simulated(world: World) -> Iterator[None]:
    """Put the simulated things in place of the real ones for as long as this lasts."""

    def note(_logger: object, level: str, event: MutableMapping[str, Any]) -> NoReturn:
        if level in ("error", "critical", "exception"):
            world.problems.append(f"log: {event}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[note], wrapper_class=structlog.make_filtering_bound_logger(40))
    try:
        with (
            patch.object(listener, "socket", FakeSocketModule()),
            # A slice takes no time, so that its size never depends on the machine.
            patch.object(housekeeping, "perf_counter_ns", lambda: 0),
        ):
            yield
    finally:
        structlog.configure(**before)


class Shape:
    """A cluster's names and settings; ``topology(names)`` is the same object each time for the same names."""

    def __init__(self, *, ttl_ms: int, ticks: int, replicas: int) -> None:
        self.ttl_ms = ttl_ms
        self.ticks = ticks
        self.replicas = replicas


_topologies: dict[tuple[object, ...], Topology] = {}


def topology_of(shape: Shape, names: str, epoch: int) -> Topology:
    """The topology of one-letter nodes; made once, as ranking owners takes as long as a simulated minute."""
    key = (shape.ttl_ms, shape.ticks, shape.replicas, names, epoch)
    if key not in _topologies:
        if len(_topologies) > 256:
            _topologies.clear()
        nodes = tuple(Node(name, f"node-{name}", PORT) for name in names)
        _topologies[key] = Topology("sim", epoch, shape.ttl_ms, shape.ticks, shape.replicas, 0, nodes)
    return _topologies[key]


class NodeProcess:
    """One node on its machine, started and ended any number of times."""

    def __init__(self, world: World, network: Network, name: str, topology: Topology, ppm: int) -> None:
        self.name = name
        self.topology = topology
        self.machine = Machine(world, name, f"node-{name}", world.rng.randrange(1 << 40), ppm)
        self.probed = False
        """Whether the node watches its own load, which costs an event each 20 ms."""
        self.process: Process | None = None
        self.core: NodeCore
        self.listener: Listener
        self._world = world
        self._network = network
        network.machines[self.machine.address] = self.machine

    def start(self) -> None:
        """Start a process, as its supervisor does."""
        assert self.process is None
        self.machine.up = True
        self.process = process = Process(self._world, self.machine, f"node {self.name}")
        self._world.trace("start", self.name, self.topology.epoch)
        process.loop.create_task(self._serve(process))

    async def _serve(self, process: Process) -> None:
        now_ms = self.machine.clock.boot_ms
        self.core = NodeCore(
            self.topology, self.name, LIMITS, boot_id=self._world.rng.getrandbits(64), now_ms=now_ms()
        )
        waits: Callable[[], int | None] = lambda: process.waits if self.probed else None  # noqa: E731
        self.listener = Listener(self.core, now_ms, waits)
        await self.listener.open(self.machine.address, PORT)
        if not self.probed and (probe := self.listener._probe_timer) is not None:
            probe.cancel()
        await keep_house(self.core, now_ms, None, self.machine.clock.wall_ms)

    @property
    def removed(self) -> bool:
        """Whether it runs, and follows a topology that it is not part of."""
        return self.process is not None and bool(self.listener.address[1]) and self.core.ownership.removed

    def end(self, *, silently: bool = False) -> None:
        """Kill the process, or with ``silently`` its whole machine."""
        process, self.process = self.process, None
        if process is None:
            return
        self._world.trace("end", self.name)
        if silently:
            self.machine.up = False
        process.alive = False
        self._network.process_ended(process, silently=silently)
        process.end()

    def adopt(self, topology: Topology, *, restart: bool = False) -> None:
        """Follow another topology: when its process has its next turn, or by a restart."""
        process, member = self.process, self.name in {node.name for node in topology.nodes}
        if topology.epoch <= self.topology.epoch and process is not None:
            return
        self.topology = topology
        if process is None or (restart and member):
            self.end()
            if member:
                self.start()
        else:
            process.post(lambda: self._follow(process, topology))

    def _follow(self, process: Process, topology: Topology) -> None:
        if process is self.process and self.listener.address[1]:
            self.core.follow(topology, self.machine.clock.boot_ms())

    def drain(self) -> None:
        """Ask all clients to leave, as SIGTERM does; the process goes on until it is ended."""
        if self.process is not None:
            self.process.loop.create_task(self.listener.drain(limits.DRAIN_MS))


class _Transport(TcpTransport):
    """TCP, and the clock of the process's machine."""

    def __init__(self, machine: Machine, seeds: list[Address]) -> None:
        super().__init__(seeds)
        self._machine = machine

    def now_ms(self) -> int:
        return self._machine.clock.boot_ms()


class ClientProcess:
    """One backend service with a client, which it opens for as long as it takes."""

    def __init__(
        self,
        world: World,
        network: Network,
        name: str,
        seeds: list[Address],
        options: ClientOptions,
        ppm: int,
    ) -> None:
        self.name = name
        self.machine = Machine(world, name, name, world.rng.randrange(1 << 40), ppm)
        self.process = Process(world, self.machine, f"client {name}")
        self.client: PresenceClient | None = None
        """Open and usable, or None."""
        self._world = world
        self._network = network
        self._rng = random.Random(world.rng.getrandbits(64))
        self._made: Callable[[], PresenceClient] = lambda: PresenceClient(
            _Transport(self.machine, seeds), options, random.Random(self._rng.getrandbits(64))
        )
        network.machines[self.machine.address] = self.machine

    def start(self) -> None:
        """Open a client, again and again until one opens."""
        self.process.loop.create_task(self._open())

    async def _open(self) -> None:
        while True:
            client = self._made()
            try:
                await client.open()
            except PresenceError:
                await asyncio.sleep(self._rng.uniform(0.2, 1.0))
            else:
                self.client = client
                return

    def end(self) -> None:
        """Kill the service."""
        if self.process.alive:
            self._world.trace("end", self.name)
            self.process.alive = False
            self._network.process_ended(self.process, silently=False)
            if self.client is not None:
                # Nobody hears of it; but a client that was never closed complains when it is thrown away.
                closing = self.client.aclose()
                with contextlib.suppress(StopIteration):
                    self.process.loop.inside(partial(closing.send, None))
                closing.close()
            self.process.end()
            self.client = None
