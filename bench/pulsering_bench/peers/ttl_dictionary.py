"""The home-made service: a dictionary of deadlines in one Python process, behind a small binary protocol.

What a backend engineer writes in an afternoon, at its best: uvloop, packed ids, and whole batches handed to
the dictionary in C. A request is an op, a number of ids and the ids; a refresh is answered by one byte, a get
by one byte an id. Readers compare deadlines with the clock; four times a ttl what has expired is taken out,
a bounded slice at a time.

``python -m pulsering_bench.peers.ttl_dictionary PORT TTL_S`` is the server.
"""

import asyncio
import itertools
import struct
import sys
import time
from array import array
from collections.abc import Sequence
from socket import socket
from typing import Any, Final

import numpy as np
import uvloop

from pulsering_bench.peers.base import Checked, Client, Ids, Mask, Peer, Request
from pulsering_bench.servers import HOST, Server

__all__ = ["TtlDictionary"]

_HEADER: Final = struct.Struct("<BI")
_COUNT: Final = struct.Struct("<Q")
REFRESH, GET, COUNT = 1, 2, 3
_SWEEPS_PER_TTL: Final = 4
_SLICE: Final = 100_000


class _Service(asyncio.Protocol):
    """One connection to the dictionary."""

    def __init__(self, deadlines: dict[int, float], ttl_s: float) -> None:
        self._deadlines = deadlines
        self._ttl_s = ttl_s
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio: the client is there."""
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Asyncio: answer all requests that are whole."""
        self._buffer += data
        replies, at = [], 0
        while len(self._buffer) - at >= _HEADER.size:
            op, count = _HEADER.unpack_from(self._buffer, at)
            end = at + _HEADER.size + 8 * count
            if len(self._buffer) < end:
                break
            ids = array("Q")
            ids.frombytes(self._buffer[at + _HEADER.size : end])
            replies.append(self._answer(op, ids))
            at = end
        del self._buffer[:at]
        self._transport.write(b"".join(replies))

    def _answer(self, op: int, ids: "array[int]") -> bytes:
        now = time.monotonic()
        if op == REFRESH:
            self._deadlines.update(zip(ids, itertools.repeat(now + self._ttl_s)))
            return b"\1"
        if op == GET:
            known = self._deadlines.get
            return bytes([known(user, 0.0) > now for user in ids])
        return _COUNT.pack(sum(deadline > now for deadline in self._deadlines.values()))


async def _sweep(deadlines: dict[int, float], every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        users = list(deadlines)
        for start in range(0, len(users), _SLICE):
            now = time.monotonic()
            for user in users[start : start + _SLICE]:
                if deadlines[user] <= now:
                    del deadlines[user]
            await asyncio.sleep(0)


async def _serve(port: int, ttl_s: float) -> None:
    deadlines: dict[int, float] = {}
    server = await asyncio.get_running_loop().create_server(lambda: _Service(deadlines, ttl_s), HOST, port)
    async with server:
        await _sweep(deadlines, ttl_s / _SWEEPS_PER_TTL)


class TtlDictionary(Peer):
    """One entry a user."""

    name = "ttl-dictionary"
    title = "TTL dictionary in Python"
    design = "dict of id to deadline in one uvloop process, packed ids on the wire"
    install = "nothing to install"
    client_title = "a socket and array('Q')"
    has_library = False

    @classmethod
    def missing(cls) -> str | None:
        """Peer: it is part of the bench."""
        return None

    def start(self) -> None:
        """Peer: run it in a process of its own."""
        self.server = Server(self.title, self.scale.core)
        self.server.start([sys.executable, "-m", __name__, str(self.server.port), str(self.scale.hold_s)])

    def version(self) -> str:
        """Peer: Python's."""
        return f"CPython {sys.version.split()[0]}"

    def refresh(self, ids: Ids) -> Request:
        """Peer: op 1."""
        return Request(_request(REFRESH, ids), b"\1", len(ids), ids)

    def get(self, ids: Ids, online: Mask) -> Request:
        """Peer: op 2."""
        return Request(_request(GET, ids), online.astype(np.uint8).tobytes(), len(ids), ids, online)

    def judge(self, request: Request, data: bytes, at: int) -> Checked | None:
        """Peer: a byte an answer."""
        end = at + len(request.expected)
        if len(data) < end:
            return None
        if request.online is None:
            return Checked(end, request.users)
        answers = np.frombuffer(data, np.uint8, end - at, at)
        return Checked(end, int((answers != np.frombuffer(request.expected, np.uint8)).sum()))

    def count(self) -> int | None:
        """Peer: looks at every entry."""
        with self.connect() as sock:
            sock.sendall(_HEADER.pack(COUNT, 0))
            return int(_COUNT.unpack(_receive(sock, _COUNT.size))[0])

    def client(self) -> Client:
        """Peer: the ten lines that its author would write."""
        return _DictionaryClient(self.connect())


class _DictionaryClient(Client):
    def __init__(self, sock: socket) -> None:
        self._socket = sock

    def prepare(self, ids: Ids) -> Any:
        return array("Q", ids.tobytes())

    def refresh(self, ids: "array[int]") -> int:
        self._socket.sendall(_HEADER.pack(REFRESH, len(ids)) + ids.tobytes())
        return 0 if _receive(self._socket, 1) == b"\1" else len(ids)

    def get(self, ids: "array[int]") -> Sequence[int]:
        self._socket.sendall(_HEADER.pack(GET, len(ids)) + ids.tobytes())
        return list(map(bool, _receive(self._socket, len(ids))))

    def close(self) -> None:
        self._socket.close()


def _request(op: int, ids: Ids) -> bytearray:
    return bytearray(_HEADER.pack(op, len(ids)) + ids.astype("<u8", copy=False).tobytes())


def _receive(sock: socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = sock.recv(size - len(data))
        if not chunk:
            raise ConnectionError("the dictionary hung up")
        data += chunk
    return data


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
