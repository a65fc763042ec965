"""GET: ask owner after owner until a user is proven online or nobody is left to ask.

Reads go in *legs*. Leg r asks the r-th owner of each slot, nodes known to be down last, about the keys not
yet proven online; after the present owners come, for one ttl after a topology change, those that are owners
no more. A leg ends when all of its frames have an outcome or the patience is over, so that what is left goes
out in few frames. A *hedge*, at most one a call, begins the second leg before the first has ended; then the
call may end as soon as everybody is proven online. Each answer and each silence leaves a bit of evidence a
key; ``routing`` turns the byte into a status at the end. Invariant: a key is said offline only if every
present owner that could be reached was asked and has answered.
"""

from typing import TYPE_CHECKING, Final

from pulsering import kernel, messages
from pulsering._calls import BatchCall, ClusterView, Send
from pulsering.errors import Overloaded, PresenceError
from pulsering.routing import (
    Evidence,
    read_targets,
    reasons_of,
    retired_targets,
    statuses_of,
)
from pulsering.wire import Op

if TYPE_CHECKING:
    from array import array

    from pulsering.topology import Topology

__all__ = ["ReadCall"]

SETTLED: Final = 64
"""Evidence bit of our own: this key is not part of the present question."""

_PROVEN: Final = int(Evidence.ONLINE | SETTLED)
_INFORMED: Final = int(Evidence.OFFLINE | Evidence.ONLINE | Evidence.COLD | Evidence.MOVED | SETTLED)

_AGAIN_IF_MOVED: Final = bytes(
    0 if bits & Evidence.MOVED and not bits & Evidence.ONLINE else bits | SETTLED for bits in range(256)
)
"""Narrows the question to the moved keys, and forgets what was said about them under the old topology."""


class ReadCall(BatchCall):
    """A batch read; ``evidence`` and ``ages`` have a byte a key when ``done``."""

    op = Op.GET

    def __init__(self, view: ClusterView, keys: bytes, *, want_ages: bool = False) -> None:
        super().__init__(view, keys)
        self.evidence = bytearray(self.key_count)
        self.ages = bytearray(b"\xff" * self.key_count) if want_ages else None
        self._leg = 0
        self._legs: list[tuple[Topology, array[int]]] = []
        self._hedging: float | None = None  # when the patience would be over, while a hedge may still come
        self._hedged = False
        self._repeating = False

    def start(self, now: float) -> list[Send]:
        self._started = now
        self._plan()
        sends = self._advance(now)
        hedge = self._view.hedge
        if hedge is not None and self._topology.replicas > 1 and self.wake_at is not None:
            self._hedging = self.wake_at
            self.wake_at = min(now + hedge, self.wake_at)
        return sends

    def on_reply(self, token: int, reply: messages.GetReply, now: float) -> list[Send]:
        self.answered = True
        if reply.epoch > self._epoch_heard:
            self._epoch_heard = reply.epoch
        piece = self._take(token)
        if piece is None:
            return []
        kernel.merge_states(self.evidence, piece.positions, reply.states)
        if self.ages is not None:
            kernel.merge_ages(self.ages, piece.positions, reply.ages)
        return self._continue(now)

    def on_failure(self, token: int, error: PresenceError, now: float) -> list[Send]:
        piece = self._take_failed(token, error)
        if piece is None:
            return []
        bit = Evidence.OVERLOADED if isinstance(error, Overloaded) else Evidence.UNREACHABLE
        kernel.mark(self.evidence, piece.positions, bit)
        return self._continue(now)

    def on_wake(self, now: float) -> list[Send]:
        self.wake_at = None
        if self._repeating:
            self._repeating = False
            return self._repeat(now)
        if self._hedging is not None and now < self._hedging:
            return self._hedge()
        if self._leg < len(self._legs) and not self._view.budget.take():
            self.wake_at = now + self._view.patience
            return []
        self._lose_patience()
        return self._advance(now)

    def expire(self, now: float) -> None:
        self.expired = True
        self._lose_patience()
        self._finish()

    def on_topology(self, now: float) -> list[Send]:
        self.wants_topology = False
        if self._view.topology.epoch <= self._topology.epoch:
            self._finish()
            return []
        self.evidence[:] = self.evidence.translate(_AGAIN_IF_MOVED)
        self._topology = self._view.topology
        self._drop_pieces()
        self._plan()
        return self._advance(now)

    def outage(self, now: float) -> PresenceError | None:
        """An error if not one node of the cluster answers; else the evidence speaks, if only of unknowns."""
        if self.answered or not self.key_count or not self._all_troubled():
            return None
        return self._no_answer(now)

    @property
    def statuses(self) -> bytes:
        """A ``Status`` a key."""
        return statuses_of(self.evidence)

    @property
    def reasons(self) -> bytes:
        """A ``Reason`` a key."""
        return reasons_of(self.evidence)

    def _plan(self) -> None:
        topology, retired = self._topology, self._view.retired
        unavailable = self._view.unavailable()
        self._leg = 0
        self._legs = [
            (topology, read_targets(topology, rank, unavailable)) for rank in range(topology.replicas)
        ]
        if retired is not None:
            self._legs += [
                (retired, retired_targets(retired, topology, rank)) for rank in range(retired.replicas)
            ]

    def _continue(self, now: float) -> list[Send]:
        if self._hedged and not self._unproven()[0]:
            self._finish()
            return []
        return [] if self._fresh or self._repeating else self._advance(now)

    def _hedge(self) -> list[Send]:
        """The next leg's frames while this one still has its patience, if the budget allows."""
        self.wake_at, self._hedging = self._hedging, None
        if self._leg != 1 or not self._view.budget.take():
            return []
        self._hedged = True
        names, targets = self._legs[self._leg]
        self._leg += 1
        return self._split(names, targets, *self._unproven())

    def _unproven(self) -> "tuple[bytes, array[int]]":
        """The keys of the present question that nobody has proven online."""
        return kernel.select(self._keys, self.evidence, _PROVEN)

    def _advance(self, now: float) -> list[Send]:
        """The next leg that has anybody to ask; when there is none, a repeat, a redirect, or the end."""
        if self.wants_topology:
            return []
        while self._leg < len(self._legs):
            names, targets = self._legs[self._leg]
            self._leg += 1
            if self._leg == 1 and not self._redirected:
                sends = self._split(names, targets, self._keys, None)
            else:
                sends = self._split(names, targets, *kernel.select(self._keys, self.evidence, _PROVEN))
            if sends:
                self.wake_at = now + self._view.patience
                return sends
        return self._conclude(now)

    def _conclude(self, now: float) -> list[Send]:
        self.wake_at = None
        if self._awaits_more():
            return []
        undecided, positions = kernel.select(self._keys, self.evidence, _INFORMED)
        if undecided and self._may_repeat(undecided, positions):
            self.wake_at = now + self._repeat_delay()
            self._repeating = True
            return []
        if self._may_redirect() and _any_moved(self.evidence):
            self._redirected = True
            self.wants_topology = True
            return []
        self._finish()
        return []

    def _awaits_more(self) -> bool:
        """Whether a late answer may still prove somebody online; else only the deadline ends the wait."""
        return any(
            not self.evidence[position] & Evidence.ONLINE
            for piece in self._pieces.values()
            for position in piece.positions
        )

    def _finish(self) -> None:
        for piece in self._pieces.values():
            kernel.mark(self.evidence, piece.positions, Evidence.SILENT)
        super()._finish()

    def _may_repeat(self, keys: bytes, positions: "array[int]") -> bool:
        if self._repeats + 1 >= self._view.attempts:
            return False
        hopeless = self._view.hopeless()
        targets = read_targets(self._topology, 0, self._view.unavailable())
        pieces = kernel.partition(keys, targets, positions, self._view.keys_per_frame)
        return any(index not in hopeless for index, _, _ in pieces) and self._view.budget.take()

    def _repeat(self, now: float) -> list[Send]:
        keys, positions = kernel.select(self._keys, self.evidence, _INFORMED)
        unavailable = self._view.unavailable()
        targets = read_targets(self._topology, 0, unavailable)
        sends = self._split(self._topology, targets, keys, positions, without=unavailable)
        if not sends:
            return self._conclude(now)
        self.wake_at = now + self._view.patience
        return sends

    def _send(self, node: str, keys: bytes, positions: "array[int]") -> Send:
        want_ages = self.ages is not None
        body = messages.encode_keys_request(
            self._topology.epoch, messages.WANT_AGES if want_ages else 0, keys
        )
        return self._frame(node, body, positions, want_ages=want_ages)


def _any_moved(evidence: bytearray) -> bool:
    """Whether a key of the present question was called moved and not proven online elsewhere."""
    moved = bytes(bool(bits & Evidence.MOVED and not bits & Evidence.ONLINE) for bits in range(256))
    return any(moved[bits] for bits in set(evidence))
