"""Carries out what ``_watch_core`` decides: one hub a client, for all of its watches.

It holds on to one lasting connection of each channel, tells the core when that is made and lost, sends what
the core wants asked, once a turn of the loop, and hands it answers and pushes with their age. While users are
watched, a timer tells the core of time and of what the cluster has come to. A timer that comes late was held
up, and so were the frames that it would miss: it counts no more time than it should have taken.

Invariant: a watch that is closed, or was dropped, leaves no subscription, and no watch leaves a timer.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from pulsering import messages
from pulsering._channel import Channel
from pulsering._cluster import Cluster
from pulsering._connection import Connection
from pulsering._request import Request
from pulsering._watch_core import WatchCore
from pulsering._watch_reader import Reader
from pulsering._watch_stream import Ask
from pulsering._watch_table import keys_in
from pulsering.errors import PresenceError, WatchOverflow
from pulsering.ids import UserId
from pulsering.wire import Op

__all__ = ["WatchHub"]

SWEEPS_PER_PULSE: Final = 5
"""How finely silence is told: the three pulses that make it are a fifth of one out at most."""


class _Question(Request):
    """A request, and what it asks."""

    def __init__(self, ask: Ask, body: bytes, sender_ms: int, hub: "WatchHub") -> None:
        super().__init__(Op.WATCH, body, sender_ms, hub.on_outcome)
        self.ask = ask
        if ask.want == messages.WATCH:
            self.count = len(ask.keys) // messages.KEY_BYTES


class WatchHub:
    """The watches of one client; bound to its event loop."""

    def __init__(self, cluster: Cluster, loop: asyncio.AbstractEventLoop) -> None:
        self._cluster = cluster
        self._loop = loop
        self._core = WatchCore(cluster.topology)
        self._connections: dict[str, Connection] = {}
        self._readers: dict[Reader, None] = {}  # a set would be closed in an order of addresses
        self._flush_due = False
        self._sweep: asyncio.TimerHandle | None = None
        self._seen_ms = 0
        pulse_ms = messages.watch_pulse_ms(cluster.topology.ttl_ms)
        self._sweep_ms = pulse_ms / SWEEPS_PER_PULSE
        cluster.on_channel = self._on_channel
        cluster.on_topology = self._look
        for channel in cluster.channels.values():
            self._on_channel(channel)
        self._look()

    @property
    def watched(self) -> int:
        """Users that are watched, each once."""
        return len(self._core.table)

    # --- What watches ask ----------------------------------------------------------------------------------

    def open(self, limit: int) -> Reader:
        """A reader of nobody yet."""
        reader = Reader(self._core.table, limit)
        self._readers[reader] = None
        return reader

    def add(self, reader: Reader, keys: bytes, ids: Sequence[UserId]) -> None:
        """Watch more users."""
        self._core.watch(keys_in(keys), ids, reader)
        if self._sweep is None and not self._core.idle:
            self._seen_ms = self._cluster.now_ms()
            self._schedule_sweep()
        self._flush_soon()

    def remove(self, reader: Reader, keys: bytes) -> None:
        """Watch some users no more."""
        self._core.unwatch(keys_in(keys), reader)
        self._flush_soon()

    def discard(self, reader: Reader) -> None:
        """A watch is over."""
        if reader in self._readers:
            self._readers.pop(reader, None)
            self._core.close(reader)
            self._flush_soon()

    def close(self, error: PresenceError) -> None:
        """End all watches."""
        self._cluster.on_channel = self._cluster.on_topology = None
        if self._sweep is not None:
            self._sweep.cancel()
        self._fail_all(error)

    # --- What happens to the cluster -----------------------------------------------------------------------

    def _look(self) -> None:
        cluster = self._cluster
        self._core.look(cluster.topology, cluster.retired, unsettled=cluster.unsettled)
        self._flush_soon()

    def _on_channel(self, channel: Channel) -> None:
        """Hold on to the connection that is there, and let go of one that is not."""
        node, connection = channel.node, channel.lasting
        known = self._connections.get(node)
        if connection is known:
            return
        if known is not None:
            del self._connections[node]
            self._core.on_down(node)
        if connection is not None:
            self._connections[node] = connection
            connection.on_watch = partial(self._on_push, node, connection)
            self._core.on_up(node)
        self._after()

    # --- To nodes and from them ----------------------------------------------------------------------------

    def _flush_soon(self) -> None:
        if not self._flush_due and self._core.restless:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        cluster, epoch = self._cluster, self._cluster.topology.epoch
        for ask in self._core.take_asks(cluster.keys_per_frame):
            connection = self._connections.get(ask.node)
            if connection is not None:
                body = messages.encode_keys_request(epoch, ask.want, ask.keys)
                connection.send(_Question(ask, body, cluster.now_ms(), self))
        self._after()

    def on_outcome(self, question: "_Question", reply: Any, error: PresenceError | None) -> None:
        """A node has answered a question, or will not."""
        ask, connection = question.ask, question.connection
        if connection is None or self._connections.get(ask.node) is not connection:
            return
        if error is None:
            self._hear_epoch(reply.epoch, ask.node)
            self._core.on_reply(ask, reply, connection.age_ms)
        else:
            self._core.on_failure(ask, error)
        self._after()

    def _on_push(self, node: str, connection: Connection, push: messages.WatchPush) -> None:
        if self._connections.get(node) is connection:
            self._hear_epoch(push.epoch, node)
            self._core.on_push(node, push, connection.age_ms)
            self._after()

    def _hear_epoch(self, epoch: int, node: str) -> None:
        if epoch != self._cluster.topology.epoch:
            self._cluster.note_epoch(epoch, node)

    def _after(self) -> None:
        """Whatever has happened: end watches that are over, and ask what is to be asked."""
        refusal, self._core.refusal = self._core.refusal, None
        if refusal is not None:
            self._fail_all(refusal)
        for reader in self._core.take_overflowed():
            self._readers.pop(reader, None)
            reader.fail(_overflow(reader))
        self._flush_soon()

    def _fail_all(self, error: PresenceError) -> None:
        readers, self._readers = self._readers, {}
        for reader in readers:
            self._core.close(reader)
            reader.fail(error)

    # --- Time ----------------------------------------------------------------------------------------------

    def _schedule_sweep(self) -> None:
        self._sweep = self._loop.call_later(self._sweep_ms / 1000, self._on_sweep)

    def _on_sweep(self) -> None:
        self._sweep = None
        now_ms = self._cluster.now_ms()
        passed_ms, self._seen_ms = min(now_ms - self._seen_ms, 2 * self._sweep_ms), now_ms
        if self._core.idle:
            return
        self._core.pass_time(passed_ms)
        self._look()
        self._after()
        self._schedule_sweep()


def _overflow(reader: Reader) -> WatchOverflow:
    waiting = reader.overflowed
    return WatchOverflow(
        f"{waiting} users of a watch have changes that were not read, and at most {reader.limit} may: read "
        "faster, watch fewer users, or give it a larger buffer, and begin a new watch",
        waiting=waiting,
    )
