"""PostgreSQL: the textbook table ``pulse(user_id, last_hb)``, unlogged, written by batched upserts.

Everything that a presence store can do without is off: write-ahead log of the table, fsync, waiting for
commits. Half of each page is left free at first, so that a refresh finds room beside the old row and no index
is touched (a HOT update). Statements are prepared once and a batch is one Bind, Execute and Sync of the
frontend protocol with a binary array; ids are sorted, which spares the index and keeps concurrent batches
from deadlocks. Ids of 64 bits without sign are stored as the signed integers of the same bits.
"""

import shutil
import struct
from collections.abc import Sequence
from pathlib import Path
from socket import socket
from time import monotonic, sleep
from typing import Any, Final

import numpy as np
import psycopg

from pulsering_bench.peers.base import Checked, Client, Ids, Mask, Peer, Request
from pulsering_bench.servers import HOST, Server

__all__ = ["PostgreSQL"]

_USER: Final = "postgres"
_TABLE: Final = (
    "CREATE UNLOGGED TABLE pulse (user_id bigint PRIMARY KEY, last_hb timestamptz NOT NULL)"
    " WITH (fillfactor = 50)"
)
_UPSERT: Final = (
    "INSERT INTO pulse SELECT u, clock_timestamp() FROM unnest({}::bigint[]) u"
    " ON CONFLICT (user_id) DO UPDATE SET last_hb = EXCLUDED.last_hb"
)
_SELECT: Final = (
    "SELECT user_id FROM pulse WHERE user_id = ANY({}::bigint[])"
    " AND last_hb > clock_timestamp() - interval '{} s'"
)
_SETTINGS: Final = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_connections": "40",
    "jit": "off",
    "listen_addresses": HOST,
    "unix_socket_directories": "",
}
_SHARED_BYTES_PER_USER: Final = 400
"""For shared_buffers: the whole table stays in them, with its dead rows and its index."""

_STARTUP_S: Final = 30.0
_INT8_OID: Final = 20
_ROW: Final = np.dtype([("type", "S1"), ("size", ">i4"), ("columns", ">i2"), ("bytes", ">i4"), ("id", ">u8")])


class PostgreSQL(Peer):
    """One row a user."""

    name = "postgresql"
    title = "PostgreSQL"
    design = "unlogged pulse(user_id, last_hb), upsert of a batch by unnest, = ANY; fsync off, fillfactor 50"
    install = "apt-get install postgresql"
    client_title = "psycopg 3"

    @classmethod
    def folder(cls) -> Path | None:
        """Where the newest server's programs are."""
        found = sorted(
            Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: path.parts[4].zfill(4)
        )
        if found:
            return found[-1].parent
        initdb = shutil.which("initdb")
        return Path(initdb).parent if initdb else None

    @classmethod
    def missing(cls) -> str | None:
        """Peer: what is not installed."""
        return None if cls.folder() else "postgresql"

    def start(self) -> None:
        """Peer: a new database cluster, as the user postgres when we are root."""
        folder = self.folder()
        assert folder is not None
        self.server = Server(self.title, self.scale.core, _USER)
        data = str(self.server.folder / "data")
        try:
            self.server.run(
                [
                    *(str(folder / "initdb"), "-D", data, "-U", _USER, "--auth=trust", "--no-sync"),
                    *("--encoding=UTF8", "--locale=C"),
                ]
            )
            megabytes = 64 + self.scale.users * _SHARED_BYTES_PER_USER // 10**6
            settings = _SETTINGS | {"port": str(self.server.port), "shared_buffers": f"{megabytes}MB"}
            options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
            self.server.start([str(folder / "postgres"), "-D", data, *options])
            self._await_start()
            with self._control() as connection:
                connection.execute(_TABLE)
        except BaseException:
            self.stop()
            raise

    def _await_start(self) -> None:
        """It accepts connections, only to refuse them, before it is up."""
        until = monotonic() + _STARTUP_S
        while True:
            try:
                self._control().close()
                return
            except psycopg.OperationalError:
                if monotonic() > until:
                    raise
                sleep(0.05)

    def version(self) -> str:
        """Peer: from the server."""
        with self._control() as connection:
            row: Any = connection.execute("SHOW server_version").fetchone()
        return str(row[0]).split()[0]

    def connect(self) -> socket:
        """Peer: log in and prepare both statements."""
        sock = super().connect()
        sock.sendall(_startup() + _parse(b"u", _UPSERT.format("$1")))
        sock.sendall(_parse(b"g", _SELECT.format("$1", self.scale.hold_s)) + _message(b"S", b""))
        data = b""
        while not data.count(b"Z\0\0\0\5I") >= 2:
            chunk = sock.recv(1 << 16)
            if not chunk:
                raise ConnectionError(f"PostgreSQL hung up: {data!r}")
            data += chunk
        return sock

    def refresh(self, ids: Ids) -> Request:
        """Peer: one upsert of the batch."""
        expected = b"2\0\0\0\4" + _message(b"C", b"INSERT 0 %d\0" % len(ids)) + b"Z\0\0\0\5I"
        return Request(_execute(b"u", np.sort(ids)), expected, len(ids), ids)

    def get(self, ids: Ids, online: Mask) -> Request:
        """Peer: one select of the batch, which returns those online."""
        order = np.argsort(ids)
        return Request(_execute(b"g", ids[order]), b"", len(ids), ids[order], online[order])

    def check(self, request: Request, data: bytes, at: int) -> Checked | None:
        """Peer: rows come in any order, so those of a get are always read."""
        return super().check(request, data, at) if request.online is None else self.judge(request, data, at)

    def judge(self, request: Request, data: bytes, at: int) -> Checked | None:
        """Peer: messages up to ReadyForQuery."""
        if data[at : at + 1] == b"2":
            at += 5
        begin = at
        rows_end = begin
        if request.online is not None:  # rows are of one size: step over those that should be there at once
            likely = begin + _ROW.itemsize * int(request.online.sum())
            if data[likely : likely + 1] in (b"C", b"D") and len(data) > likely + 6:
                rows_end = at = likely
        tag = b""
        while True:
            if len(data) < at + 5:
                return None
            kind, (size,) = data[at : at + 1], struct.unpack_from(">i", data, at + 1)
            if len(data) < at + 1 + size:
                return None
            at += 1 + size
            if kind == b"D":
                rows_end = at
            elif kind == b"C":
                tag = data[at - size + 4 : at - 1]
            elif kind == b"Z":
                break
        if request.online is None:
            return Checked(at, 0 if tag == b"INSERT 0 %d" % request.users else request.users)
        if not tag.startswith(b"SELECT "):
            return Checked(at, request.users)
        count = (rows_end - begin) // _ROW.itemsize
        found = np.sort(np.frombuffer(data, _ROW, count, begin)["id"].astype(np.uint64))
        expected = request.ids[request.online]
        if len(found) == len(expected) and bool((found == expected).all()):
            return Checked(at, 0)
        return Checked(at, len(np.setxor1d(found, expected)))

    def count(self) -> int | None:
        """Peer: reads every row."""
        with self._control() as connection:
            row: Any = connection.execute(
                "SELECT count(*) FROM pulse WHERE last_hb > clock_timestamp() - make_interval(secs => %s)",
                (self.scale.hold_s,),
            ).fetchone()
        return int(row[0])

    def client(self) -> Client:
        """Peer: execute with a list for an array."""
        return _PsycopgClient(self._control(), self.scale.hold_s)

    def _control(self) -> "psycopg.Connection[Any]":
        assert self.server is not None
        return psycopg.connect(
            host=HOST,
            port=self.server.port,
            user=_USER,
            dbname="postgres",
            autocommit=True,
            sslmode="disable",
        )


class _PsycopgClient(Client):
    def __init__(self, connection: "psycopg.Connection[Any]", ttl_s: int) -> None:
        self._connection = connection
        self._select = _SELECT.format("%s", ttl_s)

    def prepare(self, ids: Ids) -> Any:
        return ids.view(np.int64).tolist()

    def refresh(self, ids: list[int]) -> int:
        cursor = self._connection.execute(_UPSERT.format("%s"), (ids,), prepare=True, binary=True)
        return len(ids) - cursor.rowcount

    def get(self, ids: list[int]) -> Sequence[int]:
        cursor = self._connection.execute(self._select, (ids,), prepare=True, binary=True)
        online = {row[0] for row in cursor.fetchall()}
        return [user in online for user in ids]

    def close(self) -> None:
        self._connection.close()


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">i", len(body) + 4) + body


def _startup() -> bytes:
    body = struct.pack(">i", 3 << 16) + b"user\0%b\0database\0postgres\0\0" % _USER.encode()
    return struct.pack(">i", len(body) + 4) + body


def _parse(name: bytes, sql: str) -> bytes:
    return _message(b"P", name + b"\0" + sql.encode() + b"\0" + struct.pack(">h", 0))


def _execute(statement: bytes, ids: Ids) -> bytearray:
    """Bind with one array of bigint, all formats binary; Execute; Sync."""
    elements = np.empty(len(ids), np.dtype([("size", ">i4"), ("id", ">u8")]))
    elements["size"] = 8
    elements["id"] = ids
    array = struct.pack(">iiiii", 1, 0, _INT8_OID, len(ids), 1) + elements.tobytes()
    parameters = struct.pack(">hhhi", 1, 1, 1, len(array)) + array
    bind = b"\0" + statement + b"\0" + parameters + struct.pack(">hh", 1, 1)
    execute = b"\0" + struct.pack(">i", 0)
    return bytearray(_message(b"B", bind) + _message(b"E", execute) + _message(b"S", b""))
