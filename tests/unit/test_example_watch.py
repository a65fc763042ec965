"""The WebSocket of the example server: what a page is told, and how it ends."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from e2e.poll import until
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from support.example import SECRET, Caller, Page, example
from support.raw_peer import PATIENCE_S

from examples.api_server import watching
from examples.api_server.auth import token_for
from examples.api_server.contract import WATCH_BYTES_MAX, WATCHED_MAX
from examples.api_server.watching import serve_watch
from pulsering import Cause, Change, Reason, Status
from pulsering.testing import MemoryCluster

pytestmark = pytest.mark.asyncio(loop_scope="module")

TTL_S = 20.0


@pytest.fixture(scope="module")
def cluster() -> MemoryCluster:
    return MemoryCluster(ttl=TTL_S)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def caller(cluster: MemoryCluster) -> AsyncIterator[Caller]:
    async with example(cluster.url) as device:
        yield device


async def test_a_page_is_told_the_state_of_each_and_then_every_change(
    caller: Caller, cluster: MemoryCluster
) -> None:
    token = await caller.be("ada")
    async with caller.page("bob", "ada", "grace") as page:
        assert await page.changes(2) == {"ada": "offline none", "grace": "offline none"}
        await caller.ask("POST", "heartbeat", token=token)
        assert await page.changes(1) == {"ada": "online heartbeat"}
        cluster.clock.advance(TTL_S + 1)
        assert await page.changes(1) == {"ada": "offline expired"}


async def test_ids_are_added_and_removed_while_it_is_open(caller: Caller) -> None:
    ada, eve = await caller.be("ada"), await caller.be("eve")
    async with caller.page("bob", "ada") as page:
        await page.changes(1)
        await page.say(add=["eve"], remove=["ada"])
        assert await page.changes(1) == {"eve": "offline none"}
        await caller.ask("POST", "heartbeat", token=ada)
        await caller.ask("POST", "heartbeat", token=eve)
        assert await page.changes(1) == {"eve": "online heartbeat"}


async def test_what_cannot_be_known_is_told_as_unknown(caller: Caller, cluster: MemoryCluster) -> None:
    async with caller.page("bob", "nobody") as page:
        await page.changes(1)
        cluster.stop()
        try:
            assert await page.changes(1) == {"nobody": "unknown none unreachable"}
        finally:
            cluster.start()
        assert await page.changes(1) == {"nobody": "offline none"}


@pytest.mark.parametrize(
    ("said", "code", "reason"),
    [
        ("", 4400, "JSON object"),
        ("[]", 4400, "JSON object"),
        ("{", 4400, "JSON object"),
        ("[" * (WATCH_BYTES_MAX - 1), 4400, "JSON object"),
        ('{"add": []}', 4401, "POST /session"),
        ('{"token": 7}', 4401, "POST /session"),
        ('{"token": "ada.0123"}', 4401, "POST /session"),
    ],
)
async def test_who_does_not_say_who_it_is_is_shown_out(
    caller: Caller, said: str, code: int, reason: str
) -> None:
    async with caller.http.ws_connect(caller.url + "watch") as socket:
        await socket.send_str(said)
        ended = await Page(socket).end()
        assert ended[0] == code
        assert reason in ended[1]


@pytest.mark.parametrize(
    "said",
    [
        {"add": "ada"}, {"add": []}, {"add": ["Ada"]}, {"add": [1]}, {"remove": [None]}, {"watch": ["ada"]},
        {"add": ["ada"], "more": 1}, {"add": [f"u{n}" for n in range(WATCHED_MAX + 1)]},
    ],
)  # fmt: skip
async def test_a_page_that_asks_for_nonsense_is_told_what_makes_sense(
    caller: Caller, said: dict[str, Any]
) -> None:
    async with caller.page("bob") as page:
        await page.say(**said)
        code, reason = await page.end()
        assert code == 4400
        assert "ids" in reason or "user id" in reason


async def test_a_page_watches_a_bounded_number_of_users(caller: Caller) -> None:
    async with caller.page("bob", *(f"u{n}" for n in range(WATCHED_MAX))) as page:
        assert len(await page.changes(WATCHED_MAX)) == WATCHED_MAX
        await page.say(add=["u0"])
        await page.say(add=["one-too-many"])
        code, reason = await page.end()
        assert (code, reason) == (4400, f"at most {WATCHED_MAX} users are watched by one page")


async def test_who_says_nothing_is_shown_out_too(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "TOKEN_S", 0.02)
    async with caller.http.ws_connect(caller.url + "watch") as socket:
        assert (await Page(socket).end())[0] == 4408


async def test_a_page_hears_a_pulse_when_nothing_happens(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "PULSE_S", 0.02)
    async with caller.page("bob") as page:
        assert [await page.hear(), await page.hear()] == [{}, {}]


async def test_nothing_is_left_of_a_page_that_is_gone(caller: Caller) -> None:
    before = {task for task in asyncio.all_tasks() if not task.done()}
    async with caller.page("bob", "ada") as page:
        await page.changes(1)
    async with caller.page("bob", "ada") as page:
        assert page.socket._response.connection is not None
        assert page.socket._response.connection.transport is not None
        page.socket._response.connection.transport.abort()  # as a phone that lost its network

    async def are_as_before() -> bool:
        return not {task for task in asyncio.all_tasks() if not task.done()} - before

    await until(are_as_before)


async def test_when_the_server_ends_pages_are_told_to_come_back(cluster: MemoryCluster) -> None:
    async with aiohttp.ClientSession() as http:
        async with example(cluster.url) as caller:
            socket = await http.ws_connect(caller.url + "watch")
            await socket.send_json({"token": token_for("bob", SECRET)})
            await Page(socket).hear()
        assert (await Page(socket).end())[0] == 1012


class Restless:
    """A watch on which something changes all the time."""

    def __init__(self) -> None:
        self.taken = 0
        self.closed = False

    def add(self, ids: Iterable[str]) -> None: ...
    def remove(self, ids: Iterable[str]) -> None: ...

    async def __aiter__(self) -> AsyncIterator[Change]:
        while True:
            self.taken += 1
            yield Change("u" * 32, Status.ONLINE, Reason.NONE, Cause.HEARTBEAT, self.taken)
            await asyncio.sleep(0)

    async def aclose(self) -> None:
        self.closed = True


async def test_what_a_page_does_not_read_waits_where_it_is_coalesced() -> None:
    """Not in this server: it takes no more from its watch than a socket holds."""
    watch = Restless()

    async def serve(websocket: WebSocket) -> None:
        await serve_watch(websocket, lambda _: "bob", lambda: watch, ttl_ms=20_000)

    app = Starlette(routes=[WebSocketRoute("/watch", serve)])
    async with example("", app) as caller, caller.http.ws_connect(caller.url + "watch") as socket:
        await socket.send_json({"token": "any"})
        before = -1
        async with asyncio.timeout(PATIENCE_S):
            while watch.taken != before:
                before = watch.taken
                for _ in range(2000):
                    await asyncio.sleep(0)
        assert 0 < watch.taken < 100_000
        for _ in range(watch.taken):
            await socket.receive()
        assert watch.taken > before
    assert watch.closed
