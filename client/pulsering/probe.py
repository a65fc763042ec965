"""One question to one node: who are you, what do you follow, how are you?

For tools that have to know of a single node what a client of the whole cluster does not ask: whether it has
loaded a new topology, or, once it is part of none, whether it may be stopped. Nothing is kept open.
Invariant: the answer comes from the node at that address and from no other.
"""

import asyncio
from functools import partial
from typing import Any, NamedTuple

from pulsering._channel import Dialer
from pulsering._connection import resolve
from pulsering._request import Request
from pulsering.errors import ClientClosed, NodeUnavailable, ProtocolError
from pulsering.messages import EMPTY_BODY, Hello, Vitals, Welcome
from pulsering.topology import Topology
from pulsering.transport import connect_by
from pulsering.url import Address, ServiceUrl, parse_url
from pulsering.wire import VERSION, Op

__all__ = ["Probe", "probe", "probe_topology"]


class Probe(NamedTuple):
    """What a node says of itself: its answers to HELLO and to PING."""

    welcome: Welcome
    vitals: Vitals


async def probe(address: Address, url: ServiceUrl | None = None, timeout: float = 2.0) -> Probe:
    """Ask how a node is. ``url`` is its cluster's: for TLS, the token, and the name that is checked.

    Raises ``NodeUnavailable`` if it does not connect, or not answer, within ``timeout`` seconds, and
    ``ClusterMismatch`` if it is of another cluster than the one that ``url`` names.
    """
    return Probe(*await _ask(address, url, timeout, Op.PING))


async def probe_topology(address: Address, url: ServiceUrl | None = None, timeout: float = 2.0) -> Topology:
    """Ask which topology a node follows; raises what ``probe`` does, and ``ProtocolError`` for nonsense."""
    _, fields = await _ask(address, url, timeout, Op.TOPOLOGY)
    try:
        return Topology.from_wire(fields)
    except ValueError as error:
        raise ProtocolError(f"{address} sent a topology that cannot be: {error}", op="TOPOLOGY") from error


async def _ask(address: Address, url: ServiceUrl | None, timeout: float, op: Op) -> tuple[Welcome, Any]:
    loop = asyncio.get_running_loop()
    url = url or parse_url(f"presence://{address}")
    transport, options = connect_by(url, {"connect_timeout": timeout})
    hello = Hello(VERSION, VERSION, url.cluster, 0, 0, "pulsering-probe", options.token_now())
    dialer = Dialer(loop, options, transport, lambda: hello)
    connection, welcome = await dialer.dial("", address, lambda _: None)
    try:
        answer: asyncio.Future[Any] = loop.create_future()
        connection.send(Request(op, EMPTY_BODY, transport.now_ms(), partial(resolve, answer)))
        async with asyncio.timeout(timeout):
            return welcome, await answer
    except TimeoutError:
        raise NodeUnavailable(
            f"{address}: no answer to {op.name} within {timeout} s", node=str(address)
        ) from None
    finally:
        connection.close(ClientClosed("no longer needed"))
        await connection.wait_lost()
