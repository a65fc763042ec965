"""A growing table finds its memory beside the loop."""

import asyncio
from array import array

from pulsering_server.populating import populate
from pulsering_server.table import Table


async def test_a_table_about_to_grow_is_populated_while_the_loop_runs() -> None:
    table = Table(ttl_ms=20_000)
    users = 0
    while not table.populate_due:
        table.heartbeat(array("Q", range(users, users + 10)).tobytes(), 0)
        users += 10
    async with asyncio.timeout(10):
        await populate(table)
    assert not table.populate_due
    assert table.online == users
