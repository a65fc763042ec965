"""What a call does next: pure state machines that turn answers and failures into further frames.

A call is driven from outside: ``start``, ``on_reply``, ``on_failure``, ``on_wake`` (when ``wake_at`` has
come) and ``expire`` (at the deadline) each return the frames to send now; ``done`` says that ``result`` may
be taken. It sees the cluster through a ``ClusterView``, time as an argument, chance through the view: no
socket, loop or clock. That makes one implementation for asyncio and the simulator.

What both kinds of batches share:

- *patience*: how long an owner may take before the call goes on without it. A late answer still counts. Going
  on although the node may merely be slow costs a token of the retry budget, so slowness does not double the
  load.
- a *repeat* asks the same owner again, after a short random delay and whatever a busy node asked for, at most
  ``attempts`` times in all and for a token each. Going on to another owner is no repeat.
- keys a node calls *moved* are sent once more if a newer topology is there, and never a second time: two
  nodes that disagree cannot make a loop.

Invariant: each frame handed out is settled by one reply, one failure, or the end of the call.
"""

import random
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, Protocol

from pulsering import kernel, messages
from pulsering._backoff import RetryBudget
from pulsering._request import Request
from pulsering.errors import (
    CallTimeout,
    NodeBusy,
    NodeUnavailable,
    NoNodeReachable,
    Overloaded,
    PresenceError,
)
from pulsering.topology import Topology
from pulsering.wire import Op

if TYPE_CHECKING:
    from array import array

    from pulsering._channel import Channel
    from pulsering._driver import Run

__all__ = ["BatchCall", "Call", "ClusterView", "Send"]

REPEAT_MS: Final = 10
"""Bound of the delay before the first repeat; doubled for the next."""

ATTEMPTS_LISTED_MAX: Final = 16
"""Failures that an error lists."""


class Send(Request):
    """One frame to a node, and where in the batch its keys are. Whoever drives the call says the rest."""

    late = False
    """Whether the node let the patience pass."""
    former = 0
    """Whose owner the node is asked as: 0 for the present topology's, else for a retired one's, from 1."""
    run: "Run"
    channel: "Channel"

    def __init__(self, node: str, op: Op, body: bytes, positions: "array[int]") -> None:
        self.node = node
        self.op = op
        self.body = body
        self.positions = positions
        self.count = len(positions)


class ClusterView(Protocol):
    """What a call may see of the cluster; answers may differ from one moment to the next."""

    @property
    def topology(self) -> Topology:
        """The newest topology known."""
        ...

    @property
    def retired(self) -> tuple[Topology, ...]:
        """Those before it, each until one ttl after the last word from a node that follows it."""
        ...

    @property
    def unsettled(self) -> bool:
        """Whether a node follows an older topology whose contents are not known."""
        ...

    @property
    def keys_per_frame(self) -> int:
        """Keys every node accepts in one frame."""
        ...

    @property
    def attempts(self) -> int:
        """How often one key is sent at most."""
        ...

    @property
    def patience(self) -> float:
        """Seconds an owner may take before its turn passes."""
        ...

    @property
    def hedge(self) -> float | None:
        """Seconds after which a read asks the next owners beside those that are silent; None: never."""
        ...

    @property
    def budget(self) -> RetryBudget:
        """Tokens for repeats."""
        ...

    @property
    def rng(self) -> random.Random:
        """Source of jitter."""
        ...

    def unavailable(self) -> frozenset[int]:
        """Indices of the topology's nodes that would refuse a request now."""
        ...

    def remembers(self, node: str) -> bool:
        """Whether the node knows when users were last seen, and may be asked."""
        ...

    def hopeless(self) -> frozenset[int]:
        """Those of them that have failed for so long that waiting a few milliseconds is no use."""
        ...


class Call(ABC):
    """What all calls share: tokens, patience, the deadline, and the story of what went wrong."""

    op: Op
    done = False
    expired = False
    wants_topology = False
    """The call waits for ``on_topology``; the driver refreshes and calls it."""
    wake_at: float | None = None
    key_count = 0
    """Keys held, for the client's limit."""
    answered = False
    """Whether any node answered at all."""
    problems: tuple[tuple[str, str], ...] = ()
    """(node, what happened), the first few."""
    late: tuple[Send, ...] = ()
    """Frames whose node let the patience pass; ``take_late`` empties it."""
    _troubled: frozenset[str] = frozenset()
    _started = 0.0
    _fresh = 0  # frames whose node still has its patience
    _overloads = 0
    _busy_s = 0.0  # the longest that a busy node asked to be left alone since the last repeat

    def __init__(self, view: ClusterView) -> None:
        self._view = view
        self._topology = view.topology
        self._pieces: dict[Send, None] = {}  # frames without an outcome, in the order they were sent

    @abstractmethod
    def start(self, now: float) -> list[Send]:
        """The first frames."""

    @abstractmethod
    def on_reply(self, piece: Send, reply: Any, now: float) -> list[Send]:
        """A node answered."""

    @abstractmethod
    def on_failure(self, piece: Send, error: PresenceError, now: float) -> list[Send]:
        """A node refused, or did not get the frame, or was lost with it."""

    @abstractmethod
    def on_wake(self, now: float) -> list[Send]:
        """``wake_at`` has come."""

    @abstractmethod
    def expire(self, now: float) -> None:
        """The deadline has come: settle for what is known."""

    def on_topology(self, now: float) -> list[Send]:
        """A refresh was tried; the view's topology may be a newer one."""
        self.wants_topology = False
        return []

    def take_late(self) -> tuple[Send, ...]:
        """Frames whose node let the patience pass, each told once."""
        late, self.late = self.late, ()
        return late

    # --- For the kinds of calls ----------------------------------------------------------------------------

    def _note(self, node: str, what: str) -> None:
        self._troubled |= {node}
        if len(self.problems) < ATTEMPTS_LISTED_MAX:
            self.problems += ((node, what),)

    def _frame(self, node: str, body: bytes, positions: "array[int]") -> Send:
        """A frame to send."""
        self._fresh += 1
        piece = Send(node, self.op, body, positions)
        self._pieces[piece] = None
        return piece

    def _take(self, piece: Send) -> bool:
        """Whether the call still waited for the outcome of this piece, and has not moved on without it."""
        if piece not in self._pieces:
            return False
        del self._pieces[piece]
        if not piece.late:
            self._fresh -= 1
        return True

    def _take_failed(self, piece: Send, error: PresenceError) -> bool:
        taken = self._take(piece)
        if taken:
            self._note(piece.node, str(error))
            if isinstance(error, Overloaded):
                self._overloads += 1
            if isinstance(error, NodeBusy):
                self._busy_s = max(self._busy_s, error.retry_after)
        return taken

    def _lose_patience(self) -> list[Send]:
        """Call late whoever has not answered, and return what was not late before."""
        fresh = [piece for piece in self._pieces if not piece.late]
        for piece in fresh:
            piece.late = True
            self._note(piece.node, "no answer in time")
        self.late += tuple(fresh)
        self._fresh = 0
        return fresh

    def _drop_pieces(self) -> None:
        """Go on without the answers that are still to come."""
        self._pieces.clear()
        self._fresh = 0

    def _finish(self) -> None:
        self.done = True
        self.wake_at = None
        self._drop_pieces()

    def _no_answer(self, now: float) -> PresenceError:
        """The error for a call in which nothing was achieved."""
        op = self.op.name
        story = "; ".join(f"{node}: {what}" for node, what in self.problems[:3]) or "no node was free to ask"
        problems = self.problems
        if self._overloads and not self.expired:
            return Overloaded(f"{op}: every node asked was overloaded ({story})", op=op)
        if self.expired:
            return CallTimeout(
                f"{op}: no answer within the deadline ({story})",
                op=op,
                elapsed=now - self._started,
                attempts=problems,
            )
        if self._all_troubled():
            return NoNodeReachable(
                f"{op}: not one node of the cluster answers ({story})", op=op, attempts=problems
            )
        return NodeUnavailable(f"{op}: no owner could be reached ({story})", op=op)

    def _all_troubled(self) -> bool:
        """Whether no node of the cluster is known to be any good."""
        bad = self._view.unavailable()
        nodes = self._view.topology.nodes
        return all(index in bad or node.name in self._troubled for index, node in enumerate(nodes))


class BatchCall(Call):
    """A call about keys: frames of at most ``keys_per_frame``, every key at its place in the batch."""

    _repeats = 0
    _redirected = False
    _epoch_heard = 0

    def __init__(self, view: ClusterView, keys: bytes) -> None:
        super().__init__(view)
        self._keys = keys
        self.key_count = len(keys) // messages.KEY_BYTES

    @abstractmethod
    def _send(self, node: str, keys: bytes, positions: "array[int]") -> Send:
        """One frame."""

    def _split(
        self,
        names: "Topology",
        targets: "array[int]",
        keys: bytes,
        positions: "array[int] | None",
        without: frozenset[int] = frozenset(),
    ) -> list[Send]:
        """Frames for ``keys`` to the nodes that ``targets`` names, none for the nodes in ``without``."""
        pieces = kernel.partition(keys, targets, positions, self._view.keys_per_frame)
        return [
            self._send(names.nodes[index].name, part, places)
            for index, part, places in pieces
            if index not in without
        ]

    def _retired_before(self, topology: Topology) -> tuple[Topology, ...]:
        """Those whose owners may still hold what was said: none, but for a ttl after a change."""
        retired = self._view.retired
        return tuple(old for old in retired if old.epoch < topology.epoch) if retired else retired

    def _may_redirect(self) -> bool:
        """Whether somebody knows a newer topology than this call used, and it was not used yet."""
        newest = max(self._epoch_heard, self._view.topology.epoch)
        return not self._redirected and newest > self._topology.epoch

    def _repeat_delay(self) -> float:
        """Seconds to the next repeat: what busy nodes asked for, within the patience, and some jitter."""
        self._repeats += 1
        asked, self._busy_s = min(self._busy_s, self._view.patience), 0.0
        return asked + self._view.rng.uniform(0, REPEAT_MS / 1000 * 2 ** (self._repeats - 1))
