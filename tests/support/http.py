"""An admin port in this process, before a node that is served, and questions to it over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics
from support.raw_peer import PATIENCE_S
from support.served import Served, served

from pulsering_server.admin import Admin
from pulsering_server.admin_tokens import VARIABLE, Tokens
from pulsering_server.config import parse_config
from pulsering_server.config_watch import ConfigWatch

TOKEN = "0123456789abcdef" * 2

CONFIG = """
version: 1
cluster: demo
epoch: 1
replicas: 1
admin: {{insecure_no_token: {insecure}}}
nodes: [{{name: a, address: "10.0.0.1:7400", admin: 0}}]
"""


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        """The document it is."""
        return json.loads(self.text)


async def say(host: str, port: int, data: bytes) -> bytes:
    """Send bytes; all that comes back until the other side closes."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(data)
            return await reader.read()
        finally:
            writer.transport.abort()


async def ask(
    host: str, port: int, path: str, method: str = "GET", token: str | None = None, **headers: str
) -> Answer:
    """One request; its answer."""
    fields = {"Host": f"{host}:{port}"} | {name.replace("_", "-"): value for name, value in headers.items()}
    if token is not None:
        fields["Authorization"] = f"Bearer {token}"
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return parse(await say(host, port, "\r\n".join(lines).encode()))


def parse_openmetrics(text: str) -> list[Metric]:
    """The families of a scrape; ValueError if it is not OpenMetrics to the letter."""
    return list(openmetrics.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


def parse(data: bytes) -> Answer:
    """An answer whose end is the end of the connection."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    return Answer(int(first.split()[1]), headers, body.decode())


class Asked:
    """The node, its admin port, and how often it was asked to drain."""

    def __init__(self, node: Served, admin: Admin, drains: list[int]) -> None:
        self.node = node
        self.admin = admin
        self.drains = drains

    async def get(self, path: str, **options: Any) -> Answer:
        """GET."""
        return await ask(*self.admin.address, path, **options)

    async def post(self, path: str, **options: Any) -> Answer:
        """POST."""
        return await ask(*self.admin.address, path, "POST", **options)


@asynccontextmanager
async def asked(
    host: str = "127.0.0.1",
    *,
    token: str = TOKEN,
    insecure: bool = False,
    watch: Callable[[Served], ConfigWatch] | None = None,
    **limits_of_node: Any,
) -> AsyncIterator[Asked]:
    """A served node with an admin port; all is let go of in the end."""
    config = parse_config(CONFIG.format(insecure=str(insecure).lower()))
    drains: list[int] = []
    async with served(**limits_of_node) as node:
        admin = Admin(
            node.listener,
            config,
            Tokens(None, {VARIABLE: token}),
            drain=lambda: drains.append(1),
            watch=watch(node) if watch is not None else None,
        )
        await admin.open(type(admin.address)(host, 0))
        try:
            yield Asked(node, admin, drains)
        finally:
            async with asyncio.timeout(PATIENCE_S):
                await admin.close()
