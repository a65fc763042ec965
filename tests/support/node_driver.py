"""Drives node cores on a virtual clock: no socket, no process, no waiting.

``World`` has the time and the cores; ``Peer`` is a connection to one, through the real codec.
A peer's own clock may have any offset, and a test may hold its frames back.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from pulsering import messages
from pulsering.status import Cause
from pulsering.topology import Node, Topology
from pulsering.wire import VERSION, ErrorCode, Frame, FrameReader, Op, encode_frame
from pulsering_server.config_schema import LimitsConfig
from pulsering_server.node import NodeCore
from pulsering_server.session import Session

OFFLINE, ONLINE, UNKNOWN, MOVED = "OFF", "ON", "UNK", "MOVED"
_STATES = (OFFLINE, ONLINE, UNKNOWN, MOVED)

TTL_MS = 20_000
TICK_MS = 250


def topology_of(names: str = "a", *, replicas: int = 1, ttl_ms: int = TTL_MS, epoch: int = 1) -> Topology:
    """A cluster of one node a letter, each on a host of its own."""
    nodes = tuple(Node(name, f"10.0.0.{index + 1}", 7400) for index, name in enumerate(names))
    return Topology("demo", epoch, ttl_ms, 80, replicas, 0, nodes)


def pack(keys: Iterable[int]) -> bytes:
    """Keys as they travel."""
    return b"".join(key.to_bytes(8, "little") for key in keys)


def hello_body(**changes: object) -> bytes:
    """The body of a HELLO that any node accepts, with fields replaced."""
    hello = messages.Hello(VERSION, VERSION, "demo", 0, 0, "driver")
    return messages.encode_map(hello._replace(**changes))  # type: ignore[arg-type]


class Refusal(NamedTuple):
    """An ERROR frame."""

    code: ErrorCode
    message: str
    request_id: int


class World:
    """Cores and the time they are told. ``limits`` are fields of ``LimitsConfig``."""

    def __init__(
        self,
        names: str = "a",
        *,
        replicas: int = 1,
        now_ms: int = 1_000_000,
        last_seen_ms: int = 0,
        **limits: Any,
    ) -> None:
        self.last_seen_ms = last_seen_ms
        self.now_ms = now_ms
        self.topology = topology_of(names, replicas=replicas)
        self.limits = LimitsConfig.model_construct(**limits)
        self.cores = {name: self.boot(name) for name in names}

    def boot(self, name: str) -> NodeCore:
        """A node that starts now, with nothing in its table."""
        return NodeCore(
            self.topology,
            name,
            self.limits,
            boot_id=self.now_ms,
            now_ms=self.now_ms,
            last_seen_ms=self.last_seen_ms,
        )

    def restart(self, name: str) -> None:
        """Kill a node and start it again."""
        self.cores[name] = self.boot(name)

    def advance(self, ms: int, *, step_ms: int = TICK_MS) -> None:
        """Let time pass, with the shells ticking all the while."""
        end = self.now_ms + ms
        while self.now_ms < end:
            self.now_ms = min(end, self.now_ms + step_ms)
            for core in self.cores.values():
                core.tick(self.now_ms)

    def stand_still(self, ms: int) -> None:
        """Let time pass without anybody running, as under SIGSTOP."""
        self.now_ms += ms

    def warm(self) -> None:
        """Let all nodes warm up."""
        self.advance(TTL_MS + 2 * TICK_MS)
        assert all(core.warming_ms(self.now_ms) == 0 for core in self.cores.values())

    def connect(self, name: str = "a", *, offset_ms: int = 0, greet: bool = True) -> "Peer":
        """A peer whose clock is off by ``offset_ms``; it has said HELLO if ``greet``."""
        peer = Peer(self, name, offset_ms)
        if greet:
            peer.ask(Op.HELLO, hello_body())
        return peer


class Told(NamedTuple):
    """What a push says of one key."""

    key: int
    state: str
    cause: Cause


class Peer:
    """One connection. What it is told unasked is in ``pushed``, as bytes."""

    def __init__(self, world: World, name: str, offset_ms: int) -> None:
        self.world = world
        self.offset_ms = offset_ms
        self._name = name
        self.session = Session(world.cores[name], world.now_ms)
        self.pushed: list[bytes] = []
        self.session.deliver = self.pushed.append
        self._reader = FrameReader(1 << 20)
        self._request_id = 0

    def frame(self, op: int, body: bytes) -> bytes:
        """A request said now, not sent yet."""
        self._request_id += 1
        return encode_frame(op, self._request_id, self.world.now_ms + self.offset_ms, body)

    def deliver(self, data: bytes) -> list[Frame]:
        """Let bytes arrive now; the replies to them."""
        self._reader.feed(self.session.receive(data, self.world.now_ms))
        while self.session.backlog:
            self._reader.feed(self.session.receive(b"", self.world.now_ms))
        return _drained(self._reader)

    def ask(self, op: int, body: bytes = b"\x90") -> Frame:
        """Send one request; its one reply."""
        (reply,) = self.deliver(self.frame(op, body))
        return reply

    def refused(self, op: int, body: bytes = b"\x90") -> Refusal:
        """Send one request that must be answered by an ERROR."""
        return refusal(self.ask(op, body))

    def beat(self, *keys: int) -> messages.WriteReply:
        """HEARTBEAT."""
        return self.write(Op.HEARTBEAT, 0, keys)

    def leave(self, *keys: int, grace_ms: int = 0) -> messages.WriteReply:
        """LEAVE."""
        return self.write(Op.LEAVE, grace_ms, keys)

    def write(self, op: Op, argument: int, keys: Iterable[int]) -> messages.WriteReply:
        """HEARTBEAT or LEAVE."""
        packed = pack(keys)
        reply = self.ask(op, messages.encode_keys_request(1, argument, packed))
        return messages.decode_write_reply(reply.body, len(packed) // 8)

    def get(self, *keys: int) -> list[str]:
        """GET: the state of each key."""
        reply = self.ask(Op.GET, messages.encode_keys_request(1, 0, pack(keys)))
        states = messages.decode_get_reply(reply.body, len(keys), want_ages=False).states
        return [_STATES[states[i // 4] >> i % 4 * 2 & 3] for i in range(len(keys))]

    def watch(self, *keys: int, stop: bool = False) -> list[str]:
        """WATCH: the state of each key."""
        want = messages.STOP_WATCH if stop else messages.WATCH
        reply = self.ask(Op.WATCH, messages.encode_keys_request(1, want, pack(keys)))
        count = 0 if stop else len(keys)
        states = messages.decode_watch_reply(reply.body, count).states
        return [_STATES[states[i // 4] >> i % 4 * 2 & 3] for i in range(count)]

    def told(self) -> list[Told]:
        """What is pushed now, without pulses, and was since the last call; in order of the keys."""
        found = []
        for push in self.pushes():
            keys = memoryview(bytes(push.keys)).cast("Q").tolist()
            states = [_STATES[push.states[i // 4] >> i % 4 * 2 & 3] for i in range(len(keys))]
            found += [Told(*each) for each in zip(keys, states, map(Cause, push.causes), strict=True)]
        return sorted(found)

    def pushes(self) -> list[messages.WatchPush]:
        """The same as they came, with pulses."""
        core = self.world.cores[self._name]
        while core.push(self.world.now_ms):
            pass
        frames = frames_in(b"".join(self.pushed))
        self.pushed.clear()
        assert all((frame.op, frame.is_reply, frame.request_id) == (Op.WATCH, True, 0) for frame in frames)
        return [messages.decode_watch_push(frame.body) for frame in frames]

    def is_online(self, key: int) -> str:
        """GET of one key."""
        return self.get(key)[0]

    def count(self, *skipped: str) -> int:
        """COUNT."""
        reply = self.ask(Op.COUNT, messages.encode_count_request(1, skipped))
        return messages.decode_count_reply(reply.body).online

    def vitals(self) -> messages.Vitals:
        """PING."""
        return messages.decode_vitals(self.ask(Op.PING).body)


def frames_in(data: bytes) -> list[Frame]:
    """The frames that a node sent."""
    reader = FrameReader(1 << 20)
    reader.feed(data)
    return _drained(reader)


def _drained(reader: FrameReader) -> list[Frame]:
    frames = []
    while (frame := reader.next_frame()) is not None:
        frames.append(frame)
    assert reader.pending == 0, "a node sends whole frames"
    return frames


def refusal(frame: Frame) -> Refusal:
    """Read an ERROR frame."""
    assert frame.op == Op.ERROR
    assert frame.is_reply
    error = messages.decode_error(frame.body)
    return Refusal(ErrorCode(error.code), error.message, frame.request_id)
