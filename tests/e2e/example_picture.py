"""The picture in README.md and docs/example.md: the page of the example, light and dark, of a real cluster:

    PYTHONPATH=tests:. .venv/bin/python -m e2e.example_picture docs/images/example.png

Debian's fonts-inter makes it nicer, its pngquant smaller.
"""

import asyncio
import base64
import shutil
import subprocess
import sys
from pathlib import Path

from e2e.browser import Browser, a_browser

from examples.api_server.app import make_app
from examples.api_server.people import NAMES
from examples.api_server.serving import listen, serving, url_of
from examples.api_server.settings import Settings
from pulsering import PresenceClient
from pulsering_server.local_cluster import LocalCluster

TTL_MS = 4000
THERE = ("ada", "barbara", "edsger", "grace", "margaret")
"""Of the people; the others have just been there."""

SIZE = (520, 850)
BESIDE = """
document.body.replaceChildren(...arguments[0].map((picture) => {
  const image = new Image();
  image.src = `data:image/png;base64,${picture}`;
  return image;
}));
document.body.style = "margin: 0; display: flex";
return Promise.all([...document.images].map((image) => image.decode()));
"""


async def take(browser: Browser, url: str, presence: PresenceClient) -> bytes:
    """Both, beside each other, as a PNG."""
    await browser.emulate(*SIZE, {"prefers-reduced-motion": "reduce"})
    await browser.open(url)
    await browser.focused("name")
    await browser.press("zoe", "\ue007")
    await presence.heartbeat_many(NAMES)
    await browser.until("#tally", lambda text: text == f"{len(NAMES)} of {len(NAMES)} online")

    async def stay() -> None:
        while True:
            await presence.heartbeat_many(THERE)
            await asyncio.sleep(TTL_MS / 4000)

    staying = asyncio.create_task(stay())
    await browser.until("#tally", lambda text: text == f"{len(THERE)} of {len(NAMES)} online")
    await browser.run("document.activeElement.blur()")
    taken = []
    for scheme in ("light", "dark"):
        await browser.emulate(
            *SIZE, {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce", "hover": "hover"}
        )
        taken.append(base64.b64encode(await browser.picture(*SIZE)).decode())
    staying.cancel()
    for complaint in await browser.complaints():
        print(complaint)
    await browser.emulate(2 * SIZE[0], SIZE[1], {})
    await browser.open("about:blank")
    await browser.run(BESIDE, taken)
    return await browser.picture(2 * SIZE[0], SIZE[1])


async def take_it(browser: Browser) -> bytes:
    """The same, with all that it takes."""
    bound = listen("127.0.0.1", 0)
    async with (
        LocalCluster(3, ttl_ms=TTL_MS) as cluster,
        PresenceClient.from_url(cluster.url) as presence,
        serving(make_app(Settings(url=cluster.url, friends=NAMES)), bound),
    ):
        return await take(browser, url_of(bound), presence)


def main(path: Path) -> None:
    """Take it, and write it there."""
    with a_browser() as browser:
        path.write_bytes(asyncio.run(take_it(browser)))
    if shutil.which("pngquant"):
        subprocess.run(["pngquant", "--force", "--strip", "--output", path, "128", path], check=True)
    print(f"{path}: {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
