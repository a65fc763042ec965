"""The admin port under TLS, and opened by tokens of the data port."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme
from support.http import Answer, parse
from support.loops import on_each_loop
from support.raw_peer import PATIENCE_S
from support.served import Served, served

from pulsering import limits
from pulsering_server.admin import Admin, Exposed
from pulsering_server.admin_tokens import Tokens
from pulsering_server.auth import Auth, Role
from pulsering_server.config import parse_config
from pulsering_server.config_values import Address
from pulsering_server.door import Door, Terms

AUTHORITY = trustme.CA()
TOKENS = {role: f"{role.name.lower()}-0123456789abcdef" for role in Role}
CONFIG = """
version: 1
cluster: demo
epoch: 1
replicas: 1
tls: {certificate: node.pem, admin: true}
nodes: [{name: a, address: "10.0.0.1:7400", admin: 0}]
"""


def context(authority: trustme.CA = AUTHORITY) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(made)
    return made


class Asked:
    def __init__(self, node: Served, admin: Admin, door: Door) -> None:
        self.node = node
        self.admin = admin
        self.door = door

    async def say(self, data: bytes, *, trusts: trustme.CA | None = AUTHORITY) -> bytes:
        """Send bytes, under TLS unless nobody is trusted; all that comes back."""
        peer = None
        if trusts is not None:
            peer = ssl.create_default_context()
            trusts.configure_trust(peer)
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(*self.admin.address, ssl=peer)
            try:
                writer.write(data)
                return await reader.read()
            finally:
                writer.transport.abort()

    async def ask(self, path: str, method: str = "GET", token: str = "", **options: Any) -> Answer:
        shown = f"Authorization: Bearer {token}\r\n" if token else ""
        return parse(
            await self.say(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{shown}\r\n".encode(), **options)
        )


@asynccontextmanager
async def asked(host: str = "127.0.0.1", auth: Auth | None = None) -> AsyncIterator[Asked]:
    async with served() as node:
        node.core.auth = auth
        door = Door(node.listener, exposed=False)
        door.follow(Terms(context(), auth))
        drain: list[int] = []
        admin = Admin(
            node.listener, parse_config(CONFIG), Tokens(None, {}), drain=lambda: drain.append(1), door=door
        )
        await admin.open(Address(host, 0))
        try:
            yield Asked(node, admin, door)
        finally:
            async with asyncio.timeout(PATIENCE_S):
                await admin.close()


@on_each_loop
async def test_the_admin_port_speaks_https() -> None:
    async with asked() as it:
        assert (await it.ask("/-/healthy")).text == "healthy\n"
        metrics = await it.ask("/metrics")
        assert metrics.status == 200
        assert "pulsering_users_online" in metrics.text


@on_each_loop
async def test_new_certificates_count_from_the_next_connection_on() -> None:
    second = trustme.CA()
    async with asked() as it:
        assert (await it.ask("/-/healthy")).status == 200
        it.door.follow(Terms(context(second), None))
        assert (await it.ask("/-/healthy", trusts=second)).status == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            await it.ask("/-/healthy")


@on_each_loop
async def test_whoever_speaks_plain_is_told_and_garbage_is_let_go() -> None:
    async with asked() as it:
        plain = await it.say(b"GET / HTTP/1.1\r\n\r\n", trusts=None)
        assert plain.startswith(b"HTTP/1.1 400")
        assert plain.endswith(b"this port speaks HTTPS\n")
        assert await it.say(b"\x16" + b"\xff" * 99, trusts=None) == b""
        assert (await it.ask("/-/healthy")).status == 200


@on_each_loop
async def test_who_waits_with_the_handshake_takes_a_place_and_no_more() -> None:
    async with asked() as it:
        waiting = [await asyncio.open_connection(*it.admin.address) for _ in range(limits.ADMIN_CONNECTIONS)]
        gate = it.admin._gate
        assert gate is not None
        await it.node.until(lambda: len(gate) == limits.ADMIN_CONNECTIONS)
        assert (await it.say(b"", trusts=None)).startswith(b"HTTP/1.1 503")
        for _, writer in waiting:
            writer.transport.abort()
        await it.node.until(lambda: len(gate) == 0)
        assert (await it.ask("/-/healthy")).status == 200


@on_each_loop
async def test_tokens_of_the_data_port_open_what_their_role_says() -> None:
    async with asked(auth=Auth(TOKENS.items())) as it:
        assert (await it.ask("/status")).status == 200, "on loopback anybody may read"
        for role, status in ((Role.READ, 401), (Role.WRITE, 401), (Role.ADMIN, 202)):
            assert (await it.ask("/-/drain", "POST", TOKENS[role])).status == status
        assert (await it.ask("/-/drain", "POST")).status == 401


@on_each_loop
async def test_beyond_loopback_a_token_of_the_data_port_will_do() -> None:
    async with asked("0.0.0.0", Auth(TOKENS.items())) as it:
        it.admin.address = Address("127.0.0.1", it.admin.address.port)
        assert (await it.ask("/status")).status == 401
        assert (await it.ask("/status", token=TOKENS[Role.READ])).status == 200
        assert (await it.ask("/-/ready")).status in (200, 503)
    with pytest.raises(Exposed):
        async with asked("0.0.0.0"):
            pass
