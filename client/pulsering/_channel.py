"""The way to one node: its connections, kept up for ever, and its circuit.

Each connection has one task that connects, waits for the end, and tries again after a jittered delay; the
name is looked up afresh each time. Under load a channel grows up to ``max_connections``; an extra connection
is closed when one would do, and one that is lost is not replaced until load asks for it. Invariant: a channel
never blocks a caller. It takes a request at once or says why not.
"""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from pulsering import limits
from pulsering._backoff import Backoff, reconnect_ms_max
from pulsering._circuit import Circuit, CircuitState
from pulsering._connection import Connection
from pulsering._request import Request
from pulsering.errors import (
    ClientClosed,
    NodeDraining,
    NodeUnavailable,
    PresenceError,
    ProtocolError,
    Unauthorized,
)
from pulsering.messages import Hello, Vitals, Welcome
from pulsering.options import ClientOptions
from pulsering.transport import Transport
from pulsering.url import Address

__all__ = ["Channel", "Dialer", "Watcher"]

CROWD: Final = limits.IN_FLIGHT_MAX // 2
"""Requests in flight on one connection that ask for another one."""

EXTRA_IDLE_S: Final = 30.0
"""An extra connection is closed once one would have done for this long."""

SETTLED_S: Final = 1.0
"""A connection that lasted this long counts as good: the next back-off starts small again."""


class Dialer(NamedTuple):
    """How connections are made; shared by all channels of a client."""

    loop: asyncio.AbstractEventLoop
    options: ClientOptions
    transport: Transport
    hello: Callable[[], Hello]
    on_dialed: Callable[[Address, float], None] | None = None
    """Told the seconds that each connection took, for telemetry."""

    async def dial(
        self, node: str, address: Address, on_change: Callable[[Connection], None]
    ) -> tuple[Connection, Welcome]:
        """A connection after its handshake, with the node of that name if one is given.

        Raises a ``PresenceError`` that says what is wrong with it.
        """
        label = f"{node} ({address})" if node else str(address)
        began = time.perf_counter()
        connection = Connection(label, self.loop, on_change, self.transport.now_ms)
        try:
            async with asyncio.timeout(self.options.connect_timeout):
                await self.transport.connect(connection, address)
                welcome = await connection.hello(self.hello())
        except PresenceError:
            raise
        except TimeoutError:
            error = NodeUnavailable(
                f"{label}: no connection within {self.options.connect_timeout} s", node=node or label
            )
            connection.close(error)
            raise error from None
        except OSError as cause:
            error = NodeUnavailable(f"{label}: {cause.strerror or cause}", node=node or label)
            connection.close(error)
            raise error from cause
        except BaseException:
            connection.close(ClientClosed(f"{label}: given up while connecting"))
            raise
        if node and welcome.node != node:
            error = NodeUnavailable(
                f"{label}: at this address answers node {welcome.node}, not {node}", node=node
            )
            connection.close(error)
            raise error
        if self.on_dialed is not None:
            self.on_dialed(address, time.perf_counter() - began)
        return connection, welcome


class Watcher(NamedTuple):
    """Who is told what happens to a channel."""

    on_welcome: "Callable[[Channel, Welcome], None]"
    on_change: "Callable[[Channel], None]"
    """Ready or not, circuit closed or not: something may be different."""
    on_trouble: "Callable[[Channel], None]"
    """The node cannot be reached, or its circuit has opened."""
    on_epoch: "Callable[[int, str], None]"
    """Told the epoch that a node follows, with its name, each time it answers a ping."""


class Channel:
    """One node, by its name; its address may change. ``ttl_ms`` is its cluster's."""

    def __init__(
        self,
        node: str,
        address: Address,
        dialer: Dialer,
        watcher: Watcher,
        rng: random.Random,
        *,
        ttl_ms: int,
    ) -> None:
        self.node = node
        self.address = address
        self.circuit = Circuit(rng)
        self.error: PresenceError | None = None
        """Why the last connection failed or ended."""
        self.tried = asyncio.Event()
        """Set once the first attempt to connect has an outcome."""
        self.connects = 0
        self.refused = 0
        self.remembers = False
        """Whether the node knows when users were last seen, as it said when it was last connected to."""
        self._dialer = dialer
        self._watcher = watcher
        self._rng = rng
        self._reconnect_ms_max = reconnect_ms_max(ttl_ms)
        self._connections: list[Connection] = []
        self._ready: list[Connection] = []
        """Those of them that take requests; kept, as every request asks."""
        self._crowded_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def start(self) -> None:
        """Begin to connect."""
        for _ in range(self._dialer.options.min_connections):
            self._spawn(permanent=True)

    @property
    def ready(self) -> bool:
        """Whether a connection takes requests."""
        return bool(self._ready)

    @property
    def lasting(self) -> Connection | None:
        """A connection that takes requests and is not closed for want of them."""
        return next((connection for connection in self._ready if connection.lasting), None)

    @property
    def healthy(self) -> bool:
        """Ready, and its circuit closed."""
        return self.circuit.state is CircuitState.CLOSED and self.ready

    def available(self, now: float) -> bool:
        """Whether a request would be taken."""
        return self.circuit.allows(now) and self.ready

    def hopeless(self, now: float) -> bool:
        """Whether it has failed for so long that the next milliseconds will not help."""
        return not self.circuit.allows(now)

    @property
    def load(self) -> int:
        """Requests without an answer."""
        return sum(connection.load for connection in self._connections)

    @property
    def connections(self) -> int:
        """Connections that are up."""
        return len(self._connections)

    @property
    def connections_max(self) -> int:
        """Connections it may have under load."""
        return self._dialer.options.max_connections

    @property
    def usage(self) -> tuple[int, int]:
        """Connections with and without requests under way; may be asked from any thread."""
        connections = list(self._connections)
        used = sum(connection.load > 0 for connection in connections)
        return used, len(connections) - used

    def send(self, request: Request) -> PresenceError | None:
        """Take the request, or return why not."""
        ready = self._ready
        if not ready:
            self.refused += 1
            return self._unready_error()
        if not self.circuit.acquire(self._dialer.loop.time()):
            self.refused += 1
            return NodeUnavailable(
                f"{self.node} has not answered {self.circuit.failures} times: not asked for the moment",
                node=self.node,
            )
        connection = ready[0] if len(ready) == 1 else min(ready, key=lambda each: each.load)
        connection.send(request)
        if connection.load * len(ready) > CROWD:
            self._crowded_at = self._dialer.loop.time()
            if connection.load > CROWD:
                self._grow()
        return None

    def record_answer(self) -> None:
        """The node answered a request."""
        if not self.circuit.untroubled:
            self.circuit.record_success()
            self._watcher.on_change(self)

    def suspect(self, request: Request) -> None:
        """A request had no answer in time. It counts if nothing at all came since it was sent.

        Loops tell time in milliseconds, and what was heard in the one in which the request left came before.
        """
        connection = request.connection
        if connection is not None and request.sent_at and connection.heard_at <= request.sent_at:
            self._record(self.circuit.record_failure)

    def move(self, address: Address) -> None:
        """The node listens elsewhere now."""
        if address != self.address:
            self.address = address
            self._drop(NodeUnavailable(f"{self.node} has moved to {address}", node=self.node))

    async def aclose(self) -> None:
        """End all connections and tasks."""
        self._closed = True
        connections = list(self._connections)
        self._drop(ClientClosed("the client was closed"))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for connection in connections:
            await connection.wait_lost()

    def _drop(self, error: PresenceError) -> None:
        for connection in list(self._connections):
            connection.close(error)

    def _grow(self) -> None:
        if len(self._tasks) < self._dialer.options.max_connections and not self._closed:
            self._spawn(permanent=False)

    def _spawn(self, *, permanent: bool) -> None:
        task = self._dialer.loop.create_task(self._keep(permanent), name=f"pulsering {self.node}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep(self, permanent: bool) -> None:
        """Hold one connection: for ever if permanent, else until it is lost."""
        loop = self._dialer.loop
        backoff = Backoff(limits.RECONNECT_MS_MIN, self._reconnect_ms_max, self._rng)
        while True:
            lost: asyncio.Future[None] = loop.create_future()

            def on_change(connection: Connection, lost: "asyncio.Future[None]" = lost) -> None:
                if connection.error is not None and not lost.done():
                    lost.set_result(None)
                self._look_who_is_ready()

            try:
                connection, welcome = await self._dialer.dial(self.node, self.address, on_change)
            except PresenceError as error:
                delay = self._on_failure(error, backoff)
            else:
                since = loop.time()
                connection.lasting = permanent
                self._on_connected(connection, welcome)
                try:
                    await (lost if permanent else self._lost_or_idle(connection, lost))
                finally:
                    connection.close(ClientClosed("the client was closed"))
                    self._connections.remove(connection)
                if loop.time() - since >= SETTLED_S:
                    backoff.reset()
                assert connection.error is not None
                delay = self._on_lost(connection, connection.error, backoff)
            if self._closed or not permanent:
                return
            await asyncio.sleep(delay)

    async def _lost_or_idle(self, connection: Connection, lost: "asyncio.Future[None]") -> None:
        """Until an extra connection is lost, or has nothing in flight and the crowd is gone for a while."""
        loop = self._dialer.loop
        while not lost.done() and (
            connection.load or self.load > CROWD or loop.time() - self._crowded_at < EXTRA_IDLE_S
        ):
            await asyncio.wait([lost], timeout=EXTRA_IDLE_S / 4)

    def _on_connected(self, connection: Connection, welcome: Welcome) -> None:
        self.error = None
        self.connects += 1
        self._connections.append(connection)
        self.remembers = welcome.last_seen_s > 0
        connection.on_vitals = self._on_vitals
        self.circuit.record_connected(self._dialer.loop.time())
        self._watcher.on_welcome(self, welcome)
        self._look_who_is_ready()
        self.tried.set()

    def _on_vitals(self, vitals: Vitals) -> None:
        self._watcher.on_epoch(vitals.epoch, self.node)

    def _look_who_is_ready(self) -> None:
        self._ready = [connection for connection in self._connections if connection.ready]
        self._watcher.on_change(self)

    def _on_failure(self, error: PresenceError, backoff: Backoff) -> float:
        self.error = error
        if isinstance(error, (ProtocolError, Unauthorized)):
            self._record(self.circuit.quarantine)
            delay = backoff.longest()
        else:
            self._record(self.circuit.record_failure)
            delay = backoff.next()
        self.tried.set()
        self._watcher.on_trouble(self)
        return delay

    def _on_lost(self, connection: Connection, error: PresenceError, backoff: Backoff) -> float:
        self.error = error
        if isinstance(error, (ProtocolError, Unauthorized)):
            self._record(self.circuit.quarantine)
            return backoff.longest()
        if connection.draining_ms is not None:
            # Spread over the first half of what the node has left; if it comes back sooner, the back-off
            # finds it.
            return self._rng.uniform(0, min(connection.draining_ms, limits.RECONNECT_MS_MAX) / 2000)
        if not isinstance(error, ClientClosed):
            self._record(self.circuit.record_failure)
        return backoff.next()

    def _record(self, outcome: Callable[[float], None]) -> None:
        opened = self.circuit.opened
        outcome(self._dialer.loop.time())
        self._watcher.on_change(self)
        if self.circuit.opened > opened:
            self._watcher.on_trouble(self)

    def _unready_error(self) -> PresenceError:
        if any(connection.draining_ms is not None for connection in self._connections):
            return NodeDraining(f"{self.node} is draining", node=self.node)
        reason = f": {self.error}" if self.error is not None else ""
        return NodeUnavailable(f"{self.node} is not connected{reason}", node=self.node)
