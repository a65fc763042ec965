"""Bugs on purpose: each replaces a function or two of the real code, and each must be found by some seed.

A simulator that finds nothing proves nothing until it is known what it would find. So here are mistakes that
systems of this kind have made, one flag each (``python -m sim --plant NAME``), put in place by ``planted``
for as long as it lasts; the product itself has no branch for any of it. Mistakes in the table are made in its
Python twin, and the data path gives way to the session then. A mistake that no seed of a thousand finds is a
gap in the simulator.
"""

import contextlib
from array import array
from collections.abc import Callable, Iterator
from typing import Any, Final
from unittest.mock import patch

from sim import world

from pulsering import _batcher, _read_call, client
from pulsering._calls import BatchCall
from pulsering._cluster import Cluster
from pulsering._connection import Connection
from pulsering._read_call import ReadCall
from pulsering._retired import Retired
from pulsering._watch_stream import Stream
from pulsering._watch_table import WatchTable
from pulsering._write_call import WriteCall
from pulsering.frame_age import FrameAge
from pulsering.ids import SLOTS, key_of, keys_of
from pulsering.routing import Evidence, read_targets
from pulsering.status import Cause, Status
from pulsering_server import node, session, watchers
from pulsering_server._datapath_reference import DataPath
from pulsering_server._table_reference import ONLINE, Table
from pulsering_server._watch_reference import WatchSet
from pulsering_server.checked import checked_keys
from pulsering_server.node import NodeCore
from pulsering_server.ownership import Ownership

__all__ = ["BUGS", "planted"]

Patch = tuple[Any, str, Any]
BUGS: Final[dict[str, Callable[[], list[Patch]]]] = {}
"""Each by its name: what it replaces."""


def bug(make: Callable[[], list[Patch]]) -> Callable[[], list[Patch]]:
    BUGS[make.__name__] = make
    return make


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """Have this bug for a while; an empty name is none."""
    with contextlib.ExitStack() as stack:
        for where, what, instead in BUGS[name]() if name else ():
            stack.enter_context(patch.object(where, what, instead))
        yield


def _table(kind: type[Table], *, age: type[FrameAge] = FrameAge) -> list[Patch]:
    """Nodes whose table is this one, in plain Python."""
    return [
        (node, "Table", kind),
        (node, "DataPath", DataPath),
        (session, "FrameAge", age),
        (watchers, "WatchSet", WatchSet),
    ]


# -- time ----------------------------------------------------------------------------------------------------


@bug
def deadline_off_by_one() -> list[Patch]:
    """Users stay online a tick too long."""

    class Late(Table):
        def _count(self, record: Any, key: int, deadline: int) -> None:
            super()._count(record, key, deadline + 1)

    return _table(Late)


@bug
def deadline_a_tick_early() -> list[Patch]:
    """The tick in which a heartbeat was said counts as a whole one."""

    class Early(Table):
        def _count(self, record: Any, key: int, deadline: int) -> None:
            super()._count(record, key, deadline - 1)

    return _table(Early)


@bug
def absolute_time() -> list[Patch]:
    """The sender's milliseconds are taken for the node's own."""

    class Absolute(FrameAge):
        def age_ms(self, sender_ms: int, now_ms: int) -> int:
            late_ms = (now_ms - sender_ms) % (1 << 32)
            return late_ms if late_ms < 1 << 31 else 0

    return _table(Table, age=Absolute)


@bug
def age_ignored() -> list[Patch]:
    """A heartbeat counts from when it arrives."""

    class Ageless(FrameAge):
        def age_ms(self, sender_ms: int, now_ms: int) -> int:
            return 0

    return _table(Table, age=Ageless)


@bug
def minimum_never_decays() -> list[Patch]:
    """The least difference of two clocks is kept for ever, though they drift apart."""

    class Rigid(FrameAge):
        def age_ms(self, sender_ms: int, now_ms: int) -> int:
            self._arrival_ms = now_ms
            return super().age_ms(sender_ms, now_ms)

    return _table(Table, age=Rigid)


@bug
def minimum_forgotten_in_silence() -> list[Patch]:
    """The least difference is one of the last five seconds, so a stalled link's frames are fresh."""

    class Forgetful(FrameAge):
        def age_ms(self, sender_ms: int, now_ms: int) -> int:
            if now_ms - self._arrival_ms > 5_000:
                self.__init__(sender_ms, now_ms)  # type: ignore[misc]
            return super().age_ms(sender_ms, now_ms)

    return _table(Table, age=Forgetful)


@bug
def clock_stops_in_sleep() -> list[Patch]:
    """Ages are told by a clock that stands still while the machine sleeps."""
    return [(world.Clock, "boot_ms", lambda self: round(self.timer_s() * 1000))]


# -- the table -----------------------------------------------------------------------------------------------


@bug
def ttl_added_twice() -> list[Patch]:
    """A refresh adds a ttl to what is left of the last one."""

    class Generous(Table):
        def _heartbeat(self, key: int, said: int) -> str:
            record = self._records.get(key)
            left = record.deadline - self._tick if record else 0
            outcome = super()._heartbeat(key, said)
            if outcome == "accepted" and left > 0 and record is not None and record.deadline > self._tick:
                self._uncount(record)
                self._count(record, key, self._tick + self._ticks + left)
            return outcome

    return _table(Generous)


@bug
def tombstone_lost() -> list[Patch]:
    """A leave is forgotten at once, so an older heartbeat undoes it."""

    class Forgetful(Table):
        def _leave(self, key: int, age: int, grace: int) -> str:
            outcome = super()._leave(key, age, grace)
            record = self._records.get(key)
            if record is not None:
                record.left = None
            return outcome

    return _table(Forgetful)


@bug
def wheel_wraps_around() -> list[Patch]:
    """Ticks are kept modulo 128, and who was not swept comes back when the hand passes again."""

    class Wrapping(Table):
        def maintain(self, now_ms: int, lines: int) -> int:
            self.advance(now_ms)
            return 0

        def get(self, keys: Any, now_ms: int) -> bytes:
            packed = bytearray(super().get(keys, now_ms))
            for i, key in enumerate(checked_keys(keys)):
                record = self._records.get(key)
                if record and record.deadline and 0 < (record.deadline - self._tick) % 128 <= self._ticks:
                    packed[i // 4] &= ~(3 << i % 4 * 2)
                    packed[i // 4] |= ONLINE << i % 4 * 2
            return bytes(packed)

    return _table(Wrapping)


@bug
def truncated_id() -> list[Patch]:
    """Ids are cut to 32 bits."""
    short = (1 << 32) - 1
    return [
        (client, "key_of", lambda user, seed: key_of(user & short, seed)),
        (client, "keys_of", lambda users, seed: keys_of([user & short for user in users], seed)),
    ]


@bug
def counted_by_every_owner() -> list[Patch]:
    """A count adds up all copies."""

    def count(self: NodeCore, skipped: tuple[str, ...], now_ms: int) -> Any:
        reply = original(self, skipped, now_ms)
        return reply._replace(online=sum(self.table.count(now_ms)))

    original = NodeCore.count
    return [(NodeCore, "count", count)]


# -- nodes ---------------------------------------------------------------------------------------------------


@bug
def cold_says_offline() -> list[Patch]:
    """A node that has just started takes itself for one that has heard everybody."""

    def turn_cold(self: Any, now_ms: int) -> None:
        self._warm_at_ms = array("q", [now_ms]) * SLOTS
        self._note_times(now_ms)

    return [(Ownership, "turn_cold", turn_cold)]


@bug
def drained_too_early() -> list[Patch]:
    """A node that was removed says at once that it may be stopped."""
    return [(Ownership, "needed_ms", lambda self, now_ms: 0)]


@bug
def gained_slots_are_warm() -> list[Patch]:
    """A node that is given a slot speaks for it at once, and so do the old owners no more."""

    def follow(self: Any, topology: Any, now_ms: int) -> tuple[int, int]:
        before = self._warm_at_ms[:]
        changes = original(self, topology, now_ms)
        self._warm_at_ms = before
        self._note_times(now_ms)
        return changes

    original = Ownership.follow
    return [(Ownership, "follow", follow), *former_owners_forgotten()]


# -- the client ----------------------------------------------------------------------------------------------


@bug
def request_ids_swapped() -> list[Patch]:
    """Two reads that are under way get each other's answers."""

    def transmit(self: Any, request: Any) -> None:
        original(self, request)
        for other in list(self._in_flight.values()):
            if other is not request and (other.op, other.count) == (request.op, request.count):
                self._in_flight[request.id], self._in_flight[other.id] = other, request
                return

    original = Connection._transmit
    return [(Connection, "_transmit", transmit)]


@bug
def request_id_used_again() -> list[Patch]:
    """The id of a cancelled read is free again before its answer has come."""

    def take_id(self: Any) -> int:
        taken = {*self._in_flight, *self._queued}
        return next(number for number in range(1, 2048) if number not in taken)

    def forget(self: Any, request: Any) -> None:
        self._queued.pop(request.id, None)
        self._in_flight.pop(request.id, None)

    return [(Connection, "_take_id", take_id), (Connection, "forget", forget)]


@bug
def wrong_owner() -> list[Patch]:
    """Reads go to the owners of the slot next to the right one."""

    def targets(topology: Any, rank: int, unavailable: frozenset[int] = frozenset()) -> Any:
        right = read_targets(topology, rank, unavailable)
        return right[1:] + right[:1]

    return [(_read_call, "read_targets", targets)]


@bug
def union_forgotten() -> list[Patch]:
    """A read believes the first owner."""

    def plan(self: Any) -> None:
        original(self)
        del self._legs[1:]

    original = ReadCall._plan
    return [(ReadCall, "_plan", plan)]


@bug
def offline_wins() -> list[Patch]:
    """Offline from anyone is believed, whatever the others say."""

    def statuses(self: Any) -> bytes:
        verdicts = bytes(original(self))
        said = bytes(bits & Evidence.OFFLINE for bits in range(256))
        return bytes(
            Status.OFFLINE if said[bits] else verdict
            for bits, verdict in zip(self.evidence, verdicts, strict=True)
        )

    original: Any = ReadCall.statuses.fget  # type: ignore[attr-defined]
    return [(ReadCall, "statuses", property(statuses))]


@bug
def former_owners_forgotten() -> list[Patch]:
    """After a change of topology only the new owners are asked."""
    return [(Retired, "active", lambda self, now: ()), (Retired, "unsettled", lambda self, now: False)]


@bug
def epoch_compared_backwards() -> list[Patch]:
    """News of an older topology is followed, of a newer one not."""

    def note_epoch(self: Any, epoch: int, name: str) -> None:
        if epoch < self.topology.epoch:
            self.refresh(name)

    return [(Cluster, "note_epoch", note_epoch)]


@bug
def stale_topology_loop() -> list[Patch]:
    """Keys called moved are sent again at once, for as long as somebody calls them so."""

    def on_topology(self: Any, now: float) -> Any:
        self._topology = self._view.topology
        self.wants_topology = False
        if isinstance(self, WriteCall):
            self._moved = 0
            self._drop_pieces()
            return self._to_owners(self._keys, None, frozenset(), now)
        self.evidence[:] = bytes(len(self.evidence))
        self._drop_pieces()
        self._plan()
        return self._advance(now)

    return [
        (BatchCall, "_may_redirect", lambda self: True),
        (WriteCall, "on_topology", on_topology),
        (ReadCall, "on_topology", on_topology),
    ]


@bug
def failure_acknowledges() -> list[Patch]:
    """A heartbeat that an owner did not take counts as taken."""

    def on_failure(self: Any, piece: Any, error: Any, now: float) -> Any:
        if piece in self._pieces:
            for position in piece.positions:
                self.acks[position] += 1
        return original(self, piece, error, now)

    original = WriteCall.on_failure
    return [(WriteCall, "on_failure", on_failure)]


@bug
def batch_answers_shifted() -> list[Patch]:
    """Of single calls that share a frame, each gets its neighbour's answer."""

    def tell(waiters: Any, answers: Any) -> None:
        answers = iter(answers)
        waiters = list(waiters)
        if len(waiters) > 1:
            answers = [next(answers) for _ in waiters]
            answers = [*answers[1:], answers[0]]
        original(waiters, answers)

    original = _batcher._tell
    return [(_batcher, "_tell", tell)]


# -- watches -------------------------------------------------------------------------------------------------


@bug
def watch_goes_on_over_a_gap() -> list[Patch]:
    """Who reconnects takes what it knew for true, and only asks about users whom it knows nothing of."""

    def hear(self: Any, name: str, keys: Any, states: Any, causes: Any = None, **options: Any) -> None:
        if causes is None:
            new = [
                (key, state)
                for key, state in zip(keys, states, strict=False)
                if key in self and not self.look(key).version
            ]
            keys, states = [key for key, _ in new], [state for _, state in new]
        original(self, name, keys, states, causes, **options)

    original = WatchTable.hear
    return [(WatchTable, "hear", hear), (WatchTable, "mark", lambda *args, **options: None)]


@bug
def watch_trusts_silence() -> list[Patch]:
    """A stream that says nothing any more is taken for one on which nothing changes."""
    return [(Stream, "pass_time", lambda self, ms, ours, pulse_ms: None)]


@bug
def watch_hears_of_no_expiry() -> list[Patch]:
    """Nodes push what heartbeats and leaves change, and not what time does."""

    class Deaf(WatchSet):
        def _change(self, user: Any, key: int, state: int, cause: int) -> None:
            if cause != Cause.EXPIRED:
                super()._change(user, key, state, cause)
            user.state = state

    return [*_table(Table), (watchers, "WatchSet", Deaf)]
