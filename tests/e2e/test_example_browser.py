"""The page of the example in a real Chromium: windows that see each other, on a cluster that loses a node.

What a person would see is what is read here: words, states, focus, colours as they come out.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import NamedTuple

import pytest
import pytest_asyncio
from e2e.browser import CONTRAST, Browser, a_browser, needs_browser

from examples.api_server.app import make_app
from examples.api_server.serving import listen, serving, url_of
from examples.api_server.settings import Settings
from pulsering import PresenceClient
from pulsering_server.local_cluster import LocalCluster

pytestmark = [needs_browser, pytest.mark.asyncio(loop_scope="module")]

TTL_MS = 3000
LIVE = "Online, as your friends see you"
ENTER, TAB = "\ue007", "\ue004"

RECORD = """
window.turns = [];
new MutationObserver((records) => records.forEach(({target}) => turns.push(
  `${target.dataset.id} ${target.dataset.status}`)))
  .observe(document.querySelector("#list"), {subtree: true, attributeFilter: ["data-status"]});
"""
BEATS = (
    "return performance.getEntriesByType('resource').filter(({name}) => name.endsWith('/heartbeat')).length"
)


class Windows(NamedTuple):
    """A browser before the page, and the cluster behind it."""

    cluster: LocalCluster
    server: "Server"
    browser: Browser
    first: str

    async def come_in(self, name: str) -> None:
        """Load the page and be somebody, with the keyboard alone."""
        await self.browser.open(self.server.url)
        await self.browser.focused("name")
        await self.browser.press(name, ENTER)
        await self.browser.until("#line", lambda text: text == LIVE)

    async def beside(self, name: str) -> str:
        """Somebody else, in a window beside."""
        window = await self.browser.new_window()
        await self.come_in(name)
        return window

    async def sees(self, name: str, *words: str) -> None:
        """Wait until a friend is shown with one of these words."""
        await self.browser.until(f'#list [data-id="{name}"] .words', lambda text: text in words)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with a_browser() as page:
        yield page


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[LocalCluster]:
    async with LocalCluster(3, ttl_ms=TTL_MS, last_seen="1h") as nodes:
        yield nodes


class Server:
    """The API server of this process, always on the same port."""

    def __init__(self, settings: Settings) -> None:
        self._app = make_app(settings)
        self._running = AsyncExitStack()
        self.port = 0
        self.url = ""

    async def start(self) -> None:
        """Serve."""
        bound = listen("127.0.0.1", self.port)
        self.port, self.url = bound.getsockname()[1], url_of(bound)
        await self._running.enter_async_context(serving(self._app, bound))

    async def end(self) -> None:
        """Serve no more."""
        await self._running.aclose()


@pytest_asyncio.fixture(loop_scope="module")
async def windows(cluster: LocalCluster, browser: Browser) -> AsyncIterator[Windows]:
    """Nobody is in."""
    server = Server(Settings(url=cluster.url, friends=("grace",)))
    await server.start()
    try:
        await browser.emulate(1000, 800, {})
        await browser.open(server.url)
        await browser.complaints()
        first = browser.window
        yield Windows(cluster, server, browser, first)
        await browser.close_others(first)
        await browser.run("sessionStorage.clear(); localStorage.clear()")
        await browser.open("about:blank")
    finally:
        await server.end()


async def test_windows_see_each_other_come_and_go_and_a_killed_node_changes_nothing(windows: Windows) -> None:
    browser = windows.browser
    await windows.come_in("ada")
    bob = await windows.beside("bob")
    eve = await windows.beside("eve")
    await browser.run("navigator.sendBeacon = () => true")  # as a phone that loses its network
    await windows.sees("bob", "Online")
    await windows.sees("ada", "Online")
    await browser.turn_to(windows.first)
    await windows.sees("bob", "Online")
    await windows.sees("eve", "Online")

    await browser.run(RECORD)
    await windows.cluster.kill("b")
    await browser.turn_to(eve)
    beats = await browser.run(BEATS)
    while await browser.run(BEATS) < beats + 2:
        pass
    await browser.turn_to(windows.first)
    turned = [turn for turn in await browser.run("return turns") if not turn.startswith("grace")]
    assert turned == []

    await browser.close(eve, then=bob)
    await browser.close(bob, then=windows.first)
    await windows.sees("bob", "Last seen just now")
    assert "eve offline" not in await browser.run("return turns")
    await windows.sees("eve", "Last seen just now")
    assert "is offline" in await browser.text("#said")
    assert (await browser.text("#tally")) == "0 of 3 online"


async def test_a_page_that_hears_nothing_shows_nobody_online_and_comes_back_by_itself(
    windows: Windows,
) -> None:
    browser = windows.browser
    await windows.come_in("ada")
    bob = await windows.beside("bob")
    await browser.turn_to(windows.first)
    await windows.sees("bob", "Online")
    await windows.server.end()
    await browser.until("#line", lambda text: text == "Reconnecting…")
    await windows.sees("bob", "Not known while disconnected")
    assert await browser.text("#tally") == "0 of 2 online"
    await windows.server.start()
    await browser.until("#line", lambda text: text == LIVE)
    await windows.sees("bob", "Online")
    await browser.turn_to(bob)
    await windows.sees("ada", "Online")
    await browser.close(bob, then=windows.first)


async def test_it_is_used_with_keys_alone_and_what_is_wrong_is_said(windows: Windows) -> None:
    browser = windows.browser
    focused = "const at = document.activeElement; return at.ariaLabel || at.innerText || at.id"
    await browser.open(windows.server.url)
    await browser.focused("name")
    await browser.press("Ada!", ENTER)
    await browser.until("[data-for=name]", lambda text: text.startswith("A name is 1 to 32 letters"))
    assert await browser.run(focused) == "name"
    await windows.come_in("ada")
    walked = []
    while "friend" not in walked:
        await browser.press(TAB)
        walked.append(await browser.run(focused))
        assert await browser.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert len(walked) < 10, walked
    assert walked == ["Leave", "Remove Grace", "friend"]
    await browser.press("Mary Ann", ENTER)
    await windows.sees("mary-ann", "Offline", "Not known yet: a node is warming up")
    await browser.press("ada", ENTER)
    await browser.until("[data-for=friend]", lambda text: text == "That is you.")
    await browser.run("document.querySelector('[data-id=grace] .drop').focus()")
    await browser.press(ENTER)
    assert await browser.run(focused) == "Remove Mary-ann"
    assert await browser.run("return document.querySelectorAll('.friend').length") == 1


async def test_who_was_there_before_the_page_is_said_to_have_been(windows: Windows) -> None:
    async with PresenceClient.from_url(windows.cluster.url, timeout=5) as presence:
        await presence.heartbeat("grace")
        await presence.leave("grace")
    await windows.come_in("ada")
    await windows.sees("grace", "Last seen just now")


async def test_it_is_readable_in_light_and_dark_and_fits_narrow_screens(windows: Windows) -> None:
    browser = windows.browser
    await windows.come_in("ada-with-a-rather-long-name-32-xx")
    await windows.sees("grace", "Offline", "Last seen just now")
    grounds = set()
    for scheme in ("light", "dark"):
        for width in (1000, 320):
            still = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
            await browser.emulate(width, 800, still)
            assert await browser.run(CONTRAST) == [], (scheme, width)
            sizes = await browser.run("return [document.documentElement.scrollWidth, innerWidth]")
            assert sizes[0] <= sizes[1] == width, (scheme, width)
        grounds.add(await browser.run("return getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2
    loaded = await browser.run("return performance.getEntriesByType('resource').map(({name}) => name)")
    assert loaded
    assert [name for name in loaded if not name.startswith((windows.server.url, "data:"))] == []
    assert await browser.complaints() == []
