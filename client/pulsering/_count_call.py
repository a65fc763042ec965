"""COUNT: every user online once, whoever of its owners happens to be up.

Each node counts the users of the slots whose first owner it is, passing over the owners it is told to skip.
So the nodes that do not answer, or are not warm yet, are named to all others and the round is made again. The
answer is exact if every slot was counted by a warm owner that follows our topology. Invariant: ``online`` is
the sum of one round, never of two.
"""

from array import array
from typing import Final

from pulsering import limits, messages
from pulsering._calls import Call, ClusterView, Send
from pulsering.errors import PresenceError
from pulsering.reports import Count
from pulsering.routing import read_targets
from pulsering.wire import Op

__all__ = ["CountCall"]

ROUNDS_MAX: Final = 4
"""More only happen while nodes fall over one after another."""

_NO_POSITIONS: Final = array("I")


class CountCall(Call):
    """Asks all nodes; ``count`` when ``done``."""

    op = Op.COUNT

    def __init__(self, view: ClusterView) -> None:
        super().__init__(view)
        self._missing: set[int] = set()
        self._warming: set[int] = set()
        self._skipped: frozenset[int] = frozenset()
        self._replies: dict[int, messages.CountReply] = {}
        self._rounds = 0

    def start(self, now: float) -> list[Send]:
        self._started = now
        self._missing.update(self._view.unavailable())
        return self._round(now)

    def on_reply(self, piece: Send, reply: messages.CountReply, now: float) -> list[Send]:
        self.answered = True
        if not self._take(piece):
            return []
        index = self._topology.index_of(piece.node)
        self._replies[index] = reply
        if reply.warming_ms:
            self._warming.add(index)
        return self._continue(now)

    def on_failure(self, piece: Send, error: PresenceError, now: float) -> list[Send]:
        if not self._take_failed(piece, error):
            return []
        self._missing.add(self._topology.index_of(piece.node))
        return self._continue(now)

    def on_wake(self, now: float) -> list[Send]:
        self.wake_at = None
        for piece in self._lose_patience():
            self._missing.add(self._topology.index_of(piece.node))
        self._drop_pieces()
        return self._continue(now)

    def expire(self, now: float) -> None:
        self.expired = True
        for piece in self._lose_patience():
            self._missing.add(self._topology.index_of(piece.node))
        self._finish()

    def outage(self, now: float) -> PresenceError | None:
        """An error if nobody answered."""
        return None if self.answered else self._no_answer(now)

    @property
    def count(self) -> Count:
        """The sum of the last round, and how far to trust it."""
        topology = self._topology
        exact = (
            self._covers(self._skipped)
            and self._missing <= self._skipped
            and self._warming <= self._skipped
            and all(reply.epoch == topology.epoch for reply in self._replies.values())
        )
        return Count(
            online=sum(reply.online for reply in self._replies.values()),
            exact=exact,
            missing=self._names(self._missing),
            warming=self._names(self._warming),
        )

    def _continue(self, now: float) -> list[Send]:
        if self._fresh:
            return []
        if self._rounds < ROUNDS_MAX and self._to_skip() != self._skipped:
            return self._round(now)
        self._finish()
        return []

    def _to_skip(self) -> frozenset[int]:
        """Who cannot count, and, where the others suffice, who cannot count everybody."""
        both = frozenset(self._missing | self._warming)
        return both if self._covers(both) else frozenset(self._missing)

    def _round(self, now: float) -> list[Send]:
        self._rounds += 1
        self._skipped = self._to_skip()
        self._replies.clear()
        body = self._body()
        self.wake_at = now + self._view.patience
        sends = [
            self._frame(node.name, body, _NO_POSITIONS)
            for index, node in enumerate(self._topology.nodes)
            if index not in self._skipped
        ]
        if not sends:
            self._finish()
        return sends

    def _body(self) -> bytes:
        """A request that names as many of the skipped as it may hold; the others make the count inexact."""
        skipped = sorted(self._skipped)
        while True:
            body = messages.encode_count_request(self._topology.epoch, self._names(skipped))
            if len(body) <= limits.CONTROL_BODY_BYTES_MAX:
                break
            skipped.pop()
        self._skipped = frozenset(skipped)
        return body

    def _covers(self, skipped: frozenset[int]) -> bool:
        """Whether every slot has an owner that is not skipped."""
        return not skipped or skipped.isdisjoint(read_targets(self._topology, 0, skipped))

    def _names(self, indices: "set[int] | frozenset[int] | list[int]") -> tuple[str, ...]:
        return tuple(self._topology.nodes[index].name for index in sorted(indices))
