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


class Browser:
    """A page, looked at and used as a person would."""

    def __init__(self, driver: Chrome) -> None:
        self._driver = driver

    async def open(self, url: str) -> None:
        """Load a page."""
        await asyncio.to_thread(self._driver.get, url)

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

    async def press(self, *keys: str) -> None:
        """Type, into whatever has the focus."""
        for key in keys:
            await asyncio.to_thread(self._driver.switch_to.active_element.send_keys, key)

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
