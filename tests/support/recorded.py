"""What a release said on the wire, kept in ``tests/vectors/releases``: recorded once, replayed for ever.

A recording is made of the real client and a real node core of its release, on a clock of the test's own. It
holds, in order, what was called and what came of it, and the frames that went by, each with the number of its
connection. Those of the client are replayed to the node of today, those of the node to the client of today
(``RecordedNode``). ``python -m support.recorded RELEASE``, in ``tests/``, makes one, and never another of a
release that has one.
"""

import asyncio
import json
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgpack

from pulsering import PresenceClient, messages
from pulsering.options import ClientOptions
from pulsering.topology import Topology
from pulsering.url import Address
from pulsering.wire import HEADER_BYTES, VERSION, Op, encode_frame
from pulsering_server.node import NodeCore
from pulsering_server.session import Session

DIRECTORY: Final = Path(__file__).parents[1] / "vectors" / "releases"
NODE: Final = "a"
BOOT_ID: Final = 0x0123456789ABCDEF
STARTED_MS: Final = 1_000_000
TTL_MS: Final = 20_000
TOPOLOGY: Final = {
    "cluster": "recorded",
    "epoch": 3,
    "ttl_ms": TTL_MS,
    "ticks_per_ttl": 80,
    "replicas": 1,
    "hash_seed": 0x9F3C21AA,
    "nodes": [{"name": NODE, "host": "10.0.0.1", "port": 7400, "weight": 2, "zone": "z1"}],
}
CALLS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("get_many", {"ids": [1, "alice"]}),  # cold: unknown
    ("advance", {"ms": TTL_MS + 1000}),
    ("heartbeat_many", {"ids": [1, 42, 2**64 - 1, "alice", "Zoë", ""]}),
    ("advance", {"ms": 5_000}),
    ("heartbeat_many", {"ids": [42]}),
    ("get_many", {"ids": [1, 42, "alice", "bob", 7], "ages": True}),
    ("count", {}),
    ("leave_many", {"ids": [42]}),
    ("leave_many", {"ids": ["alice"], "grace": 3.0}),
    ("get_many", {"ids": [1, 42, "alice", "Zoë"]}),
    ("advance", {"ms": 4_000}),
    ("get_many", {"ids": [1, 42, "alice", "Zoë"]}),
    ("status", {}),
    ("count", {}),
)


class Header(NamedTuple):
    """The header of a frame, read without the code under test."""

    magic: int
    version: int
    op: int
    flags: int
    request_id: int
    size: int

    @classmethod
    def of(cls, frame: bytes) -> "Header":
        """Of a whole frame."""
        return cls._make(struct.unpack_from("<BBBBII", frame))


def frames_of(data: bytes) -> Iterator[bytes]:
    """Whole frames, one after another."""
    while data:
        size = HEADER_BYTES + Header.of(data).size
        assert len(data) >= size
        yield data[:size]
        data = data[size:]


def body_of(frame: bytes) -> Any:
    """The body as any msgpack library reads it."""
    return msgpack.unpackb(frame[HEADER_BYTES:], strict_map_key=False)


class World:
    """The node of a recording and its clock."""

    def __init__(self, recording: dict[str, Any]) -> None:
        self.now_ms: int = recording["started_ms"]
        topology = Topology.from_wire(recording["topology"])
        self.core = NodeCore(topology, recording["node"], boot_id=recording["boot_id"], now_ms=self.now_ms)

    def advance(self, ms: int) -> None:
        """Let time pass, tick by tick."""
        end_ms = self.now_ms + ms
        while self.now_ms < end_ms:
            self.now_ms = min(end_ms, self.now_ms + self.core.tick_ms)
            self.core.tick(self.now_ms)


class Line(asyncio.Transport):
    """The client's end of a connection to something that answers frames."""

    def __init__(self, protocol: asyncio.Protocol, answer: Callable[[bytes], bytes]) -> None:
        super().__init__()
        self._protocol = protocol
        self._reply_to = answer
        self._closed = False

    def write(self, data: Any) -> None:
        """One loop turn later, the answers."""
        for frame in frames_of(bytes(data)):
            asyncio.get_running_loop().call_soon(self._answer, frame)

    def _answer(self, frame: bytes) -> None:
        if not self._closed:
            self._protocol.data_received(self._reply_to(frame))

    def close(self) -> None:
        """End it."""
        if not self._closed:
            self._closed = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        """Whether it has ended."""
        return self._closed

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing waits here."""

    def get_write_buffer_size(self) -> int:
        """Nothing waits here."""
        return 0


class Wired:
    """A transport for one client, as ``pulsering.transport`` has them."""

    cluster = ""
    seeds = (Address("10.0.0.1", 7400),)

    def now_ms(self) -> int:
        """The recording's own clock."""
        raise NotImplementedError

    def accept(self) -> Callable[[bytes], bytes]:
        """What answers the requests of one connection more."""
        raise NotImplementedError

    async def connect(self, protocol: asyncio.Protocol, address: Address) -> None:
        """Connect, whatever the address."""
        protocol.connection_made(Line(protocol, self.accept()))


class Recorder(Wired):
    """A live node, and everything that goes by."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.steps: list[dict[str, Any]] = []
        self._connections = 0

    def now_ms(self) -> int:
        return self.world.now_ms

    def accept(self) -> Callable[[bytes], bytes]:
        session = Session(self.world.core, self.world.now_ms)
        self._connections += 1
        number = self._connections

        def answer(frame: bytes) -> bytes:
            reply = session.receive(frame, self.world.now_ms)
            name = Op(Header.of(frame).op).name
            self.steps.append(
                {"op": name, "connection": number, "request": frame.hex(), "reply": reply.hex()}
            )
            return reply

        return answer


class RecordedNode(Wired):
    """A node of a release: whatever is asked next, it answers as it did then, and minds what it is asked."""

    def __init__(self, recording: dict[str, Any]) -> None:
        self._now_ms: int = recording["started_ms"]
        self._kept: dict[str, list[dict[str, str]]] = {}
        self.requests: list[tuple[bytes, bytes]] = []
        """Those of today, each beside the one of the release that had this answer."""
        for step in recording["steps"]:
            if "op" in step:
                self._kept.setdefault(step["op"], []).append(step)

    def now_ms(self) -> int:
        return self._now_ms

    def advance(self, ms: int) -> None:
        """Let time pass."""
        self._now_ms += ms

    def accept(self) -> Callable[[bytes], bytes]:
        return self._answer

    def _answer(self, frame: bytes) -> bytes:
        kept = self._kept[Op(Header.of(frame).op).name]
        step = kept.pop(0) if len(kept) > 1 else kept[0]  # the last is for all that come later
        self.requests.append((frame, bytes.fromhex(step["request"])))
        reply = bytes.fromhex(step["reply"])
        return reply[:4] + frame[4:8] + reply[8:]


OPTIONS: Final = ClientOptions(timeout=10, min_connections=1, max_connections=1)


async def play(client: PresenceClient, node: Any, call: str, arguments: dict[str, Any]) -> Any:
    """Do one call; what came of it, as JSON has it."""
    if call == "advance":
        node.advance(**arguments)
        return None
    result = await getattr(client, call)(**arguments)
    if call == "get_many":
        ages = list(result.ages) if arguments.get("ages") else None
        return {"statuses": [status.name for status in result], "ages": ages}
    if call == "status":
        return [[node.name, node.epoch, node.users, node.warming, node.draining] for node in result]
    return result._asdict() if hasattr(result, "_asdict") else result


async def record(release: str) -> dict[str, Any]:
    """What the code of today says."""
    facts = {
        "release": release,
        "protocol": VERSION,
        "node": NODE,
        "boot_id": BOOT_ID,
        "started_ms": STARTED_MS,
        "topology": TOPOLOGY,
    }
    world = World(facts)
    recorder = Recorder(world)
    calls: list[dict[str, Any]] = []
    async with PresenceClient(recorder, OPTIONS) as client:
        for call, arguments in CALLS:
            if call == "advance":
                recorder.steps.append({"advance_ms": arguments["ms"]})
            result = await play(client, world, call, arguments)
            calls.append({"call": call, "arguments": arguments, "result": result})
    return facts | {"calls": json.loads(json.dumps(calls)), "steps": recorder.steps, "words": words()}


def words() -> list[dict[str, Any]]:
    """What a node says without being asked, or to say no."""
    said: list[dict[str, Any]] = []
    for op, code, after_ms in ((Op.GOAWAY, 19, 10_000), (Op.ERROR, 18, 250), (Op.ERROR, 2, 0)):
        frame = encode_frame(
            op, 0, STARTED_MS, messages.encode_error(code, "as it was", after_ms), reply=True
        )
        said.append({"op": op.name, "code": code, "after_ms": after_ms, "frame": frame.hex()})
    return said


def recordings() -> list[Path]:
    """All there are."""
    return sorted(DIRECTORY.glob("*.json"))


if __name__ == "__main__":
    made = json.dumps(asyncio.run(record(sys.argv[1])), indent=1, ensure_ascii=False)
    with (DIRECTORY / f"{sys.argv[1]}.json").open("x", encoding="utf-8") as file:  # released: it stays
        file.write(f"{made}\n")
