"""The example server in this process, on a port of its own, and somebody who speaks HTTP to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
from starlette.applications import Starlette
from support.raw_peer import PATIENCE_S

from examples.api_server.app import make_app
from examples.api_server.serving import listen, serving, url_of
from examples.api_server.settings import Settings

SECRET = b"known to tests alone"


class Told(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: Any


class Caller:
    """A device, or a page; a real one, over TCP."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self.http = http
        self.url = url

    async def ask(self, method: str, path: str, *, token: str | None = None, **how: Any) -> Told:
        """One request; ``how`` is aiohttp's."""
        headers = {**how.pop("headers", {}), **({"Authorization": f"Bearer {token}"} if token else {})}
        async with self.http.request(method, self.url + path, headers=headers, **how) as answer:
            is_json = answer.content_type.endswith("json")
            body = await answer.json(content_type=None) if is_json else await answer.read()
            return Told(answer.status, dict(answer.headers), body)

    async def be(self, name: str) -> str:
        """The token of a new session."""
        told = await self.ask("POST", "session", json={"name": name})
        assert told.status == 201, told
        return str(told.body["token"])

    async def statuses(self, token: str, *ids: str) -> list[str]:
        """Each in a word, unknown with its reason."""
        told = await self.ask("GET", "status", token=token, params={"ids": ",".join(ids)})
        assert told.status == 200, told
        assert [entry["id"] for entry in told.body["statuses"]] == list(ids)
        return [f"{entry['status']} {entry.get('reason', '')}".rstrip() for entry in told.body["statuses"]]

    @asynccontextmanager
    async def page(self, name: str, *watched: str) -> AsyncIterator["Page"]:
        """A page of somebody who watches these."""
        async with self.http.ws_connect(self.url + "watch") as socket:
            page = Page(socket)
            await socket.send_json({"token": await self.be(name)})
            assert set(await page.hear()) == {"pulse_ms", "ttl_ms"}
            if watched:
                await page.say(add=list(watched))
            yield page


class Page(NamedTuple):
    """The WebSocket of a page, and what is heard on it."""

    socket: aiohttp.ClientWebSocketResponse

    async def say(self, **message: Any) -> None:
        """One message."""
        await self.socket.send_json(message)

    async def hear(self) -> Any:
        """The next message."""
        return await self.socket.receive_json(timeout=PATIENCE_S)

    async def changes(self, count: int) -> dict[str, str]:
        """What so many changes say: status of each id, with what else is said of it."""
        told = [await self.hear() for _ in range(count)]
        return {change.pop("id"): " ".join(change.values()) for change in told if change}

    async def end(self) -> tuple[int, str]:
        """Code and reason of the close that comes now."""
        last = await self.socket.receive(timeout=PATIENCE_S)
        assert last.type is aiohttp.WSMsgType.CLOSE, last
        return last.data, str(last.extra)


@asynccontextmanager
async def example(url: str, app: Starlette | None = None) -> AsyncIterator[Caller]:
    """A server of this cluster, and a caller."""
    bound = listen("127.0.0.1", 0)
    app = app or make_app(Settings(url=url, secret=SECRET, friends=("ada", "grace")))
    async with serving(app, bound), aiohttp.ClientSession() as http:
        yield Caller(http, url_of(bound))
