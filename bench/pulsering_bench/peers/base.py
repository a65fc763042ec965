"""What the bench must know of a presence store to compare it: how it runs, and the bytes it speaks.

A peer makes requests ahead of time, so that the generator only sends them, and knows beforehand which bytes
come back if every answer is right. Comparing is then all that verification costs; only when the bytes differ
is the reply read and the wrong answers counted. Invariant: a reply is never taken for right unread.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from socket import IPPROTO_TCP, TCP_NODELAY, create_connection, socket
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pulsering_bench.servers import HOST, Server
from pulsering_bench.usage import tree_of

__all__ = ["Call", "Checked", "Client", "Ids", "Mask", "Peer", "Request", "Scale", "differences", "rows"]

Ids = NDArray[np.uint64]
Mask = NDArray[np.bool_]


@dataclass(slots=True)
class Request:
    """One batch: the bytes to send, and what must come back. ``online`` is None for a refresh."""

    data: bytearray
    expected: bytes
    users: int
    ids: Ids
    online: Mask | None = None


class Checked(NamedTuple):
    """A reply that was read: where it ends, how many of its answers are wrong, or that it has none.

    A server that is overloaded may refuse a request; that is honest, but nothing was done for it.
    """

    end: int
    wrong: int
    refused: bool = False


class Scale(NamedTuple):
    """What a peer is told before it starts."""

    users: int
    ttl_s: int
    """Seconds until a user who is not refreshed is offline."""

    hold_s: int
    """For stores in which a ttl comes with the user: what the rates are measured with, so that nobody expires
    meanwhile. Stores with one ttl for all have ``ttl_s`` and are refreshed between the rounds."""

    core: int


class Call(NamedTuple):
    """A batch for a ``Client``: ids as it prepared them, and for a get a byte a user, 1 for who is online."""

    ids: Any
    online: bytes | None = None


class Client(ABC):
    """The Python client that users of this store would take, as one caller uses it: batch after batch.

    Ids come in the form that it takes fastest; making that of them is not measured.
    """

    def run(self, calls: Iterable[Call]) -> int:
        """Make these calls, each when the one before is answered; how many answers were wrong."""
        wrong = 0
        for ids, online in calls:
            wrong += self.refresh(ids) if online is None else differences(self.get(ids), online)
        return wrong

    def prepare(self, ids: Ids) -> Any:
        """Ids as this client takes them fastest."""
        return ids.tolist()

    @abstractmethod
    def refresh(self, ids: Any) -> int:
        """Send heartbeats; how many were not taken."""

    @abstractmethod
    def get(self, ids: Any) -> Sequence[int]:
        """1 for each who is online, 0 for each who is not."""

    @abstractmethod
    def close(self) -> None:
        """Hang up."""


class Peer(ABC):
    """One store in one design. ``start`` it, open ``connect``ions, send what ``refresh`` and ``get`` make."""

    name: ClassVar[str]
    title: ClassVar[str]
    design: ClassVar[str]
    install: ClassVar[str]
    """The command that installs it."""

    client_title: ClassVar[str] = ""
    has_library: ClassVar[bool] = True
    """Whether there is a client library; the ratios through the clients are against these."""

    one_key_per_user: ClassVar[bool] = True
    """The ratios are against these; the others pack many users into one key and are shown beside."""

    keeps_hold: ClassVar[bool] = True
    """Whether ``hold_s`` applies."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.server: Server | None = None
        self.unknown = 0
        """Answers that were an honest unknown, for users who were never online: not wrong, but said."""

    @classmethod
    @abstractmethod
    def missing(cls) -> str | None:
        """What is not installed, or None."""

    @abstractmethod
    def start(self) -> None:
        """Run the server."""

    @abstractmethod
    def version(self) -> str:
        """Of the server."""

    @abstractmethod
    def refresh(self, ids: Ids) -> Request:
        """A batch of heartbeats; no id twice."""

    @abstractmethod
    def get(self, ids: Ids, online: Mask) -> Request:
        """A batch get, and who should be online; no id twice."""

    @abstractmethod
    def judge(self, request: Request, data: bytes, at: int) -> Checked | None:
        """Read a reply that is not as expected; None if it is not whole yet."""

    @abstractmethod
    def count(self) -> int | None:
        """Users online, as the store counts them; None if it cannot."""

    @abstractmethod
    def client(self) -> Client:
        """Its Python client, connected."""

    def check(self, request: Request, data: bytes, at: int) -> Checked | None:
        """Read the reply at ``at``; None if it is not whole yet."""
        expected = request.expected
        end = at + len(expected)
        if data[at:end] == expected:
            return Checked(end, 0)
        if expected.startswith(data[at:]):
            return None
        return self.judge(request, data, at)

    def stamp(self, request: Request) -> None:
        """Put into the request what only its sending knows, such as the time; most need nothing."""
        del request

    def warm_in_s(self) -> float:
        """Seconds until it may be asked for users that it does not hold."""
        return 0.0

    def stop(self) -> None:
        """End the server."""
        if self.server is not None:
            self.server.stop()
            self.server = None

    def pids(self) -> list[int]:
        """The server's processes."""
        return [] if self.server is None else tree_of(self.server.pid)

    def connect(self) -> socket:
        """A connection that may be used at once."""
        assert self.server is not None
        sock = create_connection((HOST, self.server.port), timeout=20)
        sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        return sock


def differences(found: Sequence[int], online: bytes) -> int:
    """How many answers are wrong; anything but 1 is not online."""
    if (answers := bytes(found)) == online:
        return 0
    return sum((a == 1) != (b == 1) for a, b in zip(answers, online, strict=True))  # 2 is unknown


def rows(template: bytes, count: int, fields: dict[int, NDArray[np.uint8]]) -> bytearray:
    """``template`` ``count`` times, with the columns of ``fields`` written over it at their offsets."""
    table = np.tile(np.frombuffer(template, np.uint8), (count, 1))
    for at, columns in fields.items():
        table[:, at : at + columns.shape[1]] = columns
    return bytearray(table.tobytes())
