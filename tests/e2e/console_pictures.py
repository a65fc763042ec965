"""The pictures in docs/console.md, of a real cluster under a real load; five minutes of it, for the charts:

    PYTHONPATH=tests .venv/bin/python -m e2e.console_pictures docs/images

Light, on a wide screen: all is well, an epoch change behind it. Dark: a node was killed. Narrow: it is back,
and warming. Debian's fonts-inter makes them nicer, its pngquant smaller.
"""

import asyncio
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from e2e.browser import Browser, a_browser
from e2e.console_cluster import page_of, write_cluster

from pulsering import PresenceClient
from pulsering_server.local_cluster import LocalCluster

USERS = 60_000
BEAT_S = 10.0
TURN_S = 0.25
WIDE = (1280, 2000)
DARK = (1280, 1180)
NARROW = (390, 1900)


@asynccontextmanager
async def load(url: str) -> AsyncIterator[None]:
    """Users who come and go slowly, each heard every ten seconds, and pages of them asked for."""

    async def go(presence: PresenceClient) -> None:
        loop = asyncio.get_running_loop()
        started_s = turn_s = loop.time()
        first = 0
        while True:
            passed_s = turn_s - started_s
            there = int(USERS * (0.8 + 0.2 * math.sin(passed_s / 60)))
            beating = [user % there for user in range(first, first + int(there * TURN_S / BEAT_S))]
            first = (beating[-1] + 1) % there
            pages = 6 + 2 * math.sin(passed_s / 25)
            asked = [range(start, start + 100) for start in range(first, first + int(100 * pages), 100)]
            await asyncio.gather(presence.heartbeat_many(beating), *map(presence.get_many, asked))
            turn_s += TURN_S
            await asyncio.sleep(max(0.0, turn_s - loop.time()))

    async with PresenceClient.from_url(url) as presence:
        going = asyncio.create_task(go(presence))
        try:
            yield
        finally:
            going.cancel()
            await asyncio.wait((going,))


async def take(browser: Browser, size: tuple[int, int], scheme: str) -> bytes:
    """One picture, as a PNG."""
    await browser.emulate(size[0], min(size[1], 1000), {"prefers-color-scheme": scheme})
    return await browser.picture(*size)


def change(config: Path) -> None:
    """Another epoch, in which a node has more to carry."""
    text = config.read_text("utf-8")
    config.write_text(
        text.replace("epoch: 1", "epoch: 2").replace("name: c,", "name: c, weight: 2,"), "utf-8"
    )


async def take_all(browser: Browser, config: Path, minutes: float) -> dict[str, bytes]:
    """All of them, by name."""
    taken = {}
    async with LocalCluster(config_path=config) as cluster, load(cluster.url):
        a, c = cluster.nodes["a"], cluster.nodes["c"]
        await asyncio.sleep(minutes * 30)
        change(config)
        await asyncio.sleep(minutes * 30)
        await browser.emulate(1280, 1000, {})
        await browser.open(page_of(a))
        await browser.until("#verdict-title", lambda text: text.startswith("All is well"))
        await browser.until("#unknown", lambda text: "measuring" not in text)
        taken["light"] = await take(browser, WIDE, "light")
        await c.kill()
        await browser.until("#verdict-title", lambda text: text.startswith("c does not answer"))
        await asyncio.sleep(minutes * 6)
        taken["dark"] = await take(browser, DARK, "dark")
        await c.start()
        await browser.until("#findings", lambda text: "c is warming" in text)
        await asyncio.sleep(min(10, minutes * 6))
        taken["narrow"] = await take(browser, NARROW, "light")
        for complaint in await browser.complaints():
            print(complaint)
    return taken


def main(folder: Path, minutes: float) -> None:
    """Take them, and write them there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory, a_browser() as browser:
        taken = asyncio.run(take_all(browser, write_cluster(Path(directory), ttl="20s"), minutes))
    for name, picture in taken.items():
        path = folder / f"console-{name}.png"
        path.write_bytes(picture)
        if shutil.which("pngquant"):
            subprocess.run(["pngquant", "--force", "--strip", "--output", path, "128", path], check=True)
        print(f"{path}: {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 5.0)
