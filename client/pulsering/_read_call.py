"""GET: ask owner after owner until a user is proven online or nobody is left to ask.

Reads go in *legs*. Leg r asks the r-th owner of each slot, nodes known to be down last, about the keys not
yet proven online; after the present owners come, for one ttl after a change of topology, the former owners of
slots that changed hands, whose answers are evidence of their own (``routing.both``). A leg ends when all of
its frames have an outcome or the patience is over, so that what is left goes out in few frames. A *hedge*, at
most one a call, begins the second leg before the first has ended; then the call may end as soon as everybody
is proven online. Each answer and each silence leaves a bit of evidence a key; ``routing`` turns the byte into
a status at the end. Invariant: a key is said offline only if every owner, present or former, that could be
reached was asked and has answered.
"""

from typing import TYPE_CHECKING, Final, NamedTuple

from pulsering import kernel, messages, routing
from pulsering._calls import BatchCall, ClusterView, Send
from pulsering._last_seen import SEEN_NONE, WANT_LAST_SEEN, GetSeenReply
from pulsering.errors import NodeBusy, Overloaded, PresenceError
from pulsering.routing import Evidence, read_targets, retired_targets
from pulsering.status import Reason
from pulsering.wire import Op

if TYPE_CHECKING:
    from array import array

    from pulsering.topology import Topology

__all__ = ["ReadCall"]

SETTLED: Final = 64
"""Evidence bit of our own: this key is not part of the present question; of former owners: it was asked."""

_PROVEN: Final = int(Evidence.ONLINE | SETTLED)
_INFORMED: Final = int(Evidence.OFFLINE | Evidence.ONLINE | Evidence.COLD | Evidence.MOVED | SETTLED)

_AGAIN: Final = bytes(bits | SETTLED if bits & Evidence.ONLINE else 0 for bits in range(256))
"""Narrows the question to those not proven online, and forgets what was said of them under the old topology:
who was an owner then may have been told of nobody since."""


class Wait(NamedTuple):
    """What a node said about when to ask again: of which keys, why, and the seconds."""

    positions: "array[int]"
    reason: Reason
    seconds: float


class ReadCall(BatchCall):
    """A batch read; ``evidence`` and ``ages`` have a byte a key when ``done``.

    With ``strict``, offline is only what every single owner says: one that is cold or cannot be reached makes
    it unknown.
    """

    op = Op.GET

    def __init__(
        self,
        view: ClusterView,
        keys: bytes,
        *,
        want_ages: bool = False,
        want_last_seen: bool = False,
        strict: bool = False,
    ) -> None:
        super().__init__(view, keys)
        self.evidence = bytearray(self.key_count)
        self.ages = bytearray(b"\xff" * self.key_count) if want_ages else None
        self.last_seen = bytearray(b"\xff" * 4 * self.key_count) if want_last_seen else None
        """Packed u32 a key: the least number of seconds that an owner said."""
        self.unheard = bytearray(b"\xff" * 4 * self.key_count) if want_last_seen else None
        """2^32 - 1 less the seconds that an owner has listened, so that the least stands for the longest."""
        self.waits: list[Wait] = []
        """Of which unknown keys it was said when to ask again."""
        self._strict = strict
        self._settled: bytes | None = None
        self._leg = 0
        self._legs: list[tuple[Topology, array[int], int]] = []
        """Whom a leg names, the node of each slot, and whose evidence it is: 0 for present owners'."""
        self._former: list[bytearray] = []
        """The evidence of each retired topology's owners."""
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

    def on_reply(self, piece: Send, reply: messages.GetReply | GetSeenReply, now: float) -> list[Send]:
        self.answered = True
        if reply.epoch > self._epoch_heard:
            self._epoch_heard = reply.epoch
        if not self._take(piece):
            return []
        former = piece.former
        states = reply.states
        if former:
            disowned = routing.DISOWNED_IS_COLD if reply.warming_ms else routing.DISOWNED_IS_ABSENT
            states = states.translate(disowned)
        elif reply.epoch < self._topology.epoch:
            states = states.translate(routing.DISOWNED_IS_COLD)
        kernel.merge_states(self._evidence_of(former), piece.positions, states)
        if former:
            self._prove(self._former[former - 1])
        if reply.warming_ms:
            self.waits.append(Wait(piece.positions, Reason.COLD, reply.warming_ms / 1000))
        if self.ages is not None:
            kernel.merge_ages(self.ages, piece.positions, reply.ages)
        if isinstance(reply, GetSeenReply):
            self._merge_last_seen(piece, reply)
        return self._continue(now)

    def _merge_last_seen(self, piece: Send, reply: GetSeenReply) -> None:
        assert self.last_seen is not None
        assert self.unheard is not None
        kernel.merge_seconds(self.last_seen, piece.positions, reply.last_seen)
        if not piece.former:  # a former owner has long stopped to listen
            unheard = (SEEN_NONE - reply.listened_s).to_bytes(4, "little")
            kernel.merge_seconds(self.unheard, piece.positions, unheard * piece.count)

    def on_failure(self, piece: Send, error: PresenceError, now: float) -> list[Send]:
        if not self._take_failed(piece, error):
            return []
        bit = Evidence.OVERLOADED if isinstance(error, Overloaded) else Evidence.UNREACHABLE
        kernel.mark(self._evidence_of(piece.former), piece.positions, bit)
        if isinstance(error, NodeBusy) and error.retry_after:
            self.waits.append(Wait(piece.positions, Reason.OVERLOADED, error.retry_after))
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
        self._leave_unasked()
        self._finish()

    def _leave_unasked(self) -> None:
        """The legs that there was no time for: their owners may know better than those who answered."""
        nodes = self._view.topology.nodes
        down = {nodes[index].name for index in self._view.unavailable()}
        for names, targets, former in self._legs[self._leg :]:
            keys, positions = self._unproven()
            for index, _, places in kernel.partition(keys, targets, positions, self._view.keys_per_frame):
                bit = Evidence.UNREACHABLE if names.nodes[index].name in down else Evidence.SILENT
                kernel.mark(self._evidence_of(former), places, bit | (SETTLED if former else 0))

    def on_topology(self, now: float) -> list[Send]:
        self.wants_topology = False
        if self._view.topology.epoch <= self._topology.epoch:
            self._finish()
            return []
        self.evidence[:] = self.evidence.translate(_AGAIN)
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
        return routing.statuses_of(self._all_evidence())

    @property
    def reasons(self) -> bytes:
        """A ``Reason`` a key."""
        return routing.reasons_of(self._all_evidence())

    def retry_after(self) -> list[float | None]:
        """Seconds until an owner will know, a key; None where the status is known or no node said when."""
        seconds: list[float | None] = [None] * self.key_count
        reasons = self.reasons
        for positions, reason, wait in self.waits:
            for position in positions:
                known = seconds[position]
                if reasons[position] == reason and (known is None or wait < known):
                    seconds[position] = wait
        return seconds

    def _all_evidence(self) -> bytes:
        """The evidence of everybody who was asked, under this call's rule and the view's doubts."""
        if self._settled is not None:
            return self._settled
        evidence = bytes(self.evidence)
        for former in self._former:
            then: bytes | bytearray = former
            if self._strict:
                evidence, then = evidence.translate(routing.STRICT), then.translate(routing.STRICT)
            evidence = routing.both(evidence, then)
        if self._strict:
            evidence = evidence.translate(routing.STRICT)
        if self._view.unsettled:
            evidence = evidence.translate(routing.UNSETTLED)
        if self.done:
            self._settled = evidence
        return evidence

    def _plan(self) -> None:
        topology = self._topology
        retired = self._retired_before(topology)
        unavailable = self._view.unavailable()
        self._leg = 0
        self._legs = [
            (topology, read_targets(topology, rank, unavailable), 0) for rank in range(topology.replicas)
        ]
        self._former = []
        for old in retired:
            self._former.append(bytearray(self.key_count))
            former = len(self._former)
            self._legs += [
                (old, retired_targets(old, topology, rank), former) for rank in range(old.replicas)
            ]

    def _evidence_of(self, former: int) -> bytearray:
        return self._former[former - 1] if former else self.evidence

    def _prove(self, former: bytearray) -> None:
        """Whom a former owner has proven online nobody needs to be asked about."""
        proven = int.from_bytes(former.translate(routing.ONLINE_ONLY), "little")
        if proven:
            merged = int.from_bytes(self.evidence, "little") | proven
            self.evidence[:] = merged.to_bytes(self.key_count, "little")

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
        return self._next_leg(*self._unproven())

    def _next_leg(self, keys: bytes, positions: "array[int] | None") -> list[Send]:
        """The frames of the next leg, about these keys."""
        names, targets, former = self._legs[self._leg]
        self._leg += 1
        sends = self._split(names, targets, keys, positions)
        if former:
            for send in sends:
                send.former = former
                kernel.mark(self._former[former - 1], send.positions, SETTLED)
        return sends

    def _unproven(self) -> "tuple[bytes, array[int]]":
        """The keys of the present question that nobody has proven online."""
        return kernel.select(self._keys, self.evidence, _PROVEN)

    def _advance(self, now: float) -> list[Send]:
        """The next leg that has anybody to ask; when there is none, a repeat, a redirect, or the end."""
        if self.wants_topology:
            return []
        while self._leg < len(self._legs):
            first = self._leg == 0 and not self._redirected
            sends = self._next_leg(self._keys, None) if first else self._next_leg(*self._unproven())
            if sends:
                self.wake_at = now + self._view.patience
                return sends
        return self._conclude(now)

    def _conclude(self, now: float) -> list[Send]:
        self.wake_at = None
        if self._pieces and self._awaits_more():
            return []
        undecided, positions = kernel.select(self._keys, self.evidence, _INFORMED)
        if undecided and self._may_repeat(undecided, positions):
            self.wake_at = now + self._repeat_delay()
            self._repeating = True
            return []
        if self._may_redirect() and self._unproven()[0]:
            self._redirected = True
            self.wants_topology = True
            return []
        self._finish()
        return []

    def _awaits_more(self) -> bool:
        """Whether a late answer may still prove somebody online; else only the deadline ends the wait."""
        return any(
            not self.evidence[position] & Evidence.ONLINE
            for piece in self._pieces
            for position in piece.positions
        )

    def _finish(self) -> None:
        for piece in self._pieces:
            kernel.mark(self._evidence_of(piece.former), piece.positions, Evidence.SILENT)
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
        want = messages.WANT_AGES if want_ages else 0
        want_last_seen = self.last_seen is not None and self._view.remembers(node)
        if want_last_seen:
            want |= WANT_LAST_SEEN
        body = messages.encode_keys_request(self._topology.epoch, want, keys)
        piece = self._frame(node, body, positions)
        piece.want_ages, piece.want_last_seen = want_ages, want_last_seen
        return piece
