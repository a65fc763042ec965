"""What a client does to watch users: whom it asks, when it asks again, and when it takes nothing for known.

It is told what happens, users come and go, connections are made and lost, nodes answer and push, time passes,
and says which WATCH requests to send. ``_watch_table`` merges what nodes say, ``_watch_stream`` knows how far
a node's word holds. So watching over a restart, a node's death or a change of topology is decided here, and
nowhere else; ``_watch_hub`` carries it out. Pure: no socket, loop or clock.

Invariant: a change counts only after an answer on the same connection to which it is the sequel. Whenever
that thread is cut, everything is asked afresh, and until the answer is there the node has no word.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from pulsering import limits, messages
from pulsering._watch_reader import Reader
from pulsering._watch_stream import Ask, Phase, Stream, Turn
from pulsering._watch_table import (
    OVERLOADED,
    PENDING,
    SILENT,
    UNREACHABLE,
    WatchTable,
    keys_in,
    packed,
    unpacked,
)
from pulsering.errors import (
    NodeBusy,
    NodeUnavailable,
    NotServed,
    Overloaded,
    PresenceError,
    Unauthorized,
)
from pulsering.ids import UserId
from pulsering.topology import Topology

__all__ = ["WatchCore"]

REST_MS: Final = 1000
"""Before a node that took no more users is asked again."""


class WatchCore:
    """Everything that one client watches."""

    def __init__(self, topology: Topology) -> None:
        self.table = WatchTable(topology)
        self._streams: dict[str, Stream] = {}
        self._wanted: dict[int, None] = {}  # of whom nobody was asked yet
        self._unwanted: dict[int, None] = {}
        self._afresh: set[str] = set()  # nodes that are asked for everything
        self._again: list[Ask] = []
        self._stops: list[tuple[str, bytes]] = []
        self._marked = False
        self._pulse_ms = messages.watch_pulse_ms(topology.ttl_ms)
        self._overflowed: list[Reader] = []
        self.refusal: PresenceError | None = None
        """Why a node will not be watched at all, by whatever asks."""

    @property
    def idle(self) -> bool:
        """Whether nobody watches anybody."""
        return not len(self.table)

    @property
    def restless(self) -> bool:
        """Whether there is somebody to ask something."""
        return bool(self._wanted or self._unwanted or self._afresh or self._again or self._stops)

    # --- Readers -------------------------------------------------------------------------------------------

    def watch(self, keys: Sequence[int], ids: Iterable[UserId], reader: Reader) -> None:
        """A reader watches more users."""
        fresh = self.table.add(reader.welcome(keys, ids), reader)
        self._wanted.update(dict.fromkeys(fresh))
        for key in fresh:
            self._unwanted.pop(key, None)

    def unwatch(self, keys: Iterable[int], reader: Reader) -> None:
        """A reader watches some users no more."""
        gone = self.table.drop(reader.dismiss(keys), reader)
        self._unwanted.update(dict.fromkeys(gone))
        for key in gone:
            self._wanted.pop(key, None)

    def close(self, reader: Reader) -> None:
        """A reader goes."""
        self.unwatch(list(reader.ids), reader)

    def take_overflowed(self) -> list[Reader]:
        """Readers that did not keep up and were closed, each told once."""
        overflowed, self._overflowed = self._overflowed, []
        return overflowed

    # --- The cluster ---------------------------------------------------------------------------------------

    def look(self, topology: Topology, retired: tuple[Topology, ...], *, unsettled: bool) -> None:
        """What the client knows of the cluster now."""
        table = self.table
        if unsettled != table.unsettled:
            table.unsettled = unsettled
            self._marked = True
        if topology is not table.topology or retired != table.retired:
            before = self._asked()
            self._pulse_ms = messages.watch_pulse_ms(topology.ttl_ms)
            if table.adopt(topology, retired):
                self._afresh.update(self._streams)
            after = self._asked()
            for node, keys in before.items():
                if superfluous := keys - after.get(node, set()):
                    self._stops.append((node, packed(sorted(superfluous))))
            for node, keys in after.items():
                if (word := self._stream(node).word) != PENDING:
                    table.mark(node, keys, word, pending_only=True)
            self._marked = True
        self._settle()

    def on_up(self, node: str) -> None:
        """There is a connection to a node, a new one."""
        self._stream(node).begin(Phase.NEW)
        self._afresh.add(node)

    def on_down(self, node: str) -> None:
        """The connection to a node is lost, and what it said with it."""
        stream = self._stream(node)
        stream.begin(Phase.DOWN)
        self._mark(stream, UNREACHABLE)
        self._settle()

    # --- Nodes ---------------------------------------------------------------------------------------------

    def on_reply(self, ask: Ask, reply: messages.WatchReply, age_ms: int = 0) -> None:
        """A node answered."""
        stream = self._stream(ask.node)
        if ask not in stream.asks:
            return  # asked before the thread was cut, and perhaps answered before
        stream.answered(ask)
        counts = self._hear(stream, reply.epoch, reply.warming_ms, age_ms)
        if ask.is_probe:
            if counts:
                stream.serve()
            else:
                stream.phase = Phase.NEW
            self._afresh.add(ask.node)
        elif counts and reply.key_count:
            stream.told = True
            disowned = stream.disowned(self.table.topology.epoch, self._pulse_ms)
            self.table.hear(ask.node, keys_in(ask.keys), unpacked(reply.states), disowned=disowned)
        self._settle()

    def on_push(self, node: str, push: messages.WatchPush, age_ms: int = 0) -> None:
        """A node told of changes, or that there are none."""
        stream = self._stream(node)
        if self._hear(stream, push.epoch, push.warming_ms, age_ms) and len(push.keys):
            disowned = stream.disowned(self.table.topology.epoch, self._pulse_ms)
            self.table.hear(node, keys_in(push.keys), unpacked(push.states), push.causes, disowned=disowned)
        self._settle()

    def on_failure(self, ask: Ask, error: PresenceError) -> None:
        """A node refused. Of one that is lost ``on_down`` tells."""
        stream = self._stream(ask.node)
        if ask not in stream.asks or isinstance(error, NodeUnavailable):
            return
        stream.answered(ask)
        if isinstance(error, (NotServed, Unauthorized)):
            self.refusal = error
            stream.begin(Phase.NEW)
            return
        code = OVERLOADED if isinstance(error, Overloaded) else UNREACHABLE
        if ask.is_probe:
            stream.phase = Phase.NEW
            self._mark(stream, code)
        elif ask.want == messages.WATCH:
            self.table.mark(ask.node, keys_in(ask.keys), code)
            self._marked = True
        stream.refuse(ask, (error.retry_after * 1000 if isinstance(error, NodeBusy) else 0) or REST_MS)
        self._settle()

    def pass_time(self, ms: float) -> None:
        """Some milliseconds have passed."""
        if self.idle:
            return
        for node, stream in self._streams.items():
            turn = stream.pass_time(ms, self.table.topology.epoch, self._pulse_ms)
            if turn is Turn.WENT_STALE:
                self._lose(stream)
            elif turn is Turn.AFRESH:
                self._afresh.add(node)
            elif turn is Turn.FELL_SILENT:
                self._mark(stream, SILENT, pending_only=True)
            self._again += stream.rested(ms)
        self._settle()

    # --- What to send --------------------------------------------------------------------------------------

    def take_asks(self, keys_per_frame: int) -> list[Ask]:
        """The requests to send now, of at most so many keys each."""
        table, asks = self.table, []
        wanted, self._wanted = packed(self._wanted), {}
        for node, keys in table.owners_of(wanted, keys_per_frame):
            stream = self._stream(node)
            if stream.word != PENDING:
                table.mark(node, keys_in(keys), stream.word)
                self._marked = True
            asks += self._ask(stream, messages.WATCH, keys)
        again, self._again = self._again, []
        for ask in again:
            keys = packed(key for key in keys_in(ask.keys) if (key in table) == (ask.want == messages.WATCH))
            asks += self._ask(self._stream(ask.node), ask.want, keys)
        if afresh := self._afresh:
            self._afresh = set()
            for node, keys in table.owners_of(table.keys, keys_per_frame):
                if node in afresh:
                    asks += self._ask(self._stream(node), messages.WATCH, keys)
        unwanted, self._unwanted = packed(self._unwanted), {}
        stops, self._stops = self._stops, []
        for node, keys in (*stops, *table.owners_of(unwanted, keys_per_frame)):
            size = keys_per_frame * messages.KEY_BYTES
            for start in range(0, len(keys), size):
                asks += self._ask(self._stream(node), messages.STOP_WATCH, keys[start : start + size])
        self._settle()
        return asks

    def _ask(self, stream: Stream, want: int, keys: bytes) -> list[Ask]:
        """Ask a node, or first whether it can be asked; nothing while it has no word."""
        if want == messages.STOP_WATCH:
            return [stream.ask(want, keys)] if keys and stream.may_tell else []
        if stream.phase is Phase.NEW:
            stream.phase = Phase.PROBING
            return [stream.ask(want, b"")]
        return [stream.ask(want, keys)] if keys and stream.phase is Phase.SERVING else []

    # --- What follows --------------------------------------------------------------------------------------

    def _stream(self, node: str) -> Stream:
        return self._streams.setdefault(node, Stream(node))

    def _hear(self, stream: Stream, epoch: int, warming_ms: int, age_ms: int) -> bool:
        """A node spoke; whether what it said counts."""
        turn = stream.hear(epoch, warming_ms, age_ms, self._pulse_ms)
        if turn is Turn.WENT_STALE:
            self._lose(stream)
        elif turn is Turn.AFRESH:
            self._afresh.add(stream.node)
        return turn in (Turn.SPOKE, Turn.AFRESH)

    def _lose(self, stream: Stream) -> None:
        """What a node has said may hold no more, and it has yet to say that it is back."""
        self._mark(stream, UNREACHABLE)
        self._afresh.add(stream.node)

    def _mark(self, stream: Stream, code: int, *, pending_only: bool = False) -> None:
        for node, keys in self.table.owners_of(self.table.keys, limits.WATCHED_USERS):
            if node == stream.node:
                self.table.mark(node, keys_in(keys), code, pending_only=pending_only)
                self._marked = True

    def _asked(self) -> dict[str, set[int]]:
        """Whom each node is asked about."""
        asked: dict[str, set[int]] = {}
        for node, keys in self.table.owners_of(self.table.keys, limits.WATCHED_USERS):
            asked.setdefault(node, set()).update(keys_in(keys))
        return asked

    def _settle(self) -> None:
        if self._marked:
            self._marked = False
            self.table.settle()
        for reader in self.table.take_overflowed():
            self.close(reader)
            self._overflowed.append(reader)
