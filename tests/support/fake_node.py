"""A scripted node on a real socket: answers truthfully, or lies, stalls and breaks off where a test says so.

It knows users by key in a plain set. A test replaces one answer by putting a function under its op into
``script``; the function gets the request frame and returns the bytes to send, or None to say nothing.
"""

import asyncio
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pulsering import limits, messages, transport
from pulsering.topology import Node, Topology
from pulsering.wire import VERSION, Frame, FrameReader, Op, encode_frame

if TYPE_CHECKING:
    from ssl import SSLContext

Answer = Callable[[Frame], bytes | None]
OFFLINE, ONLINE, UNKNOWN, MOVED = range(4)


def reply_to(frame: Frame, body: bytes, op: int | None = None) -> bytes:
    """A reply frame with this body."""
    return encode_frame(frame.op if op is None else op, frame.request_id, 0, body, reply=True)


def keys_in(frame: Frame) -> list[int]:
    """The keys of a data-plane request."""
    return list(messages.decode_keys_request(frame.body).keys.cast("Q"))


class FakeNode:
    """One node. ``frames`` holds every request it got; ``users`` the keys it calls online."""

    def __init__(self, name: str = "a") -> None:
        self.name = name
        self.topology: Topology | None = None
        self.former: Topology | None = None
        self.claims: str | None = None
        self.tls: SSLContext | None = None
        self.script: dict[int, Answer] = {}
        self.frames: list[Frame] = []
        self.users: set[int] = set()
        self.moved: set[int] = set()
        self.cold = False
        self.connections = 0
        self.port = 0
        self.held: list[tuple[asyncio.StreamWriter, bytes]] = []
        self.holding = False
        self.keys_per_frame = limits.KEYS_PER_FRAME
        self.in_flight = limits.IN_FLIGHT_MAX
        self.watchers: dict[asyncio.StreamWriter, set[int]] = {}
        self._asking: asyncio.StreamWriter
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, port: int = 0, host: str = "127.0.0.1") -> int:
        """Listen; returns the port."""
        self._server = await asyncio.start_server(self._serve, host, port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self.port

    async def stop(self) -> None:
        """Stop listening and drop everybody."""
        if self._server is not None:
            self._server.close()
            self.drop_connections()
            await self._server.wait_closed()
            self._server = None
        await until(lambda: not self._writers)

    def drop_connections(self) -> None:
        """Cut all connections."""
        for writer in self._writers:
            writer.transport.abort()

    def release(self) -> None:
        """Send what was held back, and hold no more."""
        self.holding = False
        held, self.held = self.held, []
        for writer, data in held:
            if not writer.is_closing():
                writer.write(data)

    def say(self, data: bytes) -> None:
        """Send bytes to everybody, asked or not."""
        for writer in self._writers:
            writer.write(data)

    def turn(self, key: int, state: int, cause: int = 0) -> None:
        """A user's state is another one: tell who watches."""
        (self.users.add if state == ONLINE else self.users.discard)(key)
        self.push(key.to_bytes(8, "little"), bytes((self.state_of(key),)), bytes((cause,)))

    def push(self, keys: bytes = b"", states: bytes = b"", causes: bytes = b"") -> None:
        """Tell who watches of changes, or that there are none."""
        assert self.topology is not None
        body = messages.encode_watch_push(self.topology.epoch, 0, keys, states, causes)
        for writer, watched in self.watchers.items():
            if not keys or int.from_bytes(keys[:8], "little") in watched:
                writer.write(encode_frame(Op.WATCH, 0, transport.now_ms(), body, reply=True))

    @property
    def watched(self) -> int:
        """Users watched, over all connections."""
        return sum(map(len, self.watchers.values()))

    def count(self, op: Op) -> int:
        """Requests of one op that came so far."""
        return sum(frame.op == op for frame in self.frames)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        frames = FrameReader(limits.FRAME_BYTES_MAX)
        try:
            while data := await reader.read(1 << 18):
                frames.feed(data)
                while (frame := frames.next_frame()) is not None:
                    self._answer(frame, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self.watchers.pop(writer, None)

    def _answer(self, frame: Frame, writer: asyncio.StreamWriter) -> None:
        self.frames.append(frame)
        self._asking = writer
        answer = self.script.get(frame.op, self.truth)(frame)
        if answer is None or writer.is_closing():
            return
        if self.holding and frame.op not in (Op.HELLO, Op.PING, Op.TOPOLOGY):
            self.held.append((writer, answer))
        else:
            writer.write(answer)

    def truth(self, frame: Frame) -> bytes:
        """What an honest node answers."""
        assert self.topology is not None
        epoch = self.topology.epoch
        match frame.op:
            case Op.HELLO:
                return reply_to(frame, messages.encode_map(self.welcome()))
            case Op.TOPOLOGY:
                asked = messages.decode_topology_request(frame.body)
                before = self.former if self.former is not None and self.former.epoch == asked else None
                return reply_to(frame, messages.encode_topology((before or self.topology).to_wire()))
            case Op.PING:
                vitals = messages.Vitals(epoch, len(self.users), 1000, 0, False, "fake")
                return reply_to(frame, messages.encode_map(vitals))
            case Op.HEARTBEAT | Op.LEAVE:
                keys = keys_in(frame)
                mine = [key for key in keys if key not in self.moved]
                (self.users.update if frame.op == Op.HEARTBEAT else self.users.difference_update)(mine)
                reply = messages.WriteReply(epoch, len(mine), 0, 0, len(keys) - len(mine))
                return reply_to(frame, messages.encode_write_reply(reply))
            case Op.GET:
                return reply_to(frame, self.get_reply(frame))
            case Op.WATCH:
                return encode_frame(
                    Op.WATCH, frame.request_id, transport.now_ms(), self.watch_reply(frame), reply=True
                )
            case _:
                mine_first = sum(self._counts(key, frame) for key in self.users)
                return reply_to(frame, messages.encode_count_reply(messages.CountReply(epoch, 0, mine_first)))

    def welcome(self) -> messages.Welcome:
        """What it says to HELLO."""
        assert self.topology is not None
        return messages.Welcome(
            version=VERSION,
            cluster=self.topology.cluster,
            node=self.claims or self.name,
            boot_id=1,
            epoch=self.topology.epoch,
            topology_hash=self.topology.hash,
            warming_ms=0,
            frame_bytes_max=limits.FRAME_BYTES_MAX,
            keys_per_frame=self.keys_per_frame,
            in_flight=self.in_flight,
            agent="fake",
            former_epoch=self.former.epoch if self.former is not None else 0,
        )

    def get_reply(self, frame: Frame) -> bytes:
        """Body of an honest reply to GET."""
        assert self.topology is not None
        keys = keys_in(frame)
        states = bytearray((len(keys) + 3) // 4)
        ages = bytearray()
        for index, key in enumerate(keys):
            state = self.state_of(key)
            states[index // 4] |= state << index % 4 * 2
            ages.append(8 if state == ONLINE else 255)
        wanted = messages.decode_keys_request(frame.body).argument
        return messages.encode_get_reply(
            self.topology.epoch, 0, len(keys), bytes(states), bytes(ages) if wanted else b""
        )

    def watch_reply(self, frame: Frame) -> bytes:
        """Body of an honest reply to WATCH, which is heeded."""
        assert self.topology is not None
        keys, watched = keys_in(frame), self.watchers.setdefault(self._asking, set())
        if messages.decode_keys_request(frame.body).argument == messages.STOP_WATCH:
            watched.difference_update(keys)
            keys = []
        watched.update(keys)
        states = bytearray((len(keys) + 3) // 4)
        for index, key in enumerate(keys):
            states[index // 4] |= self.state_of(key) << index % 4 * 2
        return messages.encode_watch_reply(self.topology.epoch, 0, len(keys), bytes(states))

    def state_of(self, key: int) -> int:
        """What it says of a key."""
        if key in self.moved:
            return MOVED
        if key in self.users:
            return ONLINE
        return UNKNOWN if self.cold else OFFLINE

    def _counts(self, key: int, frame: Frame) -> bool:
        assert self.topology is not None
        _, skipped = messages.decode_count_request(frame.body)
        owners = [node.name for node in self.topology.owners_of(key >> 50) if node.name not in skipped]
        return bool(owners) and owners[0] == self.name


class FakeCluster:
    """Some fake nodes with one topology; an async context manager."""

    def __init__(
        self, names: str = "abc", replicas: int = 2, *, cluster: str = "test", epoch: int = 1
    ) -> None:
        self.nodes = {name: FakeNode(name) for name in names}
        self.replicas = replicas
        self.cluster = cluster
        self.epoch = epoch
        self.topology: Topology

    async def __aenter__(self) -> Self:
        for node in self.nodes.values():
            await node.start()
        self.topology = self.topology_of(self.nodes.values(), self.epoch)
        for node in self.nodes.values():
            node.topology = self.topology
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes.values():
            await node.stop()

    def topology_of(self, nodes: Iterable[FakeNode], epoch: int, ttl_ms: int = 20_000) -> Topology:
        """A topology of these nodes where they listen now."""
        return Topology(
            cluster=self.cluster,
            epoch=epoch,
            ttl_ms=ttl_ms,
            ticks_per_ttl=80,
            replicas=self.replicas,
            hash_seed=0,
            nodes=tuple(Node(node.name, "127.0.0.1", node.port) for node in nodes),
        )

    @property
    def url(self) -> str:
        """Where to reach it: every node is a seed."""
        return "presence://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes.values())

    def __getitem__(self, name: str) -> FakeNode:
        return self.nodes[name]


async def until(condition: Callable[[], bool], within: float = 5.0) -> None:
    """Wait for something to become true, looking often; fail if it does not."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - any condition, of which no event is told
            await asyncio.sleep(0)
