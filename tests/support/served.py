"""A node core behind a real listener in this process, on a clock of the test's own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from support.node_driver import World
from support.raw_peer import PATIENCE_S, RawPeer

from pulsering_server.listener import Listener
from pulsering_server.stats import Stats


class Served:
    """A listener, the world it is in, and a way to wait until something is so."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.core = world.cores["a"]
        self.idle = True
        self._waits = 0
        self.listener = Listener(self.core, lambda: world.now_ms, self._count_waits)

    def _count_waits(self) -> int:
        """A thread that waits for work now and then, unless it is not ``idle``."""
        self._waits += self.idle
        return self._waits

    @property
    def stats(self) -> Stats:
        """What the node counted."""
        return self.core.stats

    def peer(self, **options: Any) -> RawPeer:
        """A peer on a socket of its own, with the clock of the world."""
        return RawPeer(*self.listener.address, clock_ms=lambda: self.world.now_ms, **options)

    async def until(self, true: Callable[[], bool]) -> None:
        """Let the loop turn until something is so."""
        async with asyncio.timeout(PATIENCE_S):
            while not true():  # noqa: ASYNC110 - the counters are plain ints and wake nobody
                await asyncio.sleep(0)


@asynccontextmanager
async def served(**limits_of_node: Any) -> AsyncIterator[Served]:
    """A node with these limits; whatever happened, it lets go of every connection in the end."""
    node = Served(World(**limits_of_node))
    await node.listener.open("127.0.0.1", 0)
    try:
        yield node
    finally:
        async with asyncio.timeout(PATIENCE_S):
            await node.listener.close()
        assert node.stats.connections_open == 0
