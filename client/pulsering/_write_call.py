"""HEARTBEAT and LEAVE: every owner of each slot gets the keys; one that took them acknowledges them.

All owners are sent to at once. The call ends when every frame has an outcome; once each key is acknowledged
it waits for the others only within the patience, then reports them as missing. What was sent is not taken
back: a slow owner's copy still arrives. So a dead second owner costs the patience until its circuit opens,
then nothing, and an acknowledgement always means that an owner has the key.

For one ttl after a change of topology those who owned the slot before are told as well: a reader that has not
heard of the change asks nobody else. What they say of it counts for nothing, as they may have heard of it.
Invariant: a key counts as acknowledged only if a node took the whole frame it was in.
"""

from typing import TYPE_CHECKING

from pulsering import kernel, messages
from pulsering._calls import BatchCall, ClusterView, Send
from pulsering.errors import NodeUnavailable, Overloaded, PresenceError
from pulsering.reports import HeartbeatReport
from pulsering.routing import gone_owners, kept_and_gained
from pulsering.wire import Op

if TYPE_CHECKING:
    from array import array

__all__ = ["WriteCall"]

_ANY: int = 0xFF


class WriteCall(BatchCall):
    """A batch write; ``acks`` has a byte a key, the number of owners that took it, when ``done``."""

    _stale = 0
    _refused = 0
    _moved = 0
    _repeating = False

    def __init__(self, view: ClusterView, keys: bytes, op: Op, *, grace_ms: int = 0) -> None:
        super().__init__(view, keys)
        self.op = op
        self.acks = bytearray(self.key_count)
        self._grace_ms = grace_ms

    def start(self, now: float) -> list[Send]:
        self._started = now
        return self._to_owners(self._keys, None, frozenset(), now)

    def on_reply(self, piece: Send, reply: messages.WriteReply, now: float) -> list[Send]:
        self.answered = True
        if reply.epoch > self._epoch_heard:
            self._epoch_heard = reply.epoch
        if not self._take(piece):
            return []
        if piece.former:
            return self._continue(now)
        if reply.accepted == piece.count:
            kernel.tally(self.acks, piece.positions)
        else:
            self._stale += reply.stale
            self._refused += reply.refused
            self._moved += reply.moved
        return self._continue(now)

    def on_failure(self, piece: Send, error: PresenceError, now: float) -> list[Send]:
        return self._continue(now) if self._take_failed(piece, error) else []

    def on_wake(self, now: float) -> list[Send]:
        self.wake_at = None
        if self._repeating:
            self._repeating = False
            missing = kernel.select(self._keys, self.acks, _ANY)
            return self._to_owners(*missing, self._view.unavailable(), now)
        self._lose_patience()
        return self._conclude(now)

    def expire(self, now: float) -> None:
        self.expired = True
        self._lose_patience()
        self._finish()

    def on_topology(self, now: float) -> list[Send]:
        self.wants_topology = False
        if self._view.topology.epoch <= self._topology.epoch:
            self._finish()
            return []
        self._topology = self._view.topology
        self._moved = 0
        self._drop_pieces()
        return self._to_owners(*kernel.select(self._keys, self.acks, _ANY), frozenset(), now)

    @property
    def report(self) -> HeartbeatReport:
        """What became of the batch."""
        acks, total = self.acks, self.key_count
        full = acks.count(self._topology.replicas)
        accepted = total if full == total else total - acks.count(0)
        reduced = 0 if full == accepted else sum(map(acks.count, range(1, self._topology.replicas)))
        return HeartbeatReport(total, accepted, reduced, self._stale, self._refused, self._moved)

    def failure(self, now: float) -> PresenceError:
        """Why a key has no acknowledgement."""
        op = self.op.name
        if self._refused:
            return Overloaded(f"{op}: refused as a new user beyond a node's limit", op=op)
        if self._stale:
            return NodeUnavailable(f"{op}: it reached its owners more than a ttl after it was said", op=op)
        if self._moved:
            return NodeUnavailable(f"{op}: the nodes reached say that they do not own the user's slot", op=op)
        return self._no_answer(now)

    def _to_owners(
        self, keys: bytes, positions: "array[int] | None", without: frozenset[int], now: float
    ) -> list[Send]:
        sends = [
            self._send(self._topology.nodes[index].name, part, places)
            for index, part, places in self._frames(keys, positions)
            if index not in without
        ]
        if not sends:
            return self._conclude(now)
        self.wake_at = now + self._view.patience
        return sends + self._to_former_owners(keys, positions)

    def _to_former_owners(self, keys: bytes, positions: "array[int] | None") -> list[Send]:
        sends = []
        for number, old in enumerate(self._retired_before(self._topology), 1):
            gone = gone_owners(old, self._topology)
            for index, part, places in kernel.partition(keys, gone, positions, self._view.keys_per_frame):
                send = self._send(old.nodes[index].name, part, places)
                send.former = number
                sends.append(send)
        return sends

    def _frames(self, keys: bytes, positions: "array[int] | None") -> "list[tuple[int, bytes, array[int]]]":
        """The keys of each node, in whichever rank it owns them, in as few frames as hold them."""
        topology, size = self._topology, self._view.keys_per_frame
        retired = self._retired_before(topology)
        if not retired:
            return kernel.partition(keys, topology.owners, positions, size)
        kept, gained = kept_and_gained(topology, retired)
        frames = kernel.partition(keys, kept, positions, size)
        return frames + kernel.partition(keys, gained, positions, size)

    def _continue(self, now: float) -> list[Send]:
        return [] if self._fresh or self._repeating else self._conclude(now)

    def _conclude(self, now: float) -> list[Send]:
        """Nobody is left to be patient with: the end, a redirect, a repeat, or waiting for who is late."""
        self.wake_at = None
        if self.wants_topology:
            return []
        if 0 not in self.acks:
            self._finish()
        elif self._moved and self._may_redirect():
            self._redirected = True
            self.wants_topology = True
        elif not self._pieces:
            if self._may_repeat():
                self._repeating = True
                self.wake_at = now + self._repeat_delay()
            else:
                self._finish()
        return []

    def _may_repeat(self) -> bool:
        if not self.problems or self._repeats + 1 >= self._view.attempts:
            return False
        missing = self._frames(*kernel.select(self._keys, self.acks, _ANY))
        hopeless = self._view.hopeless()
        return any(index not in hopeless for index, _, _ in missing) and self._view.budget.take()

    def _send(self, node: str, keys: bytes, positions: "array[int]") -> Send:
        body = messages.encode_keys_request(self._topology.epoch, self._grace_ms, keys)
        return self._frame(node, body, positions)
