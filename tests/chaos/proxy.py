"""A TCP proxy that makes trouble: bytes come late, stand still, or not whole; connections break.

``Proxy`` is a way from one address to another, and ``Mischief`` what it does to bytes, changed at any time.
What happens to a connection's *n*-th piece follows from the seed, the connection's number and *n*, not from
when it came. Bytes are never lost, swapped or invented in the middle of a stream, for TCP does not do that:
lost packets make the others wait, ``loss``, and a stream that ends early, ``truncate``, ends. Invariant: at
most ``HELD_BYTES`` of a connection are held each way; then its sender is not read.

As a program, ``python -m chaos.proxy SEED NAME=FROM=TO...`` takes commands as lines of JSON on stdin: the
fields of ``Mischief`` with the ``name`` of a way. It ends when stdin does.
"""

import asyncio
import contextlib
import random
import socket
import sys
from collections import deque
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from chaos.control import answer_commands

__all__ = ["Mischief", "Proxy"]

PIECE_BYTES: Final = 16 << 10
HELD_BYTES: Final = 1 << 20
_RESEND_MS: Final = 200
"""What Linux waits at least before it sends a packet again; doubled each time."""


class Mischief(NamedTuple):
    """What is done to each piece of bytes, both ways; chances are from 0 to 1."""

    delay_ms: float = 0
    jitter_ms: float = 0
    loss: float = 0
    """Chance that a piece comes only when it is sent again, and again that this is lost."""
    reset: float = 0
    """Chance that the connection is reset instead."""
    truncate: float = 0
    """Chance that some of it comes, and then the end of the connection."""
    stall: bool = False
    """Nothing comes; what did not come meanwhile comes when this is over."""


class Fate(NamedTuple):
    """What becomes of one piece."""

    late_s: float = 0
    reset: bool = False
    keep: float = 1
    """The share of it that comes before the connection ends; 1: all, and it does not end."""


def fate_of(mischief: Mischief, rng: random.Random) -> Fate:
    """The fate of the next piece. Always as many numbers, so that one fault leaves the next as it was."""
    jitter, reset, cut, share, loss = (rng.random() for _ in range(5))
    late_ms = mischief.delay_ms + mischief.jitter_ms * jitter
    wait_ms, odds = _RESEND_MS, mischief.loss
    while loss < odds and wait_ms < 8 * _RESEND_MS:
        late_ms += wait_ms
        wait_ms, odds = wait_ms * 2, odds * mischief.loss
    return Fate(late_ms / 1000, reset < mischief.reset, share if cut < mischief.truncate else 1)


class Proxy:
    """``async with Proxy(source, target, seed)``: a listener, and what it does to all who connect."""

    def __init__(self, source: tuple[str, int], target: tuple[str, int], seed: str) -> None:
        self.connections = 0
        """Accepted so far."""
        self.mischief = Mischief()
        self.address = source
        self._target = target
        self._seed = seed
        self._moving = asyncio.Event()
        self._moving.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, *self.address)
        self.address = self._server.sockets[0].getsockname()[:2]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def make(self, mischief: Mischief) -> None:
        """Do this from now on, to pieces that come from now on."""
        self.mischief = mischief
        if mischief.stall:
            self._moving.clear()
        else:
            self._moving.set()

    def reset_all(self) -> None:
        """Break every connection there is."""
        for writer in self._writers:
            _reset(writer)

    # -- one connection --------------------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        number, self.connections = self.connections, self.connections + 1
        try:
            with _owned(self._writers, writer), contextlib.suppress(OSError, asyncio.CancelledError):
                try:
                    upstream, target = await asyncio.open_connection(*self._target)
                except OSError:
                    _reset(writer)
                    return
                with _owned(self._writers, target):
                    await self._join(number, (reader, writer), (upstream, target))
        finally:
            self._tasks.discard(task)

    async def _join(
        self,
        number: int,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        node: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        async def pump(way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            rng = random.Random(f"{self._seed}/{number}/{way}")
            if not await _Pump(self, rng, reader, writer).run():
                _reset(client[1])
                _reset(node[1])

        pumps = (pump("there", client[0], node[1]), pump("back", node[0], client[1]))
        tasks = [asyncio.ensure_future(work) for work in pumps]
        try:  # who half-closes has left, as it has for a node
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def until_moving(self) -> None:
        """Wait while nothing comes."""
        await self._moving.wait()


class _Pump:
    """One way of one connection: reads, holds, and sends in order."""

    def __init__(
        self, proxy: Proxy, rng: random.Random, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._proxy = proxy
        self._rng = rng
        self._reader = reader
        self._writer = writer
        self._held: deque[tuple[float, bytes, Fate]] = deque()
        self._held_bytes = 0
        self._changed = asyncio.Event()
        self._ended = False
        self._broken = False

    async def run(self) -> bool:
        """Until the stream ends; False if it is to end by a reset."""
        reading = asyncio.ensure_future(self._read())
        try:
            return await self._send()
        except OSError:
            return False
        finally:
            reading.cancel()

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = 0.0
        try:
            while piece := await self._reader.read(PIECE_BYTES):
                fate = fate_of(self._proxy.mischief, self._rng)
                due_s = max(due_s, loop.time() + fate.late_s)
                self._held.append((due_s, piece, fate))
                self._held_bytes += len(piece)
                self._changed.set()
                while self._held_bytes > HELD_BYTES:
                    self._changed.clear()
                    await self._changed.wait()
            self._ended = True
        except OSError:
            self._broken = True
        self._changed.set()

    async def _send(self) -> bool:
        loop = asyncio.get_running_loop()
        while True:
            while not self._held:
                if self._ended or self._broken:
                    return self._ended
                self._changed.clear()
                await self._changed.wait()
            due_s, piece, fate = self._held[0]
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            await self._proxy.until_moving()
            if fate.reset:
                return False
            self._writer.write(piece if fate.keep == 1 else piece[: int(len(piece) * fate.keep)])
            await self._writer.drain()
            if fate.keep != 1:
                return True
            self._held.popleft()
            self._held_bytes -= len(piece)
            self._changed.set()


@contextlib.contextmanager
def _owned(writers: set[asyncio.StreamWriter], writer: asyncio.StreamWriter) -> Any:
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    writers.add(writer)
    try:
        yield
    finally:
        writers.discard(writer)
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End it with RST, whatever is still to be sent."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


async def main(seed: str, *ways: str) -> None:
    """Stand between addresses until stdin ends."""
    async with contextlib.AsyncExitStack() as stack:
        proxies = {}
        for way in ways:
            name, source, target = way.split("=")
            proxy = Proxy(_address(source), _address(target), f"{seed}/{name}")
            proxies[name] = await stack.enter_async_context(proxy)

        async def obey(name: str, reset_all: bool = False, **mischief: Any) -> dict[str, Any]:
            proxies[name].make(Mischief(**mischief))
            if reset_all:
                proxies[name].reset_all()
            return {"connections": proxies[name].connections}

        await answer_commands(obey)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
