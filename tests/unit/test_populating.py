"""A growing table finds its memory beside the loop."""

import asyncio
import contextlib
from array import array

from pulsering_server.populating import populate_ahead
from pulsering_server.table import Table


async def test_a_table_about_to_grow_is_populated_while_the_loop_runs() -> None:
    table = Table(ttl_ms=20_000)
    users = 0
    while not table.populate_due:
        table.heartbeat(array("Q", range(users, users + 10)).tobytes(), 0)
        users += 10
    ahead = asyncio.create_task(populate_ahead(table))
    async with asyncio.timeout(10):
        while table.populate_due:
            await asyncio.sleep(0)
    ahead.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await ahead
    assert table.online == users
