"""``PresenceClient``: what a backend service holds to say who is alive, and to ask who is online.

This module is the face: it checks arguments, turns ids into keys, hands calls to the driver and shapes their
results. What a call does is in ``_read_call``, ``_write_call`` and ``_count_call``; who runs it in
``_driver``; the way to the nodes in ``_cluster``. Invariant: after ``aclose`` no task, timer or socket of the
client is left.
"""

import asyncio
import contextlib
import os
import random
import warnings
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from pulsering import limits
from pulsering._batcher import Batcher, Verdict, read_batcher, write_batcher
from pulsering._cluster import Cluster
from pulsering._count_call import CountCall
from pulsering._driver import Driver
from pulsering._read_call import ReadCall
from pulsering._watch_hub import WatchHub
from pulsering._write_call import WriteCall
from pulsering.errors import (
    CallTimeout,
    ClientClosed,
    NodeUnavailable,
    Overloaded,
    PresenceError,
    UnknownPresence,
)
from pulsering.ids import UserId, key_of, keys_of, slot_of
from pulsering.options import ClientOptions, Duration, Options, grace_ms_of, seconds_of
from pulsering.reports import Count, HeartbeatReport, Location, NodeStatus
from pulsering.snapshot import Snapshot, kept_ids
from pulsering.status import Reason, Status
from pulsering.topology import Topology
from pulsering.transport import Transport, connect_by
from pulsering.url import parse_url
from pulsering.watch import Watch
from pulsering.wire import Op

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self, Unpack

    from typing_extensions import Buffer

    from pulsering._telemetry import Telemetry

__all__ = ["OnUnknown", "PresenceClient"]

Ids: TypeAlias = "Iterable[UserId] | Buffer"
OnUnknown: TypeAlias = Literal["raise", "offline", "online"]

_ONLINE, _UNKNOWN = int(Status.ONLINE), int(Status.UNKNOWN)
_NEW, _OPENING, _OPEN, _CLOSED = range(4)
_ON_UNKNOWN: Final = ("raise", "offline", "online")


_forks = 0
"""Forks between this process and the one that imported us: a client does not outlive one."""


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


class _Default:
    """Marks a parameter that was not given, where None means something."""


_DEFAULT: Final = _Default()


class PresenceClient:
    """A client of one cluster, for one event loop.

    ::

        async with PresenceClient.from_url("presence://h1:7400,h2:7400") as presence:
            await presence.heartbeat(42)
            assert await presence.is_online(42)

    Entering finds the cluster and connects. The client is then safe to share among all tasks of the loop, and
    meant to live as long as the service. Ids are ints (0..2^64-1), str, bytes or UUIDs; batches are iterables
    of them or buffers of 64-bit integers (numpy arrays, ``array('Q')``). Calls end within ``timeout`` (0.25
    s), retries included, and every call may be repeated safely.

    Raises, from every call: ``ClientClosed`` outside ``async with``, in another loop or after a fork;
    ``ClientOverloaded`` beyond ``pending_keys_max``; ``TypeError`` or ``ValueError`` for what is no id.
    """

    def __init__(
        self, transport: Transport, options: ClientOptions, rng: random.Random | None = None
    ) -> None:
        self._transport = transport
        self._options = options
        self._rng = rng or random.Random()
        self._state = _NEW
        self._forks = _forks
        self._loop: asyncio.AbstractEventLoop
        self._thread = 0  # of the loop, while the client is open
        self._closing: asyncio.Task[None] | None = None
        self._cluster: Cluster
        self._driver: Driver
        self._hash_seed = 0
        self._beats: Batcher[WriteCall, None]
        self._reads: Batcher[ReadCall, Verdict]
        self._strict_reads: Batcher[ReadCall, Verdict]
        self._leaves: dict[int, Batcher[WriteCall, None]] = {}
        self._watches: WatchHub | None = None

    @classmethod
    def from_url(cls, url: str, **options: "Unpack[Options]") -> "Self":
        """A client for ``presence://host:port,host:port/cluster?option=value`` (``presences://`` for TLS).

        Hosts are seeds: one that answers is enough. Port 7400 and any cluster name are assumed if not given.
        ``options`` are the fields of ``ClientOptions``, as keyword arguments or in the URL's query. Nothing
        is connected yet. Raises ``ConfigError``, which names the part that is wrong.

        ``memory://`` is a cluster in this process, for tests, notebooks and one-process services; it needs
        the server extra. See ``docs/client.md``.
        """
        return cls(*connect_by(parse_url(url), options))

    # --- Life --------------------------------------------------------------------------------------------

    async def __aenter__(self) -> "Self":
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Find the cluster and connect to its nodes; ``async with`` does it.

        Raises ``NoNodeReachable`` if no seed answers, ``ClusterMismatch`` if they belong to another cluster.
        Nodes other than the first to answer may still be down.
        """
        if self._state != _NEW:
            raise ClientClosed("a client is opened once; make a new one")
        loop = asyncio.get_running_loop()
        self._state = _OPENING
        self._loop = loop
        self._forks = _forks
        options = self._options
        telemetry = _telemetry_of(options)
        on_dialed = None if telemetry is None else telemetry.on_dialed
        cluster = Cluster(self._transport, options, loop, self._rng, on_dialed)
        driver = Driver(cluster, loop, options.pending_keys_max)
        try:
            await cluster.open()
        except BaseException:
            self._state = _CLOSED
            await cluster.aclose()
            raise
        if telemetry is not None:
            telemetry.watch(cluster, driver, loop)
        self._cluster, self._driver = cluster, driver
        self._hash_seed = cluster.topology.hash_seed
        self._beats = write_batcher(driver, loop, options, Op.HEARTBEAT, 0)
        self._reads = read_batcher(driver, loop, options, strict=False)
        self._strict_reads = read_batcher(driver, loop, options, strict=True)
        self._state = _OPEN
        self._thread = get_ident()

    async def aclose(self) -> None:
        """Close all connections. Calls under way end with ``ClientClosed``. It may be called again.

        Cancelling it does not stop the closing.
        """
        if self._state == _OPEN and _forks == self._forks:  # else the sockets belong to the parent
            loop = asyncio.get_running_loop()
            if loop is not self._loop:
                raise ClientClosed("the client is bound to another event loop; close it there")
            if self._watches is not None:
                self._watches.close(ClientClosed("the client was closed"))
            self._driver.close()
            self._closing = loop.create_task(self._cluster.aclose(), name="pulsering close")
        self._state = _CLOSED
        self._thread = 0
        if self._closing is not None:
            await asyncio.shield(self._closing)

    def __del__(self) -> None:
        if getattr(self, "_state", _NEW) != _OPEN or _forks != self._forks:
            return
        warnings.warn(f"unclosed {self!r}; use async with, or await aclose()", ResourceWarning, stacklevel=2)
        loop, cluster, driver, watches = self._loop, self._cluster, self._driver, self._watches

        def abandon() -> None:
            if watches is not None:
                watches.close(ClientClosed("the client was dropped"))
            driver.close()
            task = loop.create_task(cluster.aclose())
            _ABANDONED.add(task)
            task.add_done_callback(_ABANDONED.discard)

        with contextlib.suppress(RuntimeError):  # the loop is closed: its transports are gone too
            loop.call_soon_threadsafe(abandon)

    def __repr__(self) -> str:
        state = ("new", "opening", "open", "closed")[self._state]
        return f"<PresenceClient {','.join(map(str, self._transport.seeds))} {state}>"

    def _check(self) -> asyncio.AbstractEventLoop:
        # Asking which loop runs is a system call in Python 3.11, a twelfth of what a call for one user costs.
        # A thread has one running loop: if ours runs and this is its thread, it is ours.
        if get_ident() != self._thread or _forks != self._forks or not self._loop.is_running():
            raise self._not_here()
        return self._loop

    def _not_here(self) -> ClientClosed:
        what = "the client is bound to the event loop it was opened in: open one a loop"
        if self._state != _OPEN:
            what = f"the client is {'closed' if self._state == _CLOSED else 'not open yet: use async with'}"
        elif _forks != self._forks:
            what = "the process was forked after the client was opened: open one in each process"
        return ClientClosed(what)

    # --- Heartbeats ----------------------------------------------------------------------------------------

    async def heartbeat(self, user_id: UserId) -> None:
        """Say that a user is alive. Calls made in one turn of the loop share a frame per node.

        Returns once an owner of the user's slot has it. Raises ``CallTimeout``, ``NodeUnavailable`` or
        ``Overloaded`` if none could be brought to take it; sending it again is safe.
        """
        self._check()
        failure = await self._beats.join(user_id)
        if failure is not None:
            raise failure.with_traceback(None)

    async def heartbeat_many(
        self, ids: Ids, *, timeout: Duration | _Default | None = _DEFAULT
    ) -> HeartbeatReport:
        """Say that many users are alive; each is sent to all owners of its slot.

        Returns a report as soon as every owner has answered; once each user is acknowledged by one, the
        others are waited for only a third of the timeout. Raises ``CallTimeout``, ``NodeUnavailable`` or
        ``Overloaded`` if not one user was acknowledged; if some were not, the report says how many.
        """
        return await self._write(ids, Op.HEARTBEAT, 0, timeout)

    async def leave(self, user_id: UserId, *, grace: Duration | None = None) -> None:
        """Say that a user is gone: offline at once, or after ``grace`` unless another heartbeat comes.

        ``grace``, in seconds, is for users who may have a second device: it only ever shortens the time they
        have left. Raises as ``heartbeat`` does.
        """
        loop = self._check()
        grace_ms = grace_ms_of(grace)
        batcher = self._leaves.get(grace_ms)
        if batcher is None:
            if len(self._leaves) >= 64:  # graces differ from call to call: nothing to share
                self._leaves.clear()
            batcher = write_batcher(self._driver, loop, self._options, Op.LEAVE, grace_ms)
            self._leaves[grace_ms] = batcher
        failure = await batcher.join(user_id)
        if failure is not None:
            raise failure.with_traceback(None)

    async def leave_many(
        self, ids: Ids, *, grace: Duration | None = None, timeout: Duration | _Default | None = _DEFAULT
    ) -> HeartbeatReport:
        """Say that many users are gone; ``grace`` as for ``leave``, the rest as for ``heartbeat_many``."""
        return await self._write(ids, Op.LEAVE, grace_ms_of(grace), timeout)

    async def _write(
        self, ids: Ids, op: Op, grace_ms: int, timeout: Duration | _Default | None
    ) -> HeartbeatReport:
        loop = self._check()
        seconds = self._seconds(timeout)
        said = self._cluster.now_ms()
        call = WriteCall(self._cluster, keys_of(ids, self._hash_seed), op, grace_ms=grace_ms)
        if call.key_count:
            await self._driver.complete(call, seconds, said)
        report = call.report
        if call.key_count and not report.accepted:
            raise call.failure(loop.time())
        return report

    # --- Reads ---------------------------------------------------------------------------------------------

    async def is_online(
        self, user_id: UserId, *, on_unknown: OnUnknown = "raise", strict: bool = False
    ) -> bool:
        """Whether a user is online now. Calls made in one turn of the loop share a frame per node.

        If the cluster cannot know, raises ``UnknownPresence`` with the reason, and ``CallTimeout``,
        ``NoNodeReachable`` or ``Overloaded`` if not one of its nodes answers; with ``on_unknown="offline"``
        or ``"online"`` returns that instead. ``strict``: as in ``get_many``.
        """
        self._check()
        if on_unknown not in _ON_UNKNOWN:
            raise ValueError(f"on_unknown: one of {', '.join(_ON_UNKNOWN)} is needed, not {on_unknown!r}")
        try:
            reads = self._strict_reads if strict else self._reads
            verdict = await reads.join(user_id)
            if isinstance(verdict, PresenceError):
                raise verdict.with_traceback(None)
        except (CallTimeout, NodeUnavailable, Overloaded):
            if on_unknown == "raise":
                raise
            return on_unknown == "online"
        status, reason, retry_after = verdict
        if status != _UNKNOWN:
            return status == _ONLINE
        if on_unknown == "raise":
            why = Reason(reason)
            message = f"whether the user is online is unknown: {why.name.lower()}"
            raise UnknownPresence(message, reason=why, retry_after=retry_after, op="GET")
        return on_unknown == "online"

    async def get_many(
        self,
        ids: Ids,
        *,
        ages: bool = False,
        last_seen: bool = False,
        strict: bool = False,
        timeout: Duration | _Default | None = _DEFAULT,
    ) -> Snapshot:
        """Statuses of many users, in the order and length of ``ids``, duplicates included.

        Users whose owners do not answer within the timeout are unknown, with the reason; the call raises
        ``CallTimeout``, ``NoNodeReachable`` or ``Overloaded`` only if not one node of the cluster answers.
        With ``ages`` the snapshot also has the seconds since each online user's last heartbeat, with
        ``last_seen`` those since an offline user's, where the cluster remembers them. With ``strict``,
        offline is only what all owners say: one that is cold or cannot be reached makes it unknown.
        """
        loop = self._check()
        seconds = self._seconds(timeout)
        if hasattr(ids, "__next__"):
            ids = tuple(cast("Iterable[UserId]", ids))
        keys = keys_of(ids, self._hash_seed)
        call = ReadCall(self._cluster, keys, want_ages=ages, want_last_seen=last_seen, strict=strict)
        kept = kept_ids(ids)
        if call.key_count:
            await self._driver.complete(call, seconds, self._cluster.now_ms())
            outage = call.outage(loop.time())
            if outage is not None:
                raise outage
        topology = self._cluster.topology
        tick_s = topology.ttl_ms / topology.ticks_per_ttl / 1000
        retry_after = call.retry_after if call.waits else None
        seen = None if call.last_seen is None or call.unheard is None else (call.last_seen, call.unheard)
        return Snapshot(kept, call.statuses, call.reasons, call.ages, tick_s, retry_after, seen)

    async def count(self, *, timeout: Duration | _Default | None = _DEFAULT) -> Count:
        """Users online in the whole cluster, each once, and whether every shard answered.

        Raises ``CallTimeout``, ``NoNodeReachable`` or ``Overloaded`` if no node answers.
        """
        loop = self._check()
        call = CountCall(self._cluster)
        await self._driver.complete(call, self._seconds(timeout), self._cluster.now_ms())
        outage = call.outage(loop.time())
        if outage is not None:
            raise outage
        return call.count

    def watch(self, ids: Ids = (), *, buffer: int = limits.WATCH_BUFFER) -> Watch:
        """Be told of changes: first the state of each user, then each change of it.

        ``async for change in presence.watch(ids)`` gives ``Change`` values; ``add`` and ``remove`` of what
        this returns change who is watched. Who reads slowly gets the latest state of each user; with more
        than ``buffer`` users of whom a change was not read, the watch ends with ``WatchOverflow``. See
        ``docs/watch.md``.
        """
        loop = self._check()
        if buffer < 1:
            raise ValueError(f"buffer: a watch holds at least 1 unread change, not {buffer}")
        if self._watches is None:
            self._watches = WatchHub(self._cluster, loop)
        watch = Watch(self._watches, self._hash_seed, self._check, buffer)
        watch.add(ids)
        return watch

    # --- About the cluster -------------------------------------------------------------------------------

    @property
    def topology(self) -> Topology:
        """The topology the client follows."""
        self._check()
        return self._cluster.topology

    def locate(self, user_id: UserId) -> Location:
        """A user's key, slot and owners, the first to be asked first. Asks nobody."""
        self._check()
        key = key_of(user_id, self._hash_seed)
        slot = slot_of(key)
        return Location(key, slot, self._cluster.topology.owners_of(slot))

    async def status(self) -> list[NodeStatus]:
        """What each node says about itself, in the order of their names; nodes that are down say nothing."""
        self._check()
        nodes = self._cluster.topology.nodes
        return list(await asyncio.gather(*(self._status_of(node.name, node.address) for node in nodes)))

    async def _status_of(self, name: str, address: str) -> NodeStatus:
        channel = self._cluster.channel(name)
        if channel is None:
            return NodeStatus(name, address, up=False, circuit="open", error="just left the cluster")
        try:
            vitals = await self._cluster.ask(channel, Op.PING)
        except PresenceError as error:
            return NodeStatus(name, address, up=False, circuit=channel.circuit.state.value, error=str(error))
        return NodeStatus(
            name,
            address,
            up=True,
            circuit=channel.circuit.state.value,
            error="",
            epoch=vitals.epoch,
            users=vitals.users,
            uptime=vitals.uptime_ms / 1000,
            warming=vitals.warming_ms / 1000,
            draining=vitals.draining,
            agent=vitals.agent,
            removed=vitals.removed,
            needed=vitals.needed_ms / 1000,
        )

    def stats(self) -> dict[str, Any]:
        """Plain numbers about this client: calls, frames, what waits, each node's connections and circuit."""
        self._check()
        cluster, driver = self._cluster, self._driver
        return {
            "calls": driver.calls,
            "frames": driver.frames,
            "timeouts": driver.timeouts,
            "calls_running": driver.running,
            "keys_pending": driver.pending_keys,
            "users_watched": self._watches.watched if self._watches is not None else 0,
            "epoch": cluster.topology.epoch,
            "topology_refreshes": cluster.refreshes,
            "retry_tokens": cluster.budget.tokens,
            "nodes": {
                name: {
                    "address": str(channel.address),
                    "ready": channel.ready,
                    "connections": channel.connections,
                    "connects": channel.connects,
                    "in_flight": channel.load,
                    "circuit": channel.circuit.state.value,
                    "circuit_opened": channel.circuit.opened,
                    "refused": channel.refused,
                }
                for name, channel in sorted(cluster.channels.items())
            },
        }

    def _seconds(self, timeout: Duration | _Default | None) -> float | None:
        return self._options.timeout if isinstance(timeout, _Default) else seconds_of("timeout", timeout)


_ABANDONED: set["asyncio.Task[None]"] = set()
"""Ends of clients that were dropped without being closed: a loop keeps only weak references to its tasks."""


def _telemetry_of(options: ClientOptions) -> "Telemetry | None":
    if options.telemetry is False:
        return None
    from pulsering._telemetry import telemetry_for

    return telemetry_for(options.telemetry)
