"""What goes wrong: each fault is a context that begins it and, whatever happens meanwhile, ends it.

All but one are of one node, or of the way to it, so the other owner of every user can answer, and everything
that is promised with one fault is promised throughout. ``kill_both`` is more than that: nobody may be called
offline by it, but errors are right. ``join`` and ``part`` change the cluster. Invariant: when a context is
left, nothing of its fault is still being done; the cluster may need a while to be whole.
"""

import asyncio
import random
import resource
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from typing import Any, Final

import psutil  # type: ignore[import-untyped]
from chaos.cluster import Cluster
from chaos.control import Helper
from chaos.namespaces import Fabric

__all__ = ["BEYOND", "CHANGES", "CLIENTS", "FAULTS", "Stage"]

CLIENTS: Final = ("web", "edge")
FLOOD_USERS: Final = 300_000
"""More than the small node has memory for."""
HEADROOM_BYTES: Final = 64 << 10
THROTTLED: Final = "64kbit"
PART_S: Final = 60.0
POLL_S: Final = 0.05


class Stage:
    """Everything that a fault may lay hands on."""

    def __init__(
        self, fabric: Fabric, cluster: Cluster, proxy: Helper, loads: dict[str, Helper], rng: random.Random
    ) -> None:
        self.fabric = fabric
        self.cluster = cluster
        self.proxy = proxy
        self.loads = loads
        self.rng = rng
        self.facts: dict[str, Any] = {}
        """What a fault has to say of itself, put into its figures."""


Fault = Callable[[Stage, str], AbstractAsyncContextManager[None]]
FAULTS: Final[dict[str, Fault]] = {}
"""By name; each is of the node it is given."""

CHANGES: Final = frozenset({"join", "part"})
"""Those after which former owners, who hear no leaves, may answer for a while."""

BEYOND: Final = frozenset({"kill_both"})
"""More faults than there are other owners: errors and unknowns are right then."""


def fault(make: Callable[[Stage, str], AsyncIterator[None]]) -> Fault:
    FAULTS[make.__name__] = made = asynccontextmanager(make)
    return made


# -- processes -----------------------------------------------------------------------------------------------


@fault
async def kill_9(stage: Stage, name: str) -> AsyncIterator[None]:
    """The process is gone, its host is not; then it is started again, with nothing in memory."""
    await stage.cluster.nodes[name].kill()
    yield
    await stage.cluster.nodes[name].start()


@fault
async def kill_both(stage: Stage, name: str) -> AsyncIterator[None]:
    """All owners of some users are gone, and come back with nothing in memory: scenario 25."""
    members = stage.cluster.members
    both = [stage.cluster.nodes[member] for member in (name, members[members.index(name) - 1])]
    await asyncio.gather(*(node.kill() for node in both))
    yield
    await asyncio.gather(*(node.start() for node in both))


@fault
async def stop(stage: Stage, name: str) -> AsyncIterator[None]:
    """SIGSTOP, and SIGCONT."""
    stage.cluster.nodes[name].signal(signal.SIGSTOP)
    try:
        yield
    finally:
        stage.cluster.nodes[name].signal(signal.SIGCONT)


@fault
async def starve(stage: Stage, name: str) -> AsyncIterator[None]:
    """A twentieth of a processor, in slices, as a quota gives it; without one, so that it works anywhere."""
    node = stage.cluster.nodes[name]

    async def take_turns() -> None:
        try:
            while True:
                node.signal(signal.SIGSTOP)
                await asyncio.sleep(stage.rng.uniform(0.05, 0.2))
                node.signal(signal.SIGCONT)
                await asyncio.sleep(stage.rng.uniform(0.002, 0.01))
        finally:
            node.signal(signal.SIGCONT)

    async with _meanwhile(take_turns()):
        yield


@fault
async def files_exhausted(stage: Stage, name: str) -> AsyncIterator[None]:
    """Not one file more may be opened, and everybody behind the proxy has to connect again."""
    with _limited(stage.cluster.nodes[name].pid, resource.RLIMIT_NOFILE, 0):
        await stage.proxy.ask(name=name, reset_all=True)
        yield


@fault
async def memory_capped(stage: Stage, name: str) -> AsyncIterator[None]:
    """The process gets hardly a byte more, and more new users arrive than its table may hold."""
    node = stage.cluster.nodes[name]
    with _limited(node.pid, resource.RLIMIT_AS, psutil.Process(node.pid).memory_info().vms + HEADROOM_BYTES):
        stage.facts = await stage.loads["web"].ask(do="flood", users=FLOOD_USERS)
        yield


@fault
async def restart(stage: Stage, name: str) -> AsyncIterator[None]:
    """An orderly end, SIGTERM, and a new start: one step of a rolling restart."""
    await stage.cluster.nodes[name].drain()
    yield
    await stage.cluster.nodes[name].start()


# -- links ---------------------------------------------------------------------------------------------------


@fault
async def cut(stage: Stage, name: str) -> AsyncIterator[None]:
    """The interface is down, and the node's own sends fail."""
    await stage.fabric.disconnect(name)
    try:
        yield
    finally:
        await stage.fabric.connect(name)


@fault
async def black_hole(stage: Stage, name: str) -> AsyncIterator[None]:
    """No packet comes through, and nobody says so."""
    await stage.fabric.swallow(name)
    try:
        yield
    finally:
        await stage.fabric.swallow_no_more(name)


@fault
async def deaf(stage: Stage, name: str) -> AsyncIterator[None]:
    """No packet of a client gets to the node; what it says itself does."""
    async with AsyncExitStack() as stack:
        for client in CLIENTS:
            await stack.enter_async_context(_lost(stage, client, name))
        yield


@fault
async def mute(stage: Stage, name: str) -> AsyncIterator[None]:
    """No packet of the node gets to a client: it takes heartbeats, and nobody hears that it did."""
    async with AsyncExitStack() as stack:
        for client in CLIENTS:
            await stack.enter_async_context(_lost(stage, name, client))
        yield


@fault
async def cut_off_from_one(stage: Stage, name: str) -> AsyncIterator[None]:
    """One service does not reach the node, the other does: scenario 27."""
    async with _lost(stage, "web", name):
        yield


@fault
async def throttle(stage: Stage, name: str) -> AsyncIterator[None]:
    """Less comes through than is sent: queues, delays, and packets dropped."""
    await stage.fabric.throttle(name, THROTTLED)
    try:
        yield
    finally:
        await stage.fabric.throttle_no_more(name)


# -- the proxy -----------------------------------------------------------------------------------------------


@fault
async def delay(stage: Stage, name: str) -> AsyncIterator[None]:
    """Everything comes later, by another time each."""
    async with _mischief(stage, name, delay_ms=20, jitter_ms=80):
        yield


@fault
async def loss(stage: Stage, name: str) -> AsyncIterator[None]:
    """One piece in ten has to be sent again."""
    async with _mischief(stage, name, loss=0.1):
        yield


@fault
async def stall(stage: Stage, name: str) -> AsyncIterator[None]:
    """Nothing comes, and then all of it: scenario 16."""
    async with _mischief(stage, name, stall=True):
        yield


@fault
async def reset(stage: Stage, name: str) -> AsyncIterator[None]:
    """Connections break, again and again."""
    async with _mischief(stage, name, reset=0.03):
        yield


@fault
async def truncate(stage: Stage, name: str) -> AsyncIterator[None]:
    """Connections end in the middle of a frame."""
    async with _mischief(stage, name, truncate=0.03):
        yield


# -- the cluster ---------------------------------------------------------------------------------------------


@fault
async def join(stage: Stage, name: str) -> AsyncIterator[None]:
    """A node more."""
    cluster = stage.cluster
    cluster.follow("".join(sorted({*cluster.members, name})))
    await cluster.nodes[name].start()
    yield


@fault
async def part(stage: Stage, name: str) -> AsyncIterator[None]:
    """A node less; it is stopped when it says that it may be."""
    cluster = stage.cluster
    node = cluster.nodes[name]
    cluster.follow(cluster.members.replace(name, ""))
    yield
    async with asyncio.timeout(PART_S):
        while "node.not_needed" not in node.log():  # noqa: ASYNC110 - another process says it
            await asyncio.sleep(POLL_S)
    await node.drain()


# -- how they are made ---------------------------------------------------------------------------------------


@asynccontextmanager
async def _meanwhile(work: Any) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def _lost(stage: Stage, sender: str, receiver: str) -> AsyncIterator[None]:
    await stage.fabric.lose(sender, receiver, lost=True)
    try:
        yield
    finally:
        await stage.fabric.lose(sender, receiver, lost=False)


@asynccontextmanager
async def _mischief(stage: Stage, name: str, **what: Any) -> AsyncIterator[None]:
    before = await stage.proxy.ask(name=name, **what)
    try:
        yield
    finally:
        after = await stage.proxy.ask(name=name)
        stage.facts = {"connects": after["connections"] - before["connections"]}


@contextmanager
def _limited(pid: int, what: int, soft: int) -> Iterator[None]:
    before = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (soft, before[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it did not survive it; the tour says so
            resource.prlimit(pid, what, before)
