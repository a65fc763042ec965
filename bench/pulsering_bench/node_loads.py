"""What a node is loaded with while it is measured: closed loops, an open loop, raw frames, idle connections.

A closed loop asks as often as it is answered and finds how much is possible; the open loop asks at fixed
times, each call timed from when it was due, and finds how long callers wait. All go through the real client
but for ``RawPeer``, which sends prebuilt frames. Every answer is judged: the ids 0 to ``users`` were beaten,
those above 2^63 never were. Invariant: an answer that is wrong is in ``wrong`` and a call that got none in
``failed``, whatever load it was of.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from pulsering import HeartbeatReport, PresenceClient, PresenceError, Status, messages
from pulsering.ids import keys_of
from pulsering.transport import now_ms
from pulsering.wire import HEADER_BYTES, VERSION, Op, encode_frame

__all__ = ["PAGE", "Load", "Loads", "RawPeer", "Starving", "cpu_seconds"]

PAGE: Final = 1000
"""Users of a page: half of them online, half never seen."""

FRAME_USERS: Final = 8192
BUSY_SHARE: Final = 0.9
"""Of a core, above which a side is called busy."""

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_POOL: Final = 64
"""Batches made before a loop begins, so that making them is no part of it."""

Ids = NDArray[np.uint64]
Seconds = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True)
class Load:
    """What one closed loop did: calls, users, and seconds of wall time and of each side's CPU.

    ``starved_s``: how long the node or this process, whichever longer, had work but no core to do it on.
    """

    name: str
    calls: int
    users: int
    wall_s: float
    server_s: float
    client_s: float
    starved_s: float

    @property
    def server_share(self) -> float:
        """Of a core, what the server used."""
        return self.server_s / self.wall_s

    @property
    def client_share(self) -> float:
        """Of a core, what this process used."""
        return self.client_s / self.wall_s

    @property
    def bottleneck(self) -> str:
        """Who worked all the time: server, client, both, neither, or other programs that had their cores."""
        server, client = self.server_share > BUSY_SHARE, self.client_share > BUSY_SHARE
        if server or client:
            return "both" if server and client else "server" if server else "client"
        return "others" if self.starved_s > (1 - BUSY_SHARE) * self.wall_s else "neither"

    @property
    def per_server_s(self) -> float | None:
        """Users a second of the server's CPU: by the clock where the server worked all the time.

        None if nobody was served.
        """
        if not self.users:
            return None
        if self.server_share > BUSY_SHARE:
            return self.users / self.wall_s
        return self.users / max(self.server_s, 1 / _TICKS_PER_S)

    @property
    def basis(self) -> str:
        """How ``per_server_s`` is known."""
        used = f"the server used {self.server_share:.0%} of a core, the client {self.client_share:.0%}"
        if self.server_share > BUSY_SHARE:
            return f"users by the clock: {used}"
        return f"users by the server's CPU seconds in /proc: {used}"


class Loads:
    """The loads of one node through one client; ``users`` of them are online once ``fill`` is done."""

    def __init__(self, presence: PresenceClient, server_pid: int, users: int) -> None:
        self.wrong = 0
        self.failed = 0
        self.users = users
        self._presence = presence
        self.server_pid = server_pid
        self.grown = users
        """The first user who is not there yet."""
        self._rng = np.random.default_rng(1)

    async def fill(self) -> None:
        """Beat every user once."""
        await self._beat(0, self.users)

    async def add(self, users: int) -> None:
        """Beat so many who are new."""
        start, self.grown = self.grown, self.grown + users
        await self._beat(start, self.grown)

    async def _beat(self, first: int, end: int) -> None:
        batches = iter(range(first, end, FRAME_USERS))

        async def worker() -> None:
            for start in batches:
                await self.refresh(np.arange(start, min(start + FRAME_USERS, end), dtype=np.uint64))

        await asyncio.gather(*(worker() for _ in range(4)))

    # -- closed loops ----------------------------------------------------------------------------------------

    async def batches(
        self, name: str, call: Callable[[Ids], Awaitable[bool]], batch: int, at_once: int, seconds: float
    ) -> Load:
        """As many calls of ``batch`` users as are answered, ``at_once`` under way."""
        pool = [self._present(batch) for _ in range(_POOL)]
        calls = 0

        async def worker(turn: int, end: float) -> None:
            nonlocal calls
            while time.perf_counter() < end:
                answered = await call(pool[turn % _POOL])
                calls += answered
                turn += 1

        with self._measured() as measured:
            end = time.perf_counter() + seconds
            await asyncio.gather(*(worker(turn, end) for turn in range(at_once)))
        return Load(name, calls, calls * batch, *measured)

    async def singles(self, name: str, tasks: int, seconds: float) -> Load:
        """``tasks`` tasks that each beat one user again and again."""
        calls = 0

        async def worker(user: int, end: float) -> None:
            nonlocal calls
            heartbeat = self._presence.heartbeat
            while time.perf_counter() < end:
                for _ in range(8):
                    await heartbeat(user)
                calls += 8

        with self._measured() as measured:
            end = time.perf_counter() + seconds
            await asyncio.gather(*(worker(user, end) for user in range(tasks)))
        return Load(name, calls, calls, *measured)

    async def raw(self, name: str, peer: "RawPeer", batch: int, seconds: float) -> Load:
        """Prebuilt heartbeats of ``batch`` users each, pipelined on one socket."""
        with self._measured() as measured:
            frames, wrong = await asyncio.to_thread(peer.run, batch, seconds)
        self.wrong += wrong
        return Load(name, frames, frames * batch, *measured)

    @contextlib.contextmanager
    def _measured(self) -> Iterator[list[float]]:
        """Seconds as a ``Load`` has them, filled in at the end."""
        figures: list[float] = []
        server, client, began = cpu_seconds(self.server_pid), time.process_time(), time.perf_counter()
        starving = Starving(self.server_pid)
        yield figures
        wall = time.perf_counter() - began
        used = cpu_seconds(self.server_pid) - server, time.process_time() - client
        figures += [wall, *used, starving.seconds]

    # -- calls -----------------------------------------------------------------------------------------------

    async def refresh(self, ids: Ids) -> bool:
        """Beat users; each must be taken. Whether there was an answer."""
        return await self._write(self._presence.heartbeat_many(ids))

    async def get(self, ids: Ids) -> bool:
        """Ask for users who are all online. Whether there was an answer."""
        snapshot = await self._attempt(self._presence.get_many(ids))
        if snapshot is not None:
            self.wrong += len(ids) - snapshot.counts[Status.ONLINE]
        return snapshot is not None

    async def _write(self, call: Awaitable[HeartbeatReport]) -> bool:
        report = await self._attempt(call)
        if report is not None:
            self.wrong += report.total - report.accepted
        return report is not None

    async def page(self, ids: Ids) -> None:
        """Ask for a page of ``_page``."""
        snapshot = await self._attempt(self._presence.get_many(ids))
        if snapshot is not None:
            online = np.frombuffer(snapshot.statuses, np.uint8) == Status.ONLINE
            half = len(ids) // 2
            self.wrong += int(np.count_nonzero(~online[:half]) + np.count_nonzero(online[half:]))

    async def _attempt(self, call: Awaitable[T]) -> T | None:
        """A node that refuses a call is part of what is measured."""
        try:
            return await call
        except PresenceError:
            self.failed += 1
            return None

    # -- open loop -------------------------------------------------------------------------------------------

    async def pages(self, rate: float, seconds: float) -> Seconds:
        """``rate`` pages a second whatever the answers take; seconds from due to answer or error."""
        pool = [self._page() for _ in range(_POOL)]

        async def call(turn: int) -> None:
            await self.page(pool[turn % _POOL])

        return await _open_loop(call, rate, seconds)

    async def grow(self, share: float, seconds: float) -> None:
        """Add ``share`` of the users in so many seconds; every second of the new leaves again at once."""
        calls = max(1, int(self.users * share) // PAGE)

        async def call(_: int) -> None:
            start, self.grown = self.grown, self.grown + PAGE
            ids = np.arange(start, start + PAGE, dtype=np.uint64)
            await self.refresh(ids)
            await self._write(self._presence.leave_many(ids[::2]))

        await _open_loop(call, calls / seconds, seconds)

    def _present(self, count: int) -> Ids:
        return self._rng.integers(0, self.users, count, dtype=np.uint64)

    def _page(self) -> Ids:
        absent = self._rng.integers(2**63, 2**64, PAGE // 2, dtype=np.uint64)
        return np.concatenate([self._present(PAGE // 2), absent])


async def _open_loop(call: Callable[[int], Awaitable[None]], rate: float, seconds: float) -> Seconds:
    """Call at fixed times; seconds from when each was due to its end."""
    took: list[float] = []

    async def run(turn: int, due: float) -> None:
        await call(turn)
        took.append(time.perf_counter() - due)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for turn in range(max(1, int(rate * seconds))):
            due = began + turn / rate
            while (ahead := due - time.perf_counter()) > 0:  # noqa: ASYNC110  # waits for a time, not an event
                # Timers of the loop are a millisecond coarse; the last one is spent giving others a turn.
                await asyncio.sleep(ahead - 0.001 if ahead > 0.002 else 0)
            group.create_task(run(turn, due))
    return np.array(took)


class RawPeer:
    """A socket that has said HELLO; ``run`` pipelines small heartbeats through it."""

    WRITE_USERS: Final = 1024
    """Users in a write; four writes are under way, so that the node always has the next."""
    WRITES: Final = 4

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        hello = messages.Hello(VERSION, VERSION, "", 0, 0, "bench")
        self._socket.sendall(encode_frame(Op.HELLO, 0, now_ms(), messages.encode_map(hello)))
        header = self._receive(HEADER_BYTES)
        self._receive(int.from_bytes(header[8:12], "little"))

    def run(self, batch: int, seconds: float) -> tuple[int, int]:
        """Frames of ``batch`` users answered in about so long, and how many of the answers were wrong."""
        count, size = self.WRITE_USERS // batch, batch * messages.KEY_BYTES
        keys = keys_of(np.arange(count * batch, dtype=np.uint64), 0)
        bodies = [
            messages.encode_keys_request(1, 0, keys[at : at + size]) for at in range(0, len(keys), size)
        ]
        frames = _frames([encode_frame(Op.HEARTBEAT, number, 0, body) for number, body in enumerate(bodies)])
        body = messages.encode_write_reply(messages.WriteReply(1, batch, 0, 0, 0))
        answers = _frames([encode_frame(Op.HEARTBEAT, n, 0, body, reply=True) for n in range(count)])
        end = time.perf_counter() + seconds
        sent = done = wrong = 0
        while done < sent or time.perf_counter() < end:
            while sent < done + self.WRITES and time.perf_counter() < end:
                frames["sender_ms"] = now_ms() & 0xFFFFFFFF
                self._socket.sendall(frames.data)
                sent += 1
            if done < sent:
                replies = np.frombuffer(self._receive(answers.nbytes), answers.dtype)
                same = replies["start"] == answers["start"]
                wrong += count - int(np.count_nonzero(same & (replies["body"] == answers["body"])))
                done += 1
        return done * count, wrong

    def _receive(self, size: int) -> bytes:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            count = self._socket.recv_into(view)
            if not count:
                raise ConnectionError("the node closed the connection")
            view = view[count:]
        return bytes(data)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def _frames(frames: list[bytes]) -> NDArray[np.void]:
    """Frames of one size as numpy sees them: magic, op, id and length, the clock, the body."""
    body = f"V{len(frames[0]) - HEADER_BYTES}"
    kind = np.dtype([("start", "V12"), ("sender_ms", "<u4"), ("body", body)])
    return np.frombuffer(b"".join(frames), kind).copy()


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process has used, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


class Starving:
    """How long a node or this process, whichever longer, had work but others had its core, since it was made.

    Percentiles and rates by the clock are the node's own only where that is next to nothing.
    """

    def __init__(self, pid: int) -> None:
        self._pids = (pid, os.getpid())
        self._before = self._waited()

    @property
    def seconds(self) -> float:
        """0 where the kernel does not tell."""
        return max(now - then for now, then in zip(self._waited(), self._before, strict=True))

    def _waited(self) -> list[float]:
        return [_seconds_in_queue(pid) for pid in self._pids]


def _seconds_in_queue(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0
