"""Some people who come and go, so that a page has something to show while nobody else is there.

They speak to the cluster itself, as any other API server would on behalf of its devices. Some say goodbye,
others just fall silent, as a phone in a tunnel does. Invariant: each of them misses no heartbeat while it is
there.
"""

import asyncio
import contextlib
import random
from typing import Final

from pulsering import PresenceClient, PresenceError

__all__ = ["NAMES", "come_and_go"]

NAMES: Final = ("ada", "alan", "barbara", "edsger", "frances", "grace", "ken", "margaret")

_THERE_TTLS: Final = (1.0, 4.0)
_AWAY_TTLS: Final = (0.5, 2.0)
"""How long somebody stays, and stays away, in ttls."""


async def come_and_go(presence: PresenceClient, rng: random.Random) -> None:
    """All of them, until cancelled."""
    async with asyncio.TaskGroup() as group:
        for place, name in enumerate(NAMES):
            group.create_task(_live(presence, name, random.Random(rng.random()), steady=place % 3 == 0))


async def _live(presence: PresenceClient, name: str, rng: random.Random, *, steady: bool) -> None:
    ttl_s = presence.topology.ttl_ms / 1000
    while True:
        until_s = asyncio.get_running_loop().time() + rng.uniform(*_THERE_TTLS) * ttl_s
        while steady or asyncio.get_running_loop().time() < until_s:
            with contextlib.suppress(PresenceError):  # the next one comes
                await presence.heartbeat(name)
            await asyncio.sleep(ttl_s / 3)
        if rng.random() < 0.5:
            with contextlib.suppress(PresenceError):
                await presence.leave(name)
        await asyncio.sleep(rng.uniform(*_AWAY_TTLS) * ttl_s)
