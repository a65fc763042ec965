"""Waiting for a real process: until something is true, and never without a limit."""

import asyncio
from collections.abc import Awaitable, Callable

from support.raw_peer import PATIENCE_S

STEP_S = 0.01


async def until(true: Callable[[], Awaitable[bool]], timeout_s: float = 2 * PATIENCE_S) -> None:
    """Ask again and again; TimeoutError when it was never true."""
    async with asyncio.timeout(timeout_s):
        while not await true():  # noqa: ASYNC110  # what it waits for is another process
            await asyncio.sleep(STEP_S)
