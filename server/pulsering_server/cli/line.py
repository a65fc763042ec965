"""One connection to one node, to ask it again and again and time the answers.

What a client of the whole cluster hides, on purpose, is which node was slow: it asks another. A line asks its
node and nobody else, one request at a time, so that an answer is timed from the moment the question was due,
and a node that stands still shows as what it is. Invariant: nothing is retried.
"""

import asyncio
import random
import struct
from functools import partial
from typing import Any, Final, NamedTuple

from pulsering import PresenceClient
from pulsering._channel import Dialer
from pulsering._connection import Connection, resolve
from pulsering._request import Request
from pulsering.errors import ClientClosed, NodeUnavailable, PresenceError
from pulsering.ids import SLOT_SHIFT, SLOTS
from pulsering.messages import EMPTY_BODY, Hello, Vitals, Welcome, encode_keys_request
from pulsering.topology import Node, Topology
from pulsering.transport import connect_by
from pulsering.url import Address, ServiceUrl
from pulsering.wire import VERSION, Op

__all__ = ["Line", "Seen", "keys_owned", "look", "topology_at"]

_AT_ONCE: Final = 64
"""Nodes that are looked at at the same time."""


class Line:
    """A connection to ``node`` of the cluster at ``url``; ``await open()``, and ``await close()`` in the end.

    All methods raise a ``PresenceError`` if there is no answer within ``timeout_s``.
    """

    def __init__(self, url: ServiceUrl, cluster: str, node: Node, timeout_s: float) -> None:
        self.node = node
        self.welcome: Welcome | None = None
        self._transport, self._options = connect_by(url, {"timeout": timeout_s, "connect_timeout": timeout_s})
        self._cluster = cluster
        self.timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None

    async def open(self) -> Welcome:
        """Connect and shake hands."""
        hello = Hello(VERSION, VERSION, self._cluster, 0, 0, "pulsering-cli", self._options.token_now())
        dialer = Dialer(self._loop, self._options, self._transport, lambda: hello)
        address = Address(self.node.host, self.node.port)
        self._connection, self.welcome = await dialer.dial(self.node.name, address, lambda _: None)
        return self.welcome

    @property
    def alive(self) -> bool:
        """Whether it may still be asked."""
        return self._connection is not None and self._connection.error is None

    async def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close(ClientClosed("no longer needed"))
            await self._connection.wait_lost()
            self._connection = None

    async def ping(self) -> Vitals:
        """Ask how it is."""
        vitals: Vitals = await self._ask(Op.PING, EMPTY_BODY)
        return vitals

    async def get(self, keys: bytes) -> None:
        """Ask for a page of users."""
        assert self.welcome is not None
        await self._ask(Op.GET, encode_keys_request(self.welcome.epoch, 0, keys), len(keys) // 8)

    async def _ask(self, op: Op, body: bytes, count: int = 0) -> Any:
        assert self._connection is not None
        answer: asyncio.Future[Any] = self._loop.create_future()
        request = Request(op, body, self._transport.now_ms(), partial(resolve, answer))
        request.count = count
        self._connection.send(request)
        try:
            async with asyncio.timeout(self.timeout_s):
                return await answer
        except TimeoutError:
            message = (
                f"{self.node.name} ({self.node.address}): no answer to {op.name} in {self.timeout_s:g} s"
            )
            raise NodeUnavailable(message, node=self.node.name) from None
        finally:
            request.abandon()


class Seen(NamedTuple):
    """What a node said when it was looked at, or why it did not."""

    node: Node
    error: str = ""
    welcome: Welcome | None = None
    vitals: Vitals | None = None
    ping_ms: float | None = None

    @property
    def up(self) -> bool:
        """Whether it answered."""
        return self.vitals is not None


async def look(url: ServiceUrl, topology: Topology, timeout_s: float) -> list[Seen]:
    """Ask every node of a topology how it is, each once, and how long it takes to say so."""
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(node: Node) -> Seen:
        line = Line(url, topology.cluster, node, timeout_s)
        async with turns:
            try:
                welcome = await line.open()
                began_s = asyncio.get_running_loop().time()
                vitals = await line.ping()
                took_ms = (asyncio.get_running_loop().time() - began_s) * 1000
                return Seen(node, "", welcome, vitals, took_ms)
            except PresenceError as error:
                return Seen(node, str(error))
            finally:
                await line.close()

    return list(await asyncio.gather(*map(one, topology.nodes)))


async def topology_at(url: str, timeout_s: float) -> Topology:
    """The newest topology that the nodes at a URL follow; raises what opening a client does."""
    async with PresenceClient.from_url(url, timeout=timeout_s, connect_timeout=timeout_s) as client:
        return client.topology


def keys_owned(topology: Topology, node: str, count: int, rng: random.Random) -> bytes:
    """Random keys whose first owner is ``node``; those of its own at any rank if it is nobody's first."""
    index = topology.index_of(node)
    mine = [slot for slot, owner in enumerate(topology.column(0)) if owner == index]
    if not mine:
        mine = [place // topology.replicas for place, owner in enumerate(topology.owners) if owner == index]
    slots = rng.choices(mine or range(SLOTS), k=count)
    return struct.pack(f"<{count}Q", *(slot << SLOT_SHIFT | rng.getrandbits(SLOT_SHIFT) for slot in slots))
