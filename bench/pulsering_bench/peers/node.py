"""Pulsering as the bench sees it: one real node over TCP, driven by frames that were made ahead.

The node is ``pulsering serve``, as an operator runs it. A frame's header carries the time of its sending, by
which an overloaded node refuses what is late, so it is stamped when it goes. Sizes of keys and users are the
same as for the other peers: ids of 64 bits, hashed to keys here, as the client library does it.
"""

import asyncio
import itertools
import struct
import sys
from collections.abc import Iterable, Sequence
from socket import socket
from time import monotonic_ns
from typing import Any, Final

import numpy as np
import uvloop

from pulsering import PresenceClient, limits, messages
from pulsering import ids as user_ids
from pulsering.status import Status
from pulsering.wire import HEADER_BYTES, VERSION, ErrorCode, Frame, FrameReader, Op, encode_frame
from pulsering_bench.peers.base import Call, Checked, Client, Ids, Mask, Peer, Request, Scale, differences
from pulsering_bench.servers import Server

__all__ = ["PulseringNode"]

_HASH_SEED: Final = 0
_CLUSTER: Final = "bench"
_NODE: Final = "a"
_EPOCH: Final = 1
_REPLY: Final = struct.Struct("<BBBBIII")
_MS: Final = 1_000_000
_ONLINE: Final = int(Status.ONLINE)
_CALL_S: Final = 30.0


class PulseringNode(Peer):
    """One node that owns everything."""

    name = "pulsering"
    title = "Pulsering"
    design = "one node, HEARTBEAT and GET frames over TCP; the table is its own timing wheel"
    install = "pip install 'pulsering[bench]'"
    client_title = "pulsering.PresenceClient"
    keeps_hold = False

    def __init__(self, scale: Scale) -> None:
        super().__init__(scale)
        self._request_ids = itertools.count(1)

    @classmethod
    def missing(cls) -> str | None:
        """Peer: it is part of the bench."""
        return None

    def start(self) -> None:
        """Peer: a node from a cluster.yaml of its own."""
        self.server = Server(self.title, self.scale.core)
        config = self.server.folder / "cluster.yaml"
        config.write_text(
            f"version: 1\ncluster: {_CLUSTER}\nepoch: {_EPOCH}\nttl: {self.scale.ttl_s}s\nreplicas: 1\n"
            f'nodes:\n  - {{name: {_NODE}, address: "127.0.0.1:{self.server.port}"}}\n',
            "utf-8",
        )
        self.server.start(
            [sys.executable, "-m", "pulsering_server", "serve", "--config", str(config), "--node", _NODE]
        )

    def version(self) -> str:
        """Peer: what the node calls itself."""
        return self._ask(Op.PING, messages.EMPTY_BODY)[1].agent.partition("/")[2]

    def connect(self) -> socket:
        """Peer: HELLO and its answer."""
        sock = super().connect()
        hello = messages.Hello(VERSION, VERSION, _CLUSTER, _EPOCH, 0, "pulsering bench")
        _receive(sock, Op.HELLO, messages.encode_map(hello))
        return sock

    def refresh(self, ids: Ids) -> Request:
        """Peer: HEARTBEAT."""
        return self._write(Op.HEARTBEAT, 0, ids)

    def leave(self, ids: Ids, grace_ms: int = 0) -> Request:
        """LEAVE, with the same reply as HEARTBEAT."""
        return self._write(Op.LEAVE, grace_ms, ids)

    def get(self, ids: Ids, online: Mask) -> Request:
        """Peer: GET; two bits an answer."""
        states = np.zeros((len(ids) + 3) // 4 * 4, np.uint8)
        states[: len(ids)] = online
        packed = (states.reshape(-1, 4) << np.array([0, 2, 4, 6], np.uint8)).sum(axis=1, dtype=np.uint8)
        expected = messages.encode_get_reply(_EPOCH, 0, len(ids), packed.tobytes())
        return Request(self._frame(Op.GET, 0, ids), expected, len(ids), ids, online)

    def stamp(self, request: Request) -> None:
        """Peer: request id and the sender's clock."""
        data = request.data
        struct.pack_into("<I", data, 4, next(self._request_ids) & 0xFFFFFFFF)
        struct.pack_into("<I", data, 12, (monotonic_ns() // _MS) & 0xFFFFFFFF)

    def check(self, request: Request, data: bytes, at: int) -> Checked | None:
        """Peer: the body must be as expected; a header tells where it ends."""
        begin = at + HEADER_BYTES
        if len(data) < begin:
            return None
        size = int.from_bytes(data[at + 8 : at + 12], "little")
        if len(data) < begin + size:
            return None
        if data[begin : begin + size] == request.expected and data[at + 2] == request.data[2]:
            return Checked(begin + size, 0)
        return self.judge(request, data, at)

    def judge(self, request: Request, data: bytes, at: int) -> Checked | None:
        """Peer: an error answers nobody, and BUSY says so; else key by key."""
        _, _, op, _, _, size, _ = _REPLY.unpack_from(data, at)
        begin = at + HEADER_BYTES
        body = bytes(data[begin : begin + size])
        end = begin + size
        if op == Op.ERROR:
            busy = messages.decode_error(body).code == ErrorCode.BUSY
            return Checked(end, 0 if busy else request.users, busy)
        if request.online is None:
            return Checked(end, request.users - messages.decode_write_reply(body, request.users).accepted)
        reply = messages.decode_get_reply(body, request.users, want_ages=False)
        bits = np.frombuffer(reply.states, np.uint8)[:, None] >> np.array([0, 2, 4, 6], np.uint8)
        states = (bits & 3).reshape(-1)[: request.users]
        self.unknown += int((states == int(Status.UNKNOWN)).sum())
        return Checked(end, int(((states == _ONLINE) != request.online).sum()))

    def count(self) -> int | None:
        """Peer: COUNT."""
        frame, _ = self._ask(Op.COUNT, messages.encode_count_request(_EPOCH, ()))
        return messages.decode_count_reply(frame.body).online

    def warm_in_s(self) -> float:
        """Peer: one ttl after its start a node knows everybody who is online."""
        return self._ask(Op.PING, messages.EMPTY_BODY)[1].warming_ms / 1000

    def client(self) -> Client:
        """Peer: the blocking client."""
        assert self.server is not None
        return _PulseringClient(f"presence://127.0.0.1:{self.server.port}")

    def _write(self, op: Op, argument: int, ids: Ids) -> Request:
        expected = messages.encode_write_reply(messages.WriteReply(_EPOCH, len(ids), 0, 0, 0))
        return Request(self._frame(op, argument, ids), expected, len(ids), ids)

    def _frame(self, op: Op, argument: int, ids: Ids) -> bytearray:
        keys = user_ids.keys_of(ids, _HASH_SEED)
        return bytearray(encode_frame(op, 0, 0, messages.encode_keys_request(_EPOCH, argument, keys)))

    def _ask(self, op: Op, body: bytes) -> tuple[Frame, messages.Vitals]:
        """A control request on a connection of its own; PING's answer is decoded."""
        with self.connect() as sock:
            frame = _receive(sock, op, body)
        return frame, messages.decode_vitals(frame.body) if op == Op.PING else messages.Vitals(
            0, 0, 0, 0, False, ""
        )


class _PulseringClient(Client):
    """In an event loop that goes on running from call to call, as a backend's does."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._presence = PresenceClient.from_url(url, timeout=_CALL_S)
        self._runner.run(self._presence.open())

    def run(self, calls: Iterable[Call]) -> int:
        return self._runner.run(self._make(calls))

    async def _make(self, calls: Iterable[Call]) -> int:
        wrong = 0
        for ids, online in calls:
            if online is None:
                report = await self._presence.heartbeat_many(ids)
                wrong += report.total - report.accepted
            else:
                snapshot = await self._presence.get_many(ids)
                wrong += differences(snapshot.statuses, online)
        return wrong

    def prepare(self, ids: Ids) -> Any:
        return np.ascontiguousarray(ids)

    def refresh(self, ids: Ids) -> int:
        return self.run([Call(ids)])

    def get(self, ids: Ids) -> Sequence[int]:
        snapshot = self._runner.run(self._presence.get_many(ids))
        return snapshot.statuses  # 1 is online, as it has to be

    def close(self) -> None:
        self._runner.run(self._presence.aclose())
        self._runner.close()


def _receive(sock: socket, op: Op, body: bytes) -> Frame:
    """Send one request and wait for its reply."""
    sock.sendall(encode_frame(op, 1, monotonic_ns() // _MS, body))
    reader = FrameReader(limits.FRAME_BYTES_MAX)
    while (frame := reader.next_frame()) is None:
        data = sock.recv(1 << 16)
        if not data:
            raise ConnectionError("the node hung up")
        reader.feed(data)
    if frame.op != op:
        raise ConnectionError(f"the node refused {op.name}: {messages.decode_error(frame.body).message}")
    return frame
