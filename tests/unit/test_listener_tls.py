"""TLS on the data port: strangers are refused as in plain, and new certificates cost no connection."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import pytest
import trustme
from support.loops import on_each_loop
from support.raw_peer import PATIENCE_S, RawPeer
from support.served import Served, served

from pulsering import limits, messages
from pulsering.wire import ErrorCode, Op
from pulsering_server.stats import Close
from pulsering_server.tls import TlsFailed, TlsLayer

AUTHORITY = trustme.CA()
CLIENTS = trustme.CA()


def node_context(authority: trustme.CA = AUTHORITY, *, clients: trustme.CA | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        clients.configure_trust(context)
    return context


def peer_context(authority: trustme.CA = AUTHORITY, *, shows: trustme.CA | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if shows is not None:
        shows.issue_cert("service.test").configure_cert(context)
    return context


class TlsPeer(RawPeer):
    """A raw peer that shakes hands for TLS first."""

    def __init__(self, node: Served, context: ssl.SSLContext) -> None:
        super().__init__(*node.listener.address, clock_ms=lambda: node.world.now_ms)
        self._context = context

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(PATIENCE_S):
            self.reader, self.writer = await asyncio.open_connection(
                *self._where, ssl=self._context, limit=1 << 16
            )
        return self


@asynccontextmanager
async def served_by_tls(context: ssl.SSLContext, **limits_of_node: int) -> AsyncIterator[Served]:
    async with served(**limits_of_node) as node:
        node.listener.tls = context
        yield node


@on_each_loop
async def test_the_data_plane_works_under_tls() -> None:
    """With frames larger than a TLS record, both ways, and many at once."""
    async with served_by_tls(node_context()) as node, TlsPeer(node, peer_context()) as peer:
        await peer.greet()
        keys = b"".join(key.to_bytes(8, "little") for key in range(8192))
        body = messages.encode_keys_request(1, 0, keys)
        for _ in range(3):
            reply = await peer.ask(Op.HEARTBEAT, body)
            assert messages.decode_write_reply(reply.body, 8192).accepted == 8192
        many = b"".join(peer.request(Op.GET, messages.encode_keys_request(1, 1, keys)) for _ in range(20))
        await peer.say(many)
        for _ in range(20):
            found = messages.decode_get_reply((await peer.frame()).body, 8192, want_ages=True)
            assert bytes(found.states) == b"\x55" * 2048
        assert node.core.table.online == 8192


@on_each_loop
async def test_a_client_in_plain_is_told_so_in_its_own_words() -> None:
    async with served_by_tls(node_context()) as node, node.peer() as peer:
        await peer.say(peer.request(Op.HELLO))
        error = await peer.error()
        assert (error.code, error.message) == (
            ErrorCode.BAD_FRAME,
            "this port speaks TLS: presences:// instead of presence://",
        )
        assert await peer.rest() == b""


@on_each_loop
async def test_a_browser_in_plain_is_told_as_ever() -> None:
    async with served_by_tls(node_context()) as node, node.peer() as peer:
        await peer.say(b"GET / HTTP/1.1\r\n\r\n")
        assert (await peer.rest()).startswith(b"HTTP/1.0 400")


@on_each_loop
async def test_who_does_not_shake_hands_is_held_to_the_time_of_hello() -> None:
    """And counts as a connection meanwhile: strangers cannot take more than there are."""
    async with served_by_tls(node_context(), connections=1) as node, node.peer() as peer:
        await peer.say(b"\x16\x03\x01")
        await node.until(lambda: node.stats.connections_open == 1)
        async with node.peer() as second:
            assert await second.rest() == b"", "no word can be said without a handshake"
        node.world.advance(limits.HELLO_TIMEOUT_MS)
        assert await peer.rest() == b""
        assert node.stats.connections_closed[Close.HELLO_TIMEOUT] == 1


@on_each_loop
async def test_garbage_in_a_handshake_ends_it() -> None:
    async with served_by_tls(node_context()) as node, node.peer() as peer:
        await peer.say(b"\x16" + b"\xff" * 300)
        await peer.rest()
        assert node.stats.connections_closed[Close.TLS] == 1


@on_each_loop
async def test_new_certificates_are_for_new_connections_and_old_ones_stay() -> None:
    second = trustme.CA()
    async with served_by_tls(node_context()) as node, TlsPeer(node, peer_context()) as old:
        await old.greet()
        node.listener.tls = node_context(second)
        with pytest.raises(ssl.SSLCertVerificationError):
            async with TlsPeer(node, peer_context()):
                pass
        async with TlsPeer(node, peer_context(second)) as new:
            await new.greet()
            assert (await old.ask(Op.PING)).op == Op.PING
            assert (await new.ask(Op.PING)).op == Op.PING


@on_each_loop
async def test_mutual_tls_lets_in_only_whom_the_authority_knows() -> None:
    async with served_by_tls(node_context(clients=CLIENTS)) as node:
        async with TlsPeer(node, peer_context(shows=CLIENTS)) as peer:
            await peer.greet()
        for stranger in (peer_context(), peer_context(shows=trustme.CA())):
            with pytest.raises((ssl.SSLError, EOFError, ConnectionError)):
                async with TlsPeer(node, stranger) as peer:
                    await peer.greet()
        await node.until(lambda: node.stats.connections_closed[Close.TLS] == 2)
        assert node.stats.requests[Op.HELLO] == 1


@on_each_loop
async def test_a_peer_that_says_goodbye_by_tls_has_left() -> None:
    async with served_by_tls(node_context()) as node, TlsPeer(node, peer_context()) as peer:
        await peer.greet()
        peer.writer.close()
        await node.until(lambda: node.stats.connections_closed[Close.LEFT] == 1)


@on_each_loop
async def test_the_node_ends_tls_in_order() -> None:
    """A bare end of the socket looks to a peer like somebody cut the line."""
    async with served_by_tls(node_context()) as node, TlsPeer(node, peer_context()) as peer:
        await peer.say(peer.request(Op.PING))
        assert (await peer.error()).code == ErrorCode.HELLO_REQUIRED
        assert await peer.reader.read() == b""


def test_the_layer_alone_says_why_it_failed() -> None:
    layer = TlsLayer(node_context())
    with pytest.raises(TlsFailed, match="no TLS") as caught:
        layer.receive(memoryview(b"\xc1\x01"))
    assert caught.value.plain
    assert layer.wrap(b"too early") == b""
    assert layer.farewell() == b""


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_a_handshake_may_come_in_any_pieces(cut: int) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = peer_context().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    layer, heard = TlsLayer(node_context()), b""
    for _ in range(10):
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            pass
        said = outgoing.read()
        for start in range(0, len(said), cut):
            heard += layer.receive(memoryview(said[start : start + cut]))
            incoming.write(layer.take())
    client.write(b"hello")
    said = outgoing.read()
    for start in range(0, len(said), cut):
        heard += layer.receive(memoryview(said[start : start + cut]))
    assert heard == b"hello"
    incoming.write(layer.take() + layer.wrap(b"welcome"))
    assert client.read(100) == b"welcome"
