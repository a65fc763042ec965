"""``memory://``: a cluster of one node inside the client's own process, behind the same client code.

The real ``NodeCore`` and ``Session`` stand at the other end of a transport that hands bytes over in memory,
one loop turn each way: what a client does with them is what it does over TCP. ``memory://`` belongs to one
client; ``memory://name`` is shared by all clients of this process that ask for that name, on whatever thread
and loop, and is gone with the last of them.

It starts warm. A node that starts beside running clients cannot know whom they told it of before; here there
was nobody before, so *offline* is the truth from the first moment on. Afterwards it is as strict as any node:
an event loop that stands still for longer than a node may makes it cold for one ttl.

Invariant: the core is touched under one lock only, and every callback runs on the loop of its own client.
"""

import asyncio
import contextlib
import errno
import itertools
import os
import secrets
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final

from pulsering import limits
from pulsering.errors import ConfigError
from pulsering.options import seconds_of
from pulsering.topology import Node, Topology
from pulsering.url import Address, ServiceUrl
from pulsering_server import clock
from pulsering_server.node import NodeCore
from pulsering_server.session import Session

__all__ = ["MemoryCluster", "connect"]

NODE: Final = "memory"
PORT: Final = 7400
"""Nobody listens there; a topology wants a port."""

LINES_PER_TICK: Final = 65_536
"""Housekeeping of one tick: about a millisecond, for 50 million users in a ttl of 20 s."""

_clusters: "weakref.WeakValueDictionary[str, MemoryCluster]" = weakref.WeakValueDictionary()
_naming = threading.Lock()
_numbers = itertools.count(1)


def connect(url: ServiceUrl) -> "MemoryTransport":
    """A transport to the cluster of ``memory://[name][?ttl=20s&last_seen=1h]``; else ``ConfigError``."""
    if url.cluster:
        raise ConfigError(f"url path: memory:// has a name and no path, like memory://{url.cluster}")
    ttl = seconds_of("ttl", url.options.pop("ttl", None))
    last_seen = seconds_of("last_seen", url.options.pop("last_seen", None)) or 0
    with _naming:
        cluster = _clusters.get(url.authority) if url.authority else None
        if cluster is None:
            ttl_ms = limits.TTL_MS if ttl is None else round(ttl * 1000)
            last_seen_ms = round(last_seen * 1000)
            cluster = MemoryCluster(url.authority or None, ttl_ms=ttl_ms, last_seen_ms=last_seen_ms)
            if url.authority:
                _clusters[url.authority] = cluster
        elif ttl is not None and round(ttl * 1000) != cluster.ttl_ms:
            raise ConfigError(
                f"option ttl: {url.authority} is there already, with a ttl of {cluster.ttl_ms / 1000} s"
            )
    return MemoryTransport(cluster)


class MemoryCluster:
    """One node that clients of this process reach at ``url``.

    For ``last_seen_ms`` it remembers who went offline. ``now_ms`` is its clock. One that only moves when told
    to, ``steps=True``, never counts as standing still: whatever it is advanced by is lived through turn by
    turn.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        ttl_ms: int = limits.TTL_MS,
        last_seen_ms: int = 0,
        now_ms: Callable[[], int] = clock.now_ms,
        steps: bool = False,
    ) -> None:
        self.name = name or f"memory-{os.getpid()}-{next(_numbers)}"
        self.ttl_ms = ttl_ms
        self.last_seen_ms = last_seen_ms
        self.now_ms = now_ms
        self.steps = steps
        self.up = True
        self._lock = threading.RLock()
        self._links: weakref.WeakSet[MemoryLink] = weakref.WeakSet()
        if last_seen_ms and not limits.LAST_SEEN_MS_MIN <= last_seen_ms <= limits.LAST_SEEN_MS_MAX:
            raise ConfigError(
                f"memory://: last_seen is {last_seen_ms / 1000} s, not 60 s to 90 days, or none"
            )
        try:
            self._topology = Topology(
                self.name, 1, ttl_ms, limits.TICKS_PER_TTL, 1, 0, (Node(NODE, NODE, PORT),)
            )
        except ValueError as error:
            raise ConfigError(f"memory://: {error}") from None
        self._core = self._boot(warm=True)

    @property
    def url(self) -> str:
        """What ``PresenceClient.from_url`` takes, for as long as this object lives."""
        with _naming:
            if _clusters.setdefault(self.name, self) is not self:
                raise ConfigError(f"memory://{self.name}: another cluster of this process has that name")
        return f"memory://{self.name}"

    def _boot(self, *, warm: bool) -> NodeCore:
        self._seen_ms = now_ms = self.now_ms()
        # Warm is a node that has listened for one ttl. In that time there was nobody, so nothing is made up.
        silence_ms = self.ttl_ms + 2 * self.ttl_ms // limits.TICKS_PER_TTL if warm else 0
        core = NodeCore(
            self._topology,
            NODE,
            boot_id=secrets.randbits(64),
            now_ms=now_ms - silence_ms,
            last_seen_ms=self.last_seen_ms,
        )
        for past_ms in range(now_ms - silence_ms, now_ms, core.tick_ms):
            core.tick(past_ms)
        core.tick(now_ms)
        return core

    def stop(self) -> None:
        """Break all connections and refuse new ones, as a node that is down."""
        with self._lock:
            self.up = False
            links = list(self._links)
        for link in links:
            link.break_off()

    def start(self) -> None:
        """Be reachable again after ``stop``, with what was known before."""
        self.up = True

    def restart(self) -> None:
        """Break all connections and forget everything: cold for one ttl, as a node that was replaced."""
        self.stop()
        with self._lock:
            self._core = self._boot(warm=False)
            self.up = True

    def stand_still(self, let_pass: Callable[[int], None]) -> None:
        """Do nothing for as long as makes a node cold; ``let_pass`` moves the clock by that many ms.

        Connections stay, and so do the users that are held.
        """
        with self._lock:
            self._observe()
            let_pass(self._core.stall_ms + 1)
            self._seen_ms = self.now_ms()
            self._core.tick(self._seen_ms)

    # -- for the links ---------------------------------------------------------------------------------------

    def admit(self, link: "MemoryLink") -> Session:
        """A session for a new connection; ``ConnectionRefusedError`` while stopped."""
        with self._lock:
            if not self.up:
                raise ConnectionRefusedError(errno.ECONNREFUSED, "the memory cluster is stopped")
            self._links.add(link)
            session = Session(self._core, self._observe())
            session.deliver = link.hear
            return session

    def receive(self, session: Session, data: bytes) -> bytes:
        """Give a session what arrived; what it answers."""
        with self._lock:
            output = session.receive(data, self._observe())
            self._push()
            return output

    def release(self, session: Session) -> None:
        """The connection of a session has ended."""
        with self._lock:
            session.abandon()

    def _push(self) -> None:
        """Tell those who watch what is due: their loops hear of it in a later turn than of replies."""
        while self._core.push(self._seen_ms):
            pass

    def tick(self) -> float:
        """Turn the wheel and clean up a little; seconds until the next time."""
        with self._lock:
            now_ms = self._observe()
            core = self._core
            core.tick(now_ms)
            core.take_events()
            core.maintain(now_ms, LINES_PER_TICK)
            self._push()
            return core.tick_ms / 1000

    def _observe(self) -> int:
        now_ms = self.now_ms()
        while self.steps and now_ms - self._seen_ms > self._core.tick_ms:
            self._seen_ms += self._core.tick_ms
            self._core.tick(self._seen_ms)
        self._seen_ms = now_ms
        return now_ms


class MemoryTransport:
    """The way to a memory cluster, for one client."""

    def __init__(self, cluster: MemoryCluster) -> None:
        self._memory = cluster
        self.cluster = cluster.name
        self.seeds = (Address(NODE, PORT),)

    def now_ms(self) -> int:
        """The cluster's own clock: a heartbeat is never late on its way."""
        return self._memory.now_ms()

    async def connect(self, protocol: asyncio.Protocol, address: Address) -> None:
        """Connect at once, whatever the address."""
        protocol.connection_made(MemoryLink(self._memory, protocol, asyncio.get_running_loop()))


class MemoryLink(asyncio.Transport):
    """One connection: the client's transport, with the node's session behind it."""

    def __init__(
        self, cluster: MemoryCluster, protocol: asyncio.Protocol, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__()
        self._cluster = cluster
        self._protocol = protocol
        self._loop = loop
        self._input: list[bytes] = []
        self._turn: asyncio.Handle | None = None
        self._closing = False
        self._session = cluster.admit(self)
        self._ticking = loop.call_later(cluster.tick(), self._tick)

    # -- called by the protocol ------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        """Hand bytes over; they arrive in the next turn of the loop."""
        if not self._closing:
            self._input.append(bytes(data))
            self._schedule()

    def close(self) -> None:
        """Hand over what was written, and end."""
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._lose, True)

    def abort(self) -> None:
        """End at once."""
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._lose, False)

    def is_closing(self) -> bool:
        """Whether it ends or has ended."""
        return self._closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing to limit: bytes never wait here for longer than a turn."""

    def get_write_buffer_size(self) -> int:
        """Always 0, as what was written counts as sent."""
        return 0

    # -- turns -----------------------------------------------------------------------------------------------

    def hear(self, data: bytes) -> None:
        """Take what the node says unasked, on whatever thread it does."""
        with contextlib.suppress(RuntimeError):  # its loop is closed, and it with it
            self._loop.call_soon_threadsafe(self._hear, data)

    def _hear(self, data: bytes) -> None:
        if not self._closing:
            self._protocol.data_received(data)

    def break_off(self) -> None:
        """End it from any thread."""
        with contextlib.suppress(RuntimeError):  # its loop is closed, and it with it
            self._loop.call_soon_threadsafe(self.abort)

    def _schedule(self) -> None:
        if self._turn is None:
            self._turn = self._loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._turn = None
        if self._closing:
            return
        replies = self._deliver()
        if replies:
            self._protocol.data_received(replies)
        if self._session.closed is not None:
            self.abort()
        elif self._session.backlog:
            self._schedule()

    def _deliver(self) -> bytes:
        data = b"".join(self._input)
        self._input.clear()
        return self._cluster.receive(self._session, data)

    def _tick(self) -> None:
        self._ticking = self._loop.call_later(self._cluster.tick(), self._tick)

    def _lose(self, deliver: bool) -> None:
        self._ticking.cancel()
        if deliver and self._input:
            self._deliver()
        self._cluster.release(self._session)
        self._protocol.connection_lost(None)
