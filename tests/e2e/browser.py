"""A real headless Chromium, Debian's, driven by the chromedriver that is packaged with it.

Selenium speaks to it over HTTP and blocks, so it runs beside the event loop of a test: ``await browser(…)``.
Nothing is downloaded: both programs must be there, and where they are not, ``MISSING`` says how to get them.
"""

import asyncio
import base64
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from e2e.poll import until
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from support.raw_peer import PATIENCE_S

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
MISSING = "no browser here: apt-get install -y --no-install-recommends chromium chromium-driver"

needs_browser = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING)

CONTRAST = """
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const light = (color) => color.slice(0, 3).map((c) => c / 255)
  .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const color = rgb(getComputedStyle(at).backgroundColor);
    if (color.length < 4 || color[3] === 1) return color;
  }
  return [255, 255, 255];
};
const poor = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || !element.checkVisibility()) continue;
  const style = getComputedStyle(element);
  const ink = element instanceof SVGElement ? style.fill : style.color;
  const [a, b] = [light(rgb(ink)), light(behind(element))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${element.textContent.trim().slice(0, 40)}`);
}
return poor;
"""
"""What cannot be read well: each text whose contrast with its background is below 4.5, with that number."""


class Browser:
    """A page, looked at and used as a person would."""

    def __init__(self, driver: Chrome) -> None:
        self._driver = driver

    async def open(self, url: str) -> None:
        """Load a page."""
        await asyncio.to_thread(self._driver.get, url)

    @property
    def window(self) -> str:
        """The one that is looked at; ``turn_to`` takes it."""
        return self._driver.current_window_handle

    async def new_window(self) -> str:
        """Another one beside, of the same person, from now on looked at."""
        await asyncio.to_thread(self._driver.switch_to.new_window, "window")
        return self.window

    async def turn_to(self, window: str) -> None:
        """Look at another window."""
        await asyncio.to_thread(self._driver.switch_to.window, window)

    async def close(self, window: str, then: str) -> None:
        """Close a window, and look at another one."""
        await self.turn_to(window)
        await asyncio.to_thread(self._driver.close)
        await self.turn_to(then)

    async def close_others(self, window: str) -> None:
        """Close all but this one, and look at it."""
        for other in self._driver.window_handles:
            if other != window:
                await self.close(other, then=window)
        await self.turn_to(window)

    async def run(self, script: str, *arguments: Any) -> Any:
        """What a function body in JavaScript returns; a promise is waited for."""
        return await asyncio.to_thread(self._driver.execute_script, script, *arguments)

    async def text(self, selector: str) -> str:
        """What can be read in the first element of this kind."""
        found = await self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)
        return str(found).replace("\xa0", " ")

    async def until(
        self, selector: str, true: Callable[[str], bool], timeout_s: float = 3 * PATIENCE_S
    ) -> str:
        """Read an element again and again until its text is as wanted; AssertionError with the last text."""
        text = ""

        async def as_wanted() -> bool:
            nonlocal text
            return true(text := await self.text(selector))

        try:
            await until(as_wanted, timeout_s)
        except TimeoutError:
            raise AssertionError(f"{selector} still says {text!r}") from None
        return text

    async def focused(self, ident: str) -> None:
        """Wait until the element of this id has the focus: a driver may say that a page is there before it
        is."""

        async def has_it() -> bool:
            return bool(await self.run("return document.activeElement.id === arguments[0]", ident))

        await until(has_it, 3 * PATIENCE_S)

    async def press(self, *keys: str) -> None:
        """Type, into whatever has the focus."""

        def send(key: str) -> None:
            self._driver.switch_to.active_element.send_keys(key)

        for key in keys:
            await asyncio.to_thread(send, key)

    async def emulate(self, width: int, height: int, features: Mapping[str, str]) -> None:
        """Be a screen of this size, of somebody who prefers these ``features`` of CSS."""
        listed = [{"name": name, "value": value} for name, value in features.items()]
        await self._command("Emulation.setEmulatedMedia", features=listed)
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self._command("Emulation.setDeviceMetricsOverride", **screen)

    async def picture(self, width: int, height: int) -> bytes:
        """A PNG of the page from its top, of at most this ``height``."""
        tall = await self.run("return document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": width, "height": min(tall, height), "scale": 1}
        taken = await self._command("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(taken["data"])

    async def complaints(self) -> list[str]:
        """What the browser wrote in its console: errors of scripts, violations of the content policy."""
        return [entry["message"] for entry in await asyncio.to_thread(self._driver.get_log, "browser")]

    async def _command(self, name: str, **arguments: Any) -> Any:
        return await asyncio.to_thread(self._driver.execute_cdp_cmd, name, arguments)


@contextmanager
def a_browser() -> Iterator[Browser]:
    """A browser with nothing in it; gone in the end. It takes seconds to come, so it is for many tests."""
    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("--headless=new", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"):
        options.add_argument(argument)
    # All windows count as looked at: the timers of those that are not run once a second at most.
    options.add_argument("--disable-background-timer-throttling")
    options.add_argument("--disable-renderer-backgrounding")
    options.add_argument("--lang=en-GB")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # it refuses to run as root otherwise, as in most containers
    options.accept_insecure_certs = True  # those of tests are of an authority that no browser knows
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options, Service(DRIVER))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
