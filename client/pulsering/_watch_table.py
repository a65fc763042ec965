"""The users that a client watches, and what their owners last said of each: merged as a read merges it.

A table of columns. For each *leg* of a read, the r-th present or former owner of a slot, there is a byte a
user with what that node last said, or why it says nothing. ``routing`` turns the bytes of all legs into one
status; where that is another one than was shown, the readers who watch the user are told. Bytes are merged a
column at a time, so what concerns a hundred thousand users at once, a lost node or a new topology, costs no
more than a few passes over memory. Pure: no stream, loop or clock.

Invariant: a status that is shown follows from what is in the legs now, or an owner has been asked whose
answer is on the way: until it is there, what was shown stays, but for an *online*, which needs nobody else.
"""

import re
import sys
from array import array
from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from pulsering import kernel, routing
from pulsering.ids import SLOT_SHIFT
from pulsering.routing import Evidence
from pulsering.status import Cause, Status
from pulsering.topology import NO_NODE, Topology

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from pulsering._watch_reader import Reader

__all__ = [
    "ABSENT",
    "COLD",
    "MOVED",
    "OVERLOADED",
    "PENDING",
    "SILENT",
    "UNREACHABLE",
    "State",
    "WatchTable",
    "keys_in",
    "packed",
    "unpacked",
]

ABSENT, COLD, MOVED = 0, 2, 3
"""What a leg holds below ``PENDING`` is a node's own word, its 2-bit state of the user."""
PENDING: Final = 4
"""It was asked, and its answer is on the way."""
UNREACHABLE: Final = 5
SILENT: Final = 6
"""It was asked on a connection that works, and does not answer."""
OVERLOADED: Final = 7
NOT_ASKED: Final = 8
"""Not an owner: the slot has the owners that it had."""

_ASKED: Final = 64  # what routing.both needs to see of former owners
_HELD: Final = 256  # codes of what a leg holds fit a translate table


def _translation(meaning: "dict[int, int]") -> bytes:
    return bytes(meaning.get(code, 0) for code in range(_HELD))


_EVIDENCE = {
    ABSENT: Evidence.OFFLINE,
    1: Evidence.ONLINE,
    COLD: Evidence.COLD,
    MOVED: Evidence.MOVED,
    UNREACHABLE: Evidence.UNREACHABLE,
    SILENT: Evidence.SILENT,
    OVERLOADED: Evidence.OVERLOADED,
}
_NOW = _translation({code: int(bit) for code, bit in _EVIDENCE.items()})
_THEN = _translation({PENDING: _ASKED, **{code: bit | _ASKED for code, bit in _EVIDENCE.items()}})
_IS_PENDING = _translation({PENDING: 0xFF})

_REASON_STEP: Final = 4  # a verdict in one byte: status + 4 * reason
_NOTHING: Final = 255  # no verdict yet
_VERDICTS = bytes(
    status + _REASON_STEP * reason for status, reason in zip(routing.STATUSES, routing.REASONS, strict=True)
)
_CAUSES = frozenset(Cause)
_IS_NO_PROOF = bytes(0 if verdict == Status.ONLINE else 0xFF for verdict in range(256))
_DIFFERENT = re.compile(rb"[^\0]")

_FOUR_STATES = [bytes(packed >> shift & 3 for shift in (0, 2, 4, 6)) for packed in range(256)]

Readers: TypeAlias = "Reader | dict[Reader, None]"
"""Who watches a user: most are watched by one."""


class State(NamedTuple):
    """What is shown of a user, as plain numbers; ``version`` counts from 1."""

    status: int
    reason: int
    cause: int
    version: int


class _Leg:
    """The owners of one rank, now or under an old topology, and what they say: a byte a user."""

    def __init__(
        self, topology: Topology, targets: "array[int]", keys: "array[int]", *, former: bool
    ) -> None:
        self.topology = topology
        self.targets = targets
        self.former = former
        self.held = bytearray()
        self.extend(keys)

    def extend(self, keys: Iterable[int]) -> None:
        """Make room for more users."""
        if self.former:
            asked = (self.targets[key >> SLOT_SHIFT] != NO_NODE for key in keys)
            self.held += bytes(PENDING if each else NOT_ASKED for each in asked)
        else:
            self.held += bytes((PENDING,)) * len(keys)  # type: ignore[arg-type]


class WatchTable:
    """All watched users of one client."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.retired: tuple[Topology, ...] = ()
        self.unsettled = False
        """Whether there are owners whom nobody can ask: then nobody is offline."""
        self._keys = array("Q")
        self._rows: dict[int, int] = {}
        self._now = self._present_legs()
        self._then: dict[int, list[_Leg]] = {}  # by the epoch of the topology
        self._shown = bytearray()
        self._causes = bytearray()
        self._versions = array("I")
        self._readers: list[Readers] = []
        self._overflowed: dict[Reader, None] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: int) -> bool:
        return key in self._rows

    @property
    def keys(self) -> bytes:
        """The packed keys of all users."""
        return packed(self._keys)

    def look(self, key: int) -> State:
        """What is shown of a user that has a state."""
        row = self._rows[key]
        reason, status = divmod(self._shown[row], _REASON_STEP)
        return State(status, reason, self._causes[row], self._versions[row])

    # --- Who is watched ------------------------------------------------------------------------------------

    def add(self, keys: Sequence[int], reader: "Reader") -> list[int]:
        """A reader watches more users; returns those of whom no owner was asked yet."""
        rows, readers, fresh = self._rows, self._readers, []
        for key in keys:
            row = rows.get(key)
            if row is None:
                rows[key] = len(readers)
                readers.append(reader)
                fresh.append(key)
                continue
            others = readers[row]
            if isinstance(others, dict):
                others[reader] = None
            else:
                readers[row] = {others: None, reader: None}
            if self._shown[row] != _NOTHING:
                reader.note(key)
        self._keys.extend(fresh)
        self._shown += bytes((_NOTHING,)) * len(fresh)
        self._causes += bytes(len(fresh))
        self._versions.extend([0] * len(fresh))
        for leg in self._legs:
            leg.extend(fresh)
        return fresh

    def drop(self, keys: Iterable[int], reader: "Reader") -> list[int]:
        """A reader watches some users no more; returns those whom nobody watches any more."""
        gone = []
        for key in keys:
            row = self._rows[key]
            readers = self._readers[row]
            if isinstance(readers, dict):
                del readers[reader]
                if len(readers) == 1:
                    [self._readers[row]] = readers
            else:
                self._remove(key, row)
                gone.append(key)
        return gone

    def _remove(self, key: int, row: int) -> None:
        """The last user takes the place of the one who goes."""
        del self._rows[key]
        last = self._keys.pop()
        if last != key:
            self._keys[row] = last
            self._rows[last] = row
        for column in (self._shown, self._causes, self._versions, self._readers):
            _move_last(column, row)
        for leg in self._legs:
            _move_last(leg.held, row)

    def take_overflowed(self) -> list["Reader"]:
        """Readers that do not keep up, each told once."""
        overflowed, self._overflowed = list(self._overflowed), {}
        return overflowed

    @property
    def _legs(self) -> "Iterator[_Leg]":
        yield from self._now
        for legs in self._then.values():
            yield from legs

    # --- Whom to ask ---------------------------------------------------------------------------------------

    def adopt(self, topology: Topology, retired: tuple[Topology, ...]) -> bool:
        """Follow these topologies; whether there are owners now who have to be asked, all of them."""
        old, self.topology, self.retired = self.topology, topology, retired
        fresh = (topology.epoch, topology.hash) != (old.epoch, old.hash)
        if fresh:
            self._now = self._present_legs()
            self._then = {}
        before, self._then = self._then, {}
        for former in retired:
            if former.epoch < topology.epoch:
                fresh = fresh or former.epoch not in before
                self._then[former.epoch] = before.get(former.epoch) or self._former_legs(former)
        return fresh

    def _present_legs(self) -> list[_Leg]:
        topology = self.topology
        return [
            _Leg(topology, topology.column(rank), self._keys, former=False)
            for rank in range(topology.replicas)
        ]

    def _former_legs(self, former: Topology) -> list[_Leg]:
        return [
            _Leg(former, routing.retired_targets(former, self.topology, rank), self._keys, former=True)
            for rank in range(former.replicas)
        ]

    def owners_of(self, keys: bytes, chunk: int) -> "Iterator[tuple[str, bytes]]":
        """Whom to ask about packed keys: a node and at most ``chunk`` of them, each owner of each user once.

        An owner under two old topologies may be named twice.
        """
        for index, part, _ in kernel.partition(keys, self.topology.owners, None, chunk):
            yield self.topology.nodes[index].name, part
        for legs in self._then.values():
            former = legs[0].topology
            gone = routing.gone_owners(former, self.topology)
            for index, part, _ in kernel.partition(keys, gone, None, chunk):
                yield former.nodes[index].name, part

    # --- What is said --------------------------------------------------------------------------------------

    def hear(
        self,
        node: str,
        keys: Iterable[int],
        states: Iterable[int],
        causes: bytes | None = None,
        *,
        disowned: tuple[int, int] = (MOVED, ABSENT),
    ) -> None:
        """A node's word about some users: the answer it was asked for, or, with ``causes``, a change.

        A change counts only for users of whom the node has given its word before. ``disowned`` is what
        *moved* stands for where the node is an owner, and where it was one.
        """
        rows, places = self._rows, self._places(node, disowned)
        heard, why = array("I"), bytearray()
        for index, (key, state) in enumerate(zip(keys, states, strict=False)):
            row = rows.get(key)
            if row is None:
                continue
            slot = key >> SLOT_SHIFT
            for held, targets, target, moved in places:
                if targets[slot] == target and (causes is None or held[row] < PENDING):
                    held[row] = state if state != MOVED else moved
            heard.append(row)
            why.append(0 if causes is None else causes[index])
        self._settle(heard, why)

    def mark(self, node: str, keys: Iterable[int], code: int, *, pending_only: bool = False) -> None:
        """Note about some users why a node gives no word. ``settle`` comes when all is noted."""
        rows, places = self._rows, self._places(node, (MOVED, MOVED))
        for key in keys:
            row = rows.get(key)
            if row is not None:
                slot = key >> SLOT_SHIFT
                for held, targets, target, _ in places:
                    if targets[slot] == target and (not pending_only or held[row] == PENDING):
                        held[row] = code

    def settle(self) -> None:
        """Show what follows from what was marked, for all users."""
        self._settle(None, b"")

    def _places(self, node: str, disowned: tuple[int, int]) -> "list[tuple[bytearray, array[int], int, int]]":
        """Where a node's word belongs: legs' bytes and targets, its index there, what *moved* means."""
        places = []
        for leg in self._legs:
            try:
                index = leg.topology.index_of(node)
            except KeyError:
                continue
            places.append((leg.held, leg.targets, index, disowned[leg.former]))
        return places

    # --- What follows --------------------------------------------------------------------------------------

    def _settle(self, rows: "array[int] | None", causes: bytes | bytearray) -> None:
        shown, size = self._shown, len(self._shown) if rows is None else len(rows)
        verdicts, unsure = self._verdicts(rows, size)
        before = shown if rows is None else bytes(map(shown.__getitem__, rows))
        wait = int.from_bytes(unsure, "little")
        differ = (int.from_bytes(verdicts, "little") ^ int.from_bytes(before, "little")) & ~wait
        for match in _DIFFERENT.finditer(differ.to_bytes(size, "little")):
            place = match.start()
            row = place if rows is None else rows[place]
            if shown[row] != verdicts[place]:  # a node may have named a user twice
                shown[row] = verdicts[place]
                self._tell(row, causes[place] if causes else 0)

    def _verdicts(self, rows: "array[int] | None", size: int) -> tuple[bytes, bytes]:
        """A verdict for each of these users, and 0xFF where it has to wait for an answer on the way."""
        now, pending = self._merged(self._now, rows, _NOW)
        evidence = now.to_bytes(size, "little")
        for legs in self._then.values():
            then, late = self._merged(legs, rows, _THEN)
            evidence = routing.both(evidence, then.to_bytes(size, "little"))
            pending |= late
        if self.unsettled:
            evidence = evidence.translate(routing.UNSETTLED)
        verdicts = evidence.translate(_VERDICTS)
        unsure = pending & int.from_bytes(verdicts.translate(_IS_NO_PROOF), "little")
        return verdicts, unsure.to_bytes(size, "little")

    @staticmethod
    def _merged(legs: "list[_Leg]", rows: "array[int] | None", bits: bytes) -> tuple[int, int]:
        """The evidence of some legs in one, and 0xFF where it has an answer on the way: bytes as a number."""
        evidence = pending = 0
        for leg in legs:
            held = leg.held if rows is None else bytes(map(leg.held.__getitem__, rows))
            evidence |= int.from_bytes(held.translate(bits), "little")
            pending |= int.from_bytes(held.translate(_IS_PENDING), "little")
        return evidence, pending

    def _tell(self, row: int, cause: int) -> None:
        self._versions[row] += 1
        definite = self._shown[row] < _REASON_STEP and self._shown[row] != Status.UNKNOWN
        self._causes[row] = cause if definite and cause in _CAUSES else 0
        readers, key = self._readers[row], self._keys[row]
        for reader in readers if isinstance(readers, dict) else (readers,):
            reader.note(key)
            if reader.overflowed:
                self._overflowed[reader] = None


def unpacked(states: bytes) -> Iterator[int]:
    """Each of some packed states of 2 bits; up to three too many at the end."""
    return chain.from_iterable(map(_FOUR_STATES.__getitem__, states))


def packed(keys: Iterable[int]) -> bytes:
    """Keys as they travel: 8 bytes each, little-endian."""
    column = array("Q", keys)
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()


def keys_in(travelled: "Buffer") -> "array[int]":
    """Packed keys as numbers."""
    column = array("Q")
    column.frombytes(travelled)
    if sys.byteorder == "big":
        column.byteswap()
    return column


def _move_last(column: "MutableSequence[Any]", row: int) -> None:
    last = column.pop()
    if row < len(column):
        column[row] = last
