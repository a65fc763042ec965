"""Drives one pure call by hand: a view of a cluster that a test can change, and the frames it wants sent."""

import random

from pulsering import limits, messages
from pulsering._backoff import RetryBudget
from pulsering._calls import Call, Send
from pulsering.errors import NodeUnavailable, PresenceError
from pulsering.topology import Node, Topology


def topology(names: str = "abc", replicas: int = 2, epoch: int = 1) -> Topology:
    """A topology of nodes with these one-letter names, each on a host of its own."""
    nodes = tuple(Node(name, f"host-{name}", 7400) for name in names)
    return Topology("test", epoch, 20_000, 80, replicas, 0, nodes)


class View:
    """A ``ClusterView`` whose facts are plain attributes; ``down`` and ``dead`` hold node names."""

    def __init__(self, names: str = "abc", replicas: int = 2) -> None:
        self.topology = topology(names, replicas)
        self.retired: tuple[Topology, ...] = ()
        self.unsettled = False
        self.keys_per_frame = limits.KEYS_PER_FRAME
        self.attempts = limits.ATTEMPTS
        self.patience = 0.08
        self.hedge: float | None = None
        self.budget = RetryBudget()
        self.rng = random.Random(1)
        self.down: set[str] = set()
        self.dead: set[str] = set()
        self.remembering: set[str] = set()

    def unavailable(self) -> frozenset[int]:
        """Nodes that would refuse."""
        return frozenset(map(self.topology.index_of, self.down | self.dead))

    def remembers(self, node: str) -> bool:
        """Nodes that know when users were last seen."""
        return node in self.remembering

    def hopeless(self) -> frozenset[int]:
        """Nodes whose circuit is open."""
        return frozenset(map(self.topology.index_of, self.dead))


class Hand:
    """Feeds outcomes to a call and remembers what is unanswered."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.now = 100.0
        self.sent: list[Send] = []
        self.waiting: dict[Send, None] = {}
        self._take(call.start(self.now))

    def _take(self, sends: list[Send]) -> list[Send]:
        self.sent += sends
        for send in sends:
            assert send not in self.waiting
            self.waiting[send] = None
        return sends

    def to(self, node: str) -> Send:
        """The one unanswered frame to a node."""
        [send] = [send for send in self.waiting if send.node == node]
        return send

    @property
    def nodes(self) -> list[str]:
        """Names of the nodes with an unanswered frame."""
        return sorted(send.node for send in self.waiting)

    def reply(self, node: str, reply: object) -> list[Send]:
        """The node answers."""
        send = self.to(node)
        del self.waiting[send]
        return self._take(self.call.on_reply(send, reply, self.now))

    def state(self, node: str, *states: int, epoch: int = 1, warming_ms: int = 0) -> list[Send]:
        """The node answers a GET with these states, or with the one for all keys."""
        keys = self.to(node).count
        values = states * keys if len(states) == 1 else states
        assert len(values) == keys
        packed = bytearray((keys + 3) // 4)
        for index, value in enumerate(values):
            packed[index // 4] |= value << index % 4 * 2
        return self.reply(
            node,
            messages.GetReply(epoch, warming_ms, keys, bytes(packed), bytes(keys)),
        )

    def accept(
        self, node: str, *, stale: int = 0, refused: int = 0, moved: int = 0, epoch: int = 1
    ) -> list[Send]:
        """The node takes all keys of a write but these."""
        keys = self.to(node).count
        reply = messages.WriteReply(epoch, keys - stale - refused - moved, stale, refused, moved)
        return self.reply(node, reply)

    def fail(self, node: str, error: PresenceError | None = None) -> list[Send]:
        """The frame, or the node, is lost."""
        send = self.to(node)
        del self.waiting[send]
        return self._take(self.call.on_failure(send, error or NodeUnavailable("lost", node=node), self.now))

    def wake(self) -> list[Send]:
        """Let time pass until the call wants to be woken."""
        assert self.call.wake_at is not None
        self.now = max(self.now, self.call.wake_at)
        return self._take(self.call.on_wake(self.now))

    def refreshed(self) -> list[Send]:
        """A refresh of the topology has ended."""
        assert self.call.wants_topology
        return self._take(self.call.on_topology(self.now))

    def expire(self) -> None:
        """The deadline has come."""
        self.call.expire(self.now)
