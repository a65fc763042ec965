"""Owners that answer a watch as the protocol says, driven by hand: nothing arrives before a test lets it.

Each owner has what it says of each user, whom it tells of changes, and what is on the way to the client. The
``Hand`` stands between them and a ``WatchCore``: it carries requests over and frames back, in order.
"""

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from support.call_driver import topology

from pulsering import Change, Status, limits, messages
from pulsering._watch_core import WatchCore
from pulsering._watch_reader import Reader
from pulsering._watch_table import keys_in, packed
from pulsering.errors import PresenceError
from pulsering.ids import key_of
from pulsering.topology import Topology

if TYPE_CHECKING:
    from pulsering._watch_stream import Ask

OFFLINE, ONLINE, COLD, MOVED = range(4)
NONE, HEARTBEAT, EXPIRED, LEFT = range(4)


def packed_states(states: Iterable[int]) -> bytes:
    """Two bits each, as on the wire."""
    values = list(states)
    out = bytearray((len(values) + 3) // 4)
    for index, value in enumerate(values):
        out[index // 4] |= value << index % 4 * 2
    return bytes(out)


class Owner:
    """One node: ``states`` holds what it says of a key where that is not ``default``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.states: dict[int, int] = {}
        self.default = OFFLINE
        self.epoch = 1
        self.warming_ms = 0
        self.told: set[int] = set()
        self.asked: deque[Ask] = deque()
        self.frames: deque[tuple[Ask | None, messages.WatchReply | messages.WatchPush]] = deque()
        """On the way to the client, the oldest first."""

    def state(self, key: int) -> int:
        """What it says of a user."""
        return self.states.get(key, self.default)

    def say(self, key: int, state: int, cause: int = NONE) -> None:
        """A user's state is another one; tell who watches."""
        self.states[key] = state
        if key in self.told:
            self.push({key: state}, cause)

    def push(self, states: dict[int, int], cause: int = NONE) -> None:
        """Tell, of nobody for a pulse."""
        keys = memoryview(packed(states))
        causes = bytes((cause,)) * len(states)
        push = messages.WatchPush(self.epoch, self.warming_ms, keys, packed_states(states.values()), causes)
        self.frames.append((None, push))

    def serve(self) -> None:
        """Answer what was asked."""
        while self.asked:
            ask = self.asked.popleft()
            keys = list(keys_in(ask.keys))
            if ask.want == messages.WATCH:
                self.told.update(keys)
                states = packed_states(map(self.state, keys))
            else:
                self.told.difference_update(keys)
                keys, states = [], b""
            reply = messages.WatchReply(self.epoch, self.warming_ms, len(keys), states)
            self.frames.append((ask, reply))

    def cut(self) -> None:
        """The connection is gone, and what was on it."""
        self.told.clear()
        self.asked.clear()
        self.frames.clear()


class Hand:
    """A core, its owners, and one reader of it."""

    def __init__(self, names: str = "ab", replicas: int = 2, *, limit: int = limits.WATCH_BUFFER) -> None:
        self.topology = topology(names, replicas)
        self.core = WatchCore(self.topology)
        self.owners = {name: Owner(name) for name in names}
        self.reader = Reader(self.core.table, limit)
        self.sent: list[Ask] = []
        self.down: set[str] = set()
        for name in names:
            self.core.on_up(name)

    def __getitem__(self, name: str) -> Owner:
        return self.owners[name]

    def key(self, user: int | str) -> int:
        """The key of a user."""
        return key_of(user, 0)

    def watch(self, *users: int | str, reader: Reader | None = None) -> None:
        """Watch, and ask."""
        self.core.watch([self.key(user) for user in users], users, reader or self.reader)
        self.send()

    def unwatch(self, *users: int | str, reader: Reader | None = None) -> None:
        """Watch no more."""
        self.core.unwatch([self.key(user) for user in users], reader or self.reader)
        self.send()

    def send(self) -> None:
        """Carry requests over."""
        for ask in self.core.take_asks(limits.KEYS_PER_FRAME):
            self.sent.append(ask)
            self.owners[ask.node].asked.append(ask)

    def deliver(self, name: str, age_ms: int = 0) -> bool:
        """Let the oldest frame of a node arrive; whether there was one."""
        frames = self.owners[name].frames
        if not frames:
            return False
        ask, frame = frames.popleft()
        if isinstance(frame, messages.WatchReply):
            assert ask is not None
            self.core.on_reply(ask, frame, age_ms)
        else:
            self.core.on_push(name, frame, age_ms)
        self.send()
        return True

    def refuse(self, name: str, error: PresenceError) -> None:
        """The oldest request fails."""
        self.core.on_failure(self.owners[name].asked.popleft(), error)
        self.send()

    def settle(self, *names: str) -> None:
        """Let these nodes, or all, answer, and everything arrive."""
        busy = True
        while busy:
            busy = False
            for name in names or self.owners:
                self.owners[name].serve()
                while self.deliver(name):
                    busy = True

    def pass_time(self, ms: float) -> None:
        """Time passes."""
        self.core.pass_time(ms)
        self.send()

    def lose(self, name: str) -> None:
        """The connection to a node is lost."""
        self.owners[name].cut()
        self.down.add(name)
        self.core.on_down(name)
        self.send()

    def connect(self, name: str) -> None:
        """There is one again."""
        self.down.discard(name)
        self.core.on_up(name)
        self.send()

    def follow(self, new: Topology, *retired: Topology, unsettled: bool = False) -> None:
        """The client hears of another topology."""
        for node in new.nodes:
            if node.name not in self.owners:
                self.owners[node.name] = Owner(node.name)
                self.core.on_up(node.name)
        self.core.look(new, retired, unsettled=unsettled)
        self.send()

    def read(self, reader: Reader | None = None) -> list[Change]:
        """Everything that was not read."""
        changes = []
        while (change := (reader or self.reader).take()) is not None:
            changes.append(change)
        return changes

    def statuses(self) -> list[tuple[int | str, Status]]:
        """The same, only who and what."""
        return [(change.id, change.status) for change in self.read()]  # type: ignore[misc]
