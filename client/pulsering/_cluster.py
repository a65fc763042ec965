"""The cluster as one client knows it: its topology, a channel to each node, and what is wrong with them.

It finds the topology through the seeds, keeps a channel to every node, and fetches the topology again when a
node knows a newer one or nodes cannot be reached: one fetch at a time, at most about one a second. From a
node that follows an older topology than ours it learns that one too, as reads need its owners. It is the
calls' ``ClusterView``. Invariant: the topology only ever changes to a newer epoch of the same cluster with
the same hash seed, or to new addresses of the same nodes.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from pulsering import limits, messages
from pulsering._backoff import RetryBudget
from pulsering._channel import Channel, Dialer, Watcher
from pulsering._connection import resolve
from pulsering._latency import Percentile95
from pulsering._request import Request
from pulsering._retired import Retired
from pulsering.errors import (
    ClientClosed,
    ClusterMismatch,
    NodeUnavailable,
    NoNodeReachable,
    PresenceError,
    ProtocolError,
    Unauthorized,
)
from pulsering.options import ClientOptions
from pulsering.topology import Node, Topology
from pulsering.transport import Transport
from pulsering.url import Address
from pulsering.wire import VERSION, Op

__all__ = ["Cluster"]

PATIENCE_MAX_S = 1.0
"""For calls without a deadline: an owner's turn passes after a second."""

SEED_STAGGER_S = 0.1
"""The next seed is tried beside one that has not answered for this long."""


class Cluster:
    """Topology, channels and circuits of one client; bound to one event loop."""

    def __init__(
        self,
        transport: Transport,
        options: ClientOptions,
        loop: asyncio.AbstractEventLoop,
        rng: random.Random,
        on_dialed: Callable[[Address, float], None] | None = None,
    ) -> None:
        self.attempts = options.attempts
        self.budget = RetryBudget()
        self.rng = rng
        self.keys_per_frame = limits.KEYS_PER_FRAME
        self.patience = PATIENCE_MAX_S
        """Seconds an owner may take before its turn passes: a third of the deadline."""
        if options.timeout is not None:
            self.patience = min(options.timeout / limits.ATTEMPTS, PATIENCE_MAX_S)
        self.refreshes = 0
        self.now_ms: Callable[[], int] = transport.now_ms
        """The time at which heartbeats are said, in ms."""
        self.read_times = Percentile95() if options.hedge == "p95" else None
        """How long reads take, if anybody wants to know."""
        self.on_channel: Callable[[Channel], None] | None = None
        """Told of a channel whose connections may be others now."""
        self.on_topology: Callable[[], None] | None = None
        """Told that the topology, or those before it, may be others now."""
        self._seeds = transport.seeds
        self._cluster = transport.cluster
        self._options = options
        self._loop = loop
        self._dialer = Dialer(loop, options, transport, self._hello, on_dialed)
        self._watcher = Watcher(self._on_welcome, self._on_channel_change, self._on_trouble, self.note_epoch)
        self._topology: Topology | None = None
        self._retired = Retired()
        self._retirement: asyncio.TimerHandle | None = None
        self._lookback: asyncio.Task[None] | None = None
        self._lookback_from = 0.0
        self._channels: dict[str, Channel] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._unhealthy: set[str] = set()
        self._refresh: asyncio.Task[None] | None = None
        self._refresh_from = 0.0
        self._hints: list[str] = []
        self._closed = False

    # --- ClusterView -------------------------------------------------------------------------------------

    @property
    def topology(self) -> Topology:
        """The newest topology known."""
        assert self._topology is not None, "open() comes first"
        return self._topology

    @property
    def retired(self) -> tuple[Topology, ...]:
        """Those before it that somebody may have acted on within the last ttl."""
        return self._retired.active(self._loop.time())

    @property
    def unsettled(self) -> bool:
        """Whether a node follows an older topology that we have not seen."""
        return self._retired.unsettled(self._loop.time())

    @property
    def hedge(self) -> float | None:
        """Seconds after which a read asks the next owners as well."""
        if self.read_times is not None:
            return self.read_times.value
        hedge = self._options.hedge
        assert not isinstance(hedge, str), "ClientOptions makes durations numbers"
        return hedge

    def unavailable(self) -> frozenset[int]:
        """Indices of nodes that would refuse a request now."""
        if not self._unhealthy:
            return frozenset()
        now = self._loop.time()
        return self._indices(name for name in self._unhealthy if not self._channels[name].available(now))

    def hopeless(self) -> frozenset[int]:
        """Indices of nodes whose circuit is open."""
        now = self._loop.time()
        return self._indices(name for name in self._unhealthy if self._channels[name].hopeless(now))

    def _indices(self, names: Iterable[str]) -> frozenset[int]:
        indices = set()
        for name in names:
            with contextlib.suppress(KeyError):  # a node that is retiring
                indices.add(self.topology.index_of(name))
        return frozenset(indices)

    # --- Life --------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Find the topology and connect; raises ``NoNodeReachable`` if no seed answers."""
        self._adopt(await self._fetch_from_seeds())
        waiting = [self._loop.create_task(channel.tried.wait()) for channel in self._channels.values()]
        try:
            await asyncio.wait(waiting, timeout=self._options.connect_timeout)
        finally:
            for task in waiting:
                task.cancel()
        if self._lookback is not None:  # else the first reads could call nobody offline
            await asyncio.wait([self._lookback], timeout=2 * self.patience)

    async def aclose(self) -> None:
        """End everything."""
        self._closed = True
        if self._retirement is not None:
            self._retirement.cancel()
        fetches = [task for task in (self._refresh, self._lookback) if task is not None]
        for task in fetches:
            task.cancel()
        if fetches:
            await asyncio.wait(fetches)
        closing = [channel.aclose() for channel in self._channels.values()]
        self._channels = {}
        self._unhealthy.clear()
        await asyncio.gather(*closing, *self._leaving)

    def channel(self, node: str) -> Channel | None:
        """The channel to a node, None if there is no such node (any more)."""
        return self._channels.get(node)

    def remembers(self, node: str) -> bool:
        """Whether the node knows when users were last seen, and may be asked."""
        channel = self._channels.get(node)
        return channel is not None and channel.remembers

    @property
    def channels(self) -> dict[str, Channel]:
        """All channels by node name."""
        return self._channels

    # --- Topology ----------------------------------------------------------------------------------------

    def note_epoch(self, epoch: int, node: str) -> None:
        """A node spoke of an epoch; if we do not know its topology, fetch it from that node."""
        ours = self.topology.epoch
        if epoch > ours:
            self.refresh(node)
        elif epoch < ours and self._retired.heard(epoch, self._loop.time(), self._linger_s(self.topology)):
            self._look_back(epoch, node)

    def refresh(self, hint: str | None = None) -> None:
        """Fetch the topology soon, unless that is already on its way."""
        if hint is not None and hint not in self._hints:
            self._hints.append(hint)
        if self._closed or (self._refresh is not None and not self._refresh.done()):
            return
        self._refresh = self._loop.create_task(self._run_refresh(), name="pulsering topology")

    def when_refreshed(self, by: float) -> "asyncio.Task[None] | None":
        """The refresh under way, or None if it cannot start before the loop time ``by``."""
        if self._refresh is None or self._refresh.done() or self._refresh_from > by:
            return None
        return self._refresh

    async def _run_refresh(self) -> None:
        await asyncio.sleep(max(0.0, self._refresh_from - self._loop.time()))
        jitter = self.rng.uniform(0.8, 1.2)
        self._refresh_from = self._loop.time() + jitter * limits.TOPOLOGY_REFRESH_MS / 1000
        self.refreshes += 1
        hints, self._hints = self._hints, []
        ready = [name for name, channel in self._channels.items() if channel.ready and name not in hints]
        self.rng.shuffle(ready)
        for name in [*hints, *ready][: limits.ATTEMPTS]:
            channel = self._channels.get(name)
            if channel is None or not channel.ready:
                continue
            with contextlib.suppress(PresenceError):
                await self._go_over(_topology_of(await self.ask(channel, Op.TOPOLOGY), name))
                return
        with contextlib.suppress(PresenceError):
            await self._go_over(await self._fetch_from_seeds())

    async def _go_over(self, new: Topology) -> None:
        """Adopt a topology; one with new nodes once they have been reached, or did not answer soon."""
        if self._is_news(new):
            await self._reach(new)
        self._adopt(new)

    async def _reach(self, topology: Topology) -> None:
        """Connect to the nodes that are new to us, and give that a little time."""
        channels = [self._open_channel(node) for node in topology.nodes if node.name not in self._channels]
        waiting = [self._loop.create_task(channel.tried.wait()) for channel in channels]
        try:
            if waiting:
                await asyncio.wait(waiting, timeout=self.patience)
        finally:
            for task in waiting:
                task.cancel()

    async def ask(self, channel: Channel, op: Op, body: bytes = messages.EMPTY_BODY) -> Any:
        """One control request to one node, within the connect timeout."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        request = Request(op, body, self.now_ms(), partial(resolve, answer))
        refused = channel.send(request)
        if refused is not None:
            raise refused
        try:
            async with asyncio.timeout(self._options.connect_timeout):
                reply = await answer
        except TimeoutError:
            channel.suspect(request)
            raise NodeUnavailable(f"{channel.node}: no answer to {op.name}", node=channel.node) from None
        finally:
            request.abandon()
        channel.record_answer()
        return reply

    async def _fetch_from_seeds(self) -> Topology:
        """Ask the seeds, shuffled, without waiting long for any; the first answer wins."""
        seeds = list(self._seeds)
        if self._topology is not None:
            known = (Address(node.host, node.port) for node in self._topology.nodes if node.port)
            seeds = list(dict.fromkeys((*seeds, *known)))
        self.rng.shuffle(seeds)
        waiting = seeds[::-1]
        running: dict[asyncio.Task[Topology], Address] = {}
        problems: list[tuple[str, str]] = []
        unauthorized: Unauthorized | None = None
        try:
            while waiting or running:
                if waiting:
                    seed = waiting.pop()
                    running[self._loop.create_task(self._fetch_from(seed))] = seed
                done, _ = await asyncio.wait(
                    running,
                    timeout=SEED_STAGGER_S if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    seed = running.pop(task)
                    error = task.exception()
                    if error is None:
                        return task.result()
                    if not isinstance(error, PresenceError):
                        raise error
                    problems.append((str(seed), str(error)))
                    if isinstance(error, Unauthorized):  # another may know the token already, or still
                        unauthorized = error
                        continue
                    if len(problems) == len(seeds) == 1 or isinstance(error, ClusterMismatch):
                        raise error if isinstance(error, ProtocolError) else self._unreachable(problems)
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)
        raise unauthorized or self._unreachable(problems)

    def _unreachable(self, problems: list[tuple[str, str]]) -> NoNodeReachable:
        story = "; ".join(what for _, what in problems[:3])
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        return NoNodeReachable(
            f"no node answers: {story}{more}; is the cluster running, and are these its addresses?",
            attempts=tuple(problems),
        )

    async def _fetch_from(self, seed: Address) -> Topology:
        connection, welcome = await self._dialer.dial("", seed, lambda _: None)
        try:
            answer: asyncio.Future[Any] = self._loop.create_future()
            connection.send(
                Request(Op.TOPOLOGY, messages.EMPTY_BODY, self.now_ms(), partial(resolve, answer))
            )
            try:
                async with asyncio.timeout(self._options.connect_timeout):
                    return _topology_of(await answer, welcome.node)
            except TimeoutError:
                raise NodeUnavailable(f"{seed}: no answer to TOPOLOGY", node=str(seed)) from None
        finally:
            connection.close(ClientClosed("no longer needed"))
            await connection.wait_lost()

    def _is_news(self, new: Topology) -> bool:
        """Whether a topology is newer than ours, or has news about addresses only."""
        old = self._topology
        if old is None:
            return True
        if new.cluster != old.cluster or new.hash_seed != old.hash_seed or new.epoch < old.epoch:
            return False
        return new.epoch > old.epoch or (new.hash == old.hash and new.nodes != old.nodes)

    def _adopt(self, new: Topology) -> None:
        """Follow a topology if it is news."""
        if not self._is_news(new):
            return
        old = self._topology
        if old is not None and new.epoch > old.epoch:
            self._retire(old, new)
        self._topology = new
        for node in new.nodes:
            channel = self._channels.get(node.name)
            if channel is None:
                self._open_channel(node)
            elif node.port:
                channel.move(Address(node.host, node.port))
        self._tell_topology()

    def _tell_topology(self) -> None:
        if self.on_topology is not None:
            self.on_topology()

    def _open_channel(self, node: Node) -> Channel:
        address = Address(node.host, node.port)
        channel = Channel(
            node.name, address, self._dialer, self._watcher, self.rng, ttl_ms=self.topology.ttl_ms
        )
        self._channels[node.name] = channel
        self._unhealthy.add(node.name)
        channel.start()
        return channel

    def _look_back(self, epoch: int, node: str) -> None:
        """Fetch an older topology from a node that knows it, unless one is being fetched."""
        if self._closed or (self._lookback is not None and not self._lookback.done()):
            return
        self._lookback = self._loop.create_task(
            self._run_look_back(epoch, node), name="pulsering old topology"
        )

    async def _run_look_back(self, epoch: int, node: str) -> None:
        await asyncio.sleep(max(0.0, self._lookback_from - self._loop.time()))
        self._lookback_from = self._loop.time() + limits.TOPOLOGY_REFRESH_MS / 1000
        channel = self._channels.get(node)
        if channel is None or not channel.ready:
            return
        with contextlib.suppress(PresenceError):
            body = messages.encode_topology_request(epoch)
            old, ours = _topology_of(await self.ask(channel, Op.TOPOLOGY, body), node), self.topology
            if old.epoch >= ours.epoch:
                await self._go_over(old)  # it has moved on meanwhile
            elif (old.cluster, old.hash_seed) != (ours.cluster, ours.hash_seed):
                self._retired.dismiss(old.epoch)
            else:
                await self._reach(old)
                self._retired.learn(old)
                self._tell_topology()
                if self._retirement is None:
                    self._schedule_retirement()

    @staticmethod
    def _linger_s(*topologies: Topology) -> float:
        """How long what was said under a topology may count: a ttl and a tick."""
        return max(each.ttl_ms + each.ttl_ms / each.ticks_per_ttl for each in topologies) / 1000

    def _retire(self, old: Topology, new: Topology) -> None:
        self._retired.retire(old, self._loop.time(), self._linger_s(old, new))
        if self._retirement is None:
            self._schedule_retirement()

    def _schedule_retirement(self) -> None:
        self._retirement = self._loop.call_at(self._retired.ends_at(self._loop.time()), self._end_retirement)

    def _end_retirement(self) -> None:
        """Let go of nodes that nobody follows a topology with any more."""
        self._retirement = None
        if self._retired.active(self._loop.time()) or self.unsettled:
            self._schedule_retirement()
            return
        for name in sorted(self._channels.keys() - {node.name for node in self.topology.nodes}):
            self._unhealthy.discard(name)
            task = self._loop.create_task(self._channels.pop(name).aclose())
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    def _hello(self) -> messages.Hello:
        topology = self._topology
        return messages.Hello(
            version_min=VERSION,
            version_max=VERSION,
            cluster=topology.cluster if topology is not None else self._cluster,
            epoch=topology.epoch if topology is not None else 0,
            topology_hash=topology.hash if topology is not None else 0,
            agent=self._options.agent or "pulsering-python",
            token=self._options.token_now(),
        )

    # --- What channels tell ------------------------------------------------------------------------------

    def _on_welcome(self, channel: Channel, welcome: messages.Welcome) -> None:
        self.keys_per_frame = min(self.keys_per_frame, welcome.keys_per_frame)
        self.note_epoch(welcome.epoch, channel.node)
        if 0 < welcome.former_epoch < self.topology.epoch:
            self.note_epoch(welcome.former_epoch, channel.node)

    def _on_channel_change(self, channel: Channel) -> None:
        if self._channels.get(channel.node) is channel:
            (self._unhealthy.discard if channel.healthy else self._unhealthy.add)(channel.node)
        if self.on_channel is not None:
            self.on_channel(channel)

    def _on_trouble(self, channel: Channel) -> None:
        # It may have a new address; and when nobody is left, the seeds may know new nodes. All clients see it
        # in the same moment, and must not all ask in the next.
        now = self._loop.time()
        if channel.hopeless(now) or not any(each.ready for each in self._channels.values()):
            if self._refresh is None or self._refresh.done():
                spread_s = limits.TOPOLOGY_REFRESH_MS / 1000
                self._refresh_from = max(self._refresh_from, now + self.rng.uniform(0, spread_s))
            self.refresh()


def _topology_of(fields: Any, node: str) -> Topology:
    try:
        return Topology.from_wire(fields)
    except ValueError as error:
        raise ProtocolError(
            f"{node} sent a topology that cannot be: {error}", node=node, op="TOPOLOGY"
        ) from error
