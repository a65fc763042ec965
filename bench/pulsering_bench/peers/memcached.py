"""memcached: an item a user, written by quiet meta sets with a ttl, read by meta gets.

A quiet set answers only when something went wrong, so a batch is closed by ``mn``, which answers always. A
meta get without flags answers ``HD`` or ``EN``, four bytes either way. Keys are the id's 8 bytes in 11
characters, as the text protocol allows no others; ``-C`` drops the 8 bytes of CAS, and small first
class and a growth factor of 1.05 make an item 64 bytes instead of 96.
"""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from pymemcache.client.base import (  # type: ignore[import-untyped,unused-ignore]
    Client as PymemcacheClient,
)

from pulsering_bench.peers.base import Checked, Client, Ids, Mask, Peer, Request, rows
from pulsering_bench.servers import HOST, Server

__all__ = ["Memcached"]

_ALPHABET: Final = np.frombuffer(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", np.uint8
)
_BYTES_PER_USER: Final = 140
"""For the server's limit, so that it never evicts."""


class Memcached(Peer):
    """One item a user."""

    name = "memcached"
    title = "memcached"
    design = "quiet meta set with T, meta get; keys of 11 bytes; one thread, -C -n 5 -f 1.05"
    install = "apt-get install memcached"
    client_title = "pymemcache"

    @classmethod
    def missing(cls) -> str | None:
        """Peer: what is not installed."""
        return None if shutil.which("memcached") else "memcached"

    def start(self) -> None:
        """Peer: run the server."""
        self.server = Server(self.title, self.scale.core)
        megabytes = 256 + self.scale.users * _BYTES_PER_USER // 10**6
        as_root = ("-u", "root") if os.geteuid() == 0 else ()
        self.server.start(
            [
                *("memcached", "-l", HOST, "-p", str(self.server.port), "-t", "1", "-m", str(megabytes)),
                *("-C", "-n", "5", "-f", "1.05", *as_root),
            ]
        )

    def version(self) -> str:
        """Peer: from the program."""
        return subprocess.run(["memcached", "-V"], capture_output=True, text=True, check=True).stdout.split()[
            1
        ]

    def refresh(self, ids: Ids) -> Request:
        """Peer: quiet sets, then one ``mn``."""
        template = b"ms ........... 1 T%d q\r\n1\r\n" % self.scale.hold_s
        data = rows(template, len(ids), {3: _text(ids)}) + b"mn\r\n"
        return Request(data, b"MN\r\n", len(ids), ids)

    def get(self, ids: Ids, online: Mask) -> Request:
        """Peer: meta gets in a row."""
        data = rows(b"mg ...........\r\n", len(ids), {3: _text(ids)})
        expected = b"".join(b"HD\r\n" if on else b"EN\r\n" for on in online)
        return Request(data, expected, len(ids), ids, online)

    def judge(self, request: Request, data: bytes, at: int) -> Checked | None:
        """Peer: four bytes an answer; what stands before ``MN`` are sets that failed."""
        if request.online is None:
            end = data.find(b"MN\r\n", at) + 4
            return None if end == 3 else Checked(end, data.count(b"\r\n", at, end) - 1)
        end = at + 4 * request.users
        if len(data) < end:
            return None
        answers = np.frombuffer(data[at:end], "S4")
        hits, misses = answers == b"HD\r\n", answers == b"EN\r\n"
        return Checked(end, int(((hits != request.online) | ~(hits | misses)).sum()))

    def count(self) -> int | None:
        """Peer: ``curr_items``, which holds what has not been removed yet."""
        assert self.server is not None
        with socket.create_connection((HOST, self.server.port), timeout=10) as sock:
            sock.sendall(b"stats\r\n")
            data = b""
            while not data.endswith(b"END\r\n"):
                data += sock.recv(1 << 16)
        found = re.search(rb"curr_items (\d+)", data)
        assert found is not None
        return int(found[1])

    def client(self) -> Client:
        """Peer: set_many without replies, and get_many."""
        assert self.server is not None
        return _MemcachedClient(self.server.port, self.scale.hold_s)


class _MemcachedClient(Client):
    def __init__(self, port: int, ttl_s: int) -> None:
        self._client: Any = PymemcacheClient((HOST, port), no_delay=True)
        self._ttl_s = ttl_s

    def prepare(self, ids: Ids) -> Any:
        return [key.tobytes() for key in _text(ids)]

    def refresh(self, ids: list[Any]) -> int:
        failed = self._client.set_many(dict.fromkeys(ids, b"1"), expire=self._ttl_s, noreply=True)
        return len(failed)

    def get(self, ids: list[Any]) -> Sequence[int]:
        found = self._client.get_many(ids)
        return [key in found for key in ids]

    def close(self) -> None:
        self._client.close()


def _text(ids: Ids) -> Any:
    """The characters of each id, six bits each from the top, as base64 has it."""
    shifts = np.array([58, 52, 46, 40, 34, 28, 22, 16, 10, 4], np.uint64)
    digits = (ids[:, None] >> shifts) & np.uint64(63)
    last = (ids[:, None] & np.uint64(15)) << np.uint64(2)
    return _ALPHABET[np.hstack([digits, last]).astype(np.intp)]
