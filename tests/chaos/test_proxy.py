"""The proxy that makes trouble: what it may do to bytes, and what it never does."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from chaos.proxy import HELD_BYTES, Mischief, Proxy, fate_of

PATIENCE_S = 20.0
WORDS = random.Random(7).randbytes(300_000)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while words := await reader.read(1 << 16):
            writer.write(words)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def before_an_echo(mischief: Mischief, seed: str = "1") -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    target = server.sockets[0].getsockname()[:2]
    async with asyncio.timeout(PATIENCE_S), Proxy(("127.0.0.1", 0), target, seed) as proxy:
        proxy.make(mischief)
        yield proxy
    server.close()


@asynccontextmanager
async def through(proxy: Proxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*proxy.address)
    try:
        yield reader, writer
    finally:
        writer.close()


@pytest.mark.parametrize(
    "mischief", [Mischief(), Mischief(delay_ms=5, jitter_ms=20), Mischief(loss=0.2), Mischief(jitter_ms=1)]
)
async def test_bytes_come_whole_and_in_order_however_late(mischief: Mischief) -> None:
    async with before_an_echo(mischief) as proxy, through(proxy) as (reader, writer):
        writer.write(WORDS)
        assert await reader.readexactly(len(WORDS)) == WORDS


async def test_a_delay_is_waited_for_each_way() -> None:
    async with before_an_echo(Mischief(delay_ms=30)) as proxy, through(proxy) as (reader, writer):
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        assert loop.time() - began_s >= 0.06


async def test_a_stall_holds_everything_back_and_then_lets_all_of_it_go() -> None:
    async with before_an_echo(Mischief(stall=True)) as proxy, through(proxy) as (reader, writer):
        writer.write(WORDS)
        heard = asyncio.ensure_future(reader.readexactly(len(WORDS)))
        done, _ = await asyncio.wait([heard], timeout=0.1)
        assert not done
        proxy.make(Mischief())
        assert await heard == WORDS


async def test_who_sends_into_a_stall_is_not_read_for_ever() -> None:
    async with before_an_echo(Mischief(stall=True)) as proxy, through(proxy) as (_, writer):
        sent, pieces_max = 0, 32  # what it holds, and the buffers of two sockets
        with suppress(TimeoutError):
            while sent < pieces_max:
                writer.write(bytes(HELD_BYTES))
                await asyncio.wait_for(writer.drain(), 0.5)
                sent += 1
        assert sent < pieces_max
        writer.transport.abort()


async def test_a_reset_is_one() -> None:
    async with before_an_echo(Mischief(reset=1)) as proxy, through(proxy) as (reader, writer):
        writer.write(WORDS)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(len(WORDS))


async def test_all_connections_break_at_a_word() -> None:
    async with before_an_echo(Mischief()) as proxy, through(proxy) as (reader, writer):
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        proxy.reset_all()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)


async def test_what_is_truncated_begins_as_it_should_and_then_ends() -> None:
    async with before_an_echo(Mischief(truncate=1)) as proxy, through(proxy) as (reader, writer):
        writer.write(WORDS)
        with suppress(ConnectionResetError):  # as more was sent than anybody read
            heard = await reader.read()
            assert len(heard) < len(WORDS)
            assert WORDS.startswith(heard)


async def test_nobody_behind_it_is_a_reset_and_not_silence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        nowhere = gone.getsockname()
    async with Proxy(("127.0.0.1", 0), nowhere, "1") as proxy, through(proxy) as (reader, _):
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.readexactly(1), PATIENCE_S)


def test_a_seed_is_a_history() -> None:
    mischief = Mischief(delay_ms=1, jitter_ms=100, loss=0.3, reset=0.1, truncate=0.1)

    def fates(seed: str) -> list[object]:
        rng = random.Random(seed)
        return [fate_of(mischief, rng) for _ in range(200)]

    assert fates("1/a/0/there") == fates("1/a/0/there")
    assert fates("1/a/0/there") != fates("1/a/0/back")


def test_each_kind_of_trouble_has_its_odds_and_none_disturbs_another() -> None:
    def fates(mischief: Mischief) -> list[object]:
        rng = random.Random(3)
        return [fate_of(mischief, rng) for _ in range(2000)]

    lost = fates(Mischief(loss=0.1))
    assert 120 < sum(fate.late_s > 0 for fate in lost) < 280  # type: ignore[attr-defined]
    both = fates(Mischief(loss=0.1, reset=0.1))
    assert [fate.late_s for fate in both] == [fate.late_s for fate in lost]  # type: ignore[attr-defined]
    assert 120 < sum(fate.reset for fate in both) < 280  # type: ignore[attr-defined]
