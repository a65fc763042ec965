"""How many users does one API process carry? ``python -m examples.api_server.load`` finds out, and stops by
itself.

Devices beat every ten seconds, so a process that answers r heartbeats a second carries 10 x r users. The load
is an open loop: heartbeats are due at fixed times, and latency counts from then, whether or not they could be
sent, so a server that stands still is charged for it. The rate rises in steps until the 99th percentile
passes the target; the last rate that held is the answer.

One process of the real server, on a core of its own, before a cluster of three nodes, which share the other
core with this generator. Invariant: each answer is read and is a 200, or the step failed.
"""

import argparse
import asyncio
import json
import os
import random
import re
import secrets
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final, cast
from urllib.parse import urlsplit

import uvloop

from examples.api_server.auth import token_for
from examples.api_server.settings import SECRET, URL
from pulsering_bench.usage import BUSY_SHARE, Watch, cores, pin
from pulsering_server.local_cluster import LocalCluster

__all__ = ["Step", "api_process", "beat_at", "main", "search"]

INTERVAL_S: Final = 10.0
TARGET_MS: Final = 25.0
"""A tenth of the quarter second that the server gives a call before it answers 503."""

CONNECTIONS: Final = 256
"""Kept alive, one heartbeat at a time on each, as by the proxy that stands before such a server."""

USERS: Final = 20_000
FIRST_RATE: Final = 1000.0
FACTOR: Final = 1.25
STEPS_MAX: Final = 24
"""From 1,000 a second to 170,000: no process of Python gets there, so the search ends before."""

READY_S: Final = 20.0
_LENGTH: Final = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


@dataclass(frozen=True)
class Step:
    """What came of one rate: milliseconds from due to answered, and whether server or generator had no
    rest."""

    rate_per_s: float
    sent: int
    answered: int
    p50_ms: float
    p99_ms: float
    late_p99_ms: float
    """How late the generator was itself; part of the above."""
    server_busy: float
    server_us: float
    """CPU of the server for one heartbeat."""
    generator_busy: float

    @property
    def whole(self) -> bool:
        """Whether every heartbeat got its 200."""
        return self.sent == self.answered > 0

    def holds(self, target_ms: float) -> bool:
        """Whether a device would have been content."""
        return self.whole and self.p99_ms <= target_ms

    @property
    def limit(self) -> str:
        """Which side had work all the time."""
        if self.server_busy >= BUSY_SHARE:
            return "server"
        return "generator" if self.generator_busy >= BUSY_SHARE else "neither"


@dataclass
class _Round:
    """One rate, while it runs."""

    idle: deque["_Line"] = field(default_factory=deque)
    overdue: deque[tuple[float, bytes]] = field(default_factory=deque)
    latencies_s: list[float] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)
    wrong: int = 0
    left: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def dispatch(self, due_s: float, request: bytes, now_s: float) -> None:
        self.lags_s.append(now_s - due_s)
        if self.idle:
            self.idle.popleft().send(due_s, request)
        else:
            self.overdue.append((due_s, request))

    def settled(self, line: "_Line", good: bool, latency_s: float) -> None:
        if good:
            self.latencies_s.append(latency_s)
        else:
            self.wrong += 1
        self.left -= 1
        if self.left == 0:
            self.done.set()
        if self.overdue:
            line.send(*self.overdue.popleft())
        else:
            self.idle.append(line)


class _Line(asyncio.Protocol):
    """One connection: a request goes out, its answer is read, never two at a time."""

    def __init__(self) -> None:
        self.round = _Round()
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._due_s = 0.0
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def send(self, due_s: float, request: bytes) -> None:
        self._due_s = due_s
        self._busy = True
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        if separator and length and len(body) >= int(length[1]):
            self._buffer = b""
            self._end(head.startswith(b"HTTP/1.1 200 "))

    def connection_lost(self, error: Exception | None) -> None:
        if self._busy:
            self._end(good=False)

    def _end(self, good: bool) -> None:
        self._busy = False
        self.round.settled(self, good, self._loop.time() - self._due_s)


async def beat_at(
    url: str, pid: int, tokens: Sequence[str], rate_per_s: float, seconds: float, connections: int
) -> Step:
    """Send heartbeats at this rate for this long; TimeoutError if the server never answers the last of
    them."""
    loop = asyncio.get_running_loop()
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    requests = [
        f"POST /heartbeat HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {token}\r\n"
        "Content-Length: 0\r\n\r\n".encode()
        for token in tokens
    ]
    lines = [(await loop.create_connection(_Line, host, port))[1] for _ in range(connections)]
    total = max(1, round(rate_per_s * seconds))
    round_ = _Round(deque(lines), left=total)
    for line in lines:
        line.round = round_
    watch = Watch([pid])
    start_s = loop.time()
    sent = 0
    try:
        while sent < total:
            now_s = loop.time()
            while sent < total and start_s + sent / rate_per_s <= now_s:
                round_.dispatch(start_s + sent / rate_per_s, requests[sent % len(requests)], now_s)
                sent += 1
            await asyncio.sleep(max(0.0, start_s + sent / rate_per_s - loop.time()))
        async with asyncio.timeout(READY_S):
            await round_.done.wait()
    finally:
        _, server, generator = watch.stop()
        for line in lines:
            line.transport.abort()
    return Step(
        rate_per_s,
        sent,
        answered=total - round_.wrong,
        p50_ms=_percentile_ms(round_.latencies_s, 50),
        p99_ms=_percentile_ms(round_.latencies_s, 99),
        late_p99_ms=_percentile_ms(round_.lags_s, 99),
        server_busy=server.busy,
        server_us=1e6 * server.cpu_s / total,
        generator_busy=generator.busy,
    )


def _percentile_ms(seconds: list[float], percent: int) -> float:
    ordered = sorted(seconds) or [0.0]
    return 1000 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


@asynccontextmanager
async def api_process(cluster_url: str, secret: str) -> AsyncIterator[tuple[str, int]]:
    """One process of the server on any free port; its URL and its process id."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.api_server", "--port", "0"),
        env={**os.environ, URL: cluster_url, SECRET: secret},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        url = (await asyncio.wait_for(process.stdout.readline(), READY_S)).decode().strip()
        yield url, process.pid
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def search(
    cluster_url: str, *, seconds: float, target_ms: float, connections: int = CONNECTIONS,
    first_rate: float = FIRST_RATE, steps_max: int = STEPS_MAX, pinned: bool = False,
) -> AsyncIterator[Step]:  # fmt: skip
    """Rates, each higher than the one before, up to the first that does not hold; that one comes last."""
    secret = secrets.token_hex(16)
    tokens = [token_for(f"user-{number}", secret.encode()) for number in range(USERS)]
    random.shuffle(tokens)
    async with api_process(cluster_url, secret) as (url, pid):
        if pinned:
            pin(cores()[0], pid)
        await beat_at(url, pid, tokens, first_rate, min(1.0, seconds), connections)  # warm
        rate_per_s = first_rate
        for _ in range(steps_max):
            step = await beat_at(url, pid, tokens, rate_per_s, seconds, connections)
            yield step
            if not step.holds(target_ms):
                return
            rate_per_s *= FACTOR


async def _run(given: argparse.Namespace) -> int:
    best = None
    async with LocalCluster(3) as cluster:
        for node in cluster.nodes.values():
            pin(cores()[1], node.pid)
        pin(cores()[1])
        how = {"seconds": given.seconds, "target_ms": given.target, "connections": given.connections}
        async for step in search(cluster.url, **how, pinned=True):
            holds = step.holds(given.target)
            best = step if holds else best
            _print(step, holds, as_json=given.json)
    if best is None:
        print(f"not even {FIRST_RATE:g}/s hold a p99 of {given.target:g} ms", file=sys.stderr)
        return 1
    users = round(best.rate_per_s * given.interval)
    print(
        f"{users:,} users: {best.rate_per_s:,.0f} heartbeats/s x {given.interval:g} s,"
        f" p99 {best.p99_ms:.1f} ms, {best.server_us:.0f} us of CPU each",
        file=sys.stderr,
    )
    return 0


def _print(step: Step, holds: bool, *, as_json: bool) -> None:
    if as_json:
        document: dict[str, Any] = {**asdict(step), "holds": holds, "limit": step.limit}
        print(json.dumps(document), flush=True)
        return
    print(
        f"{step.rate_per_s:9,.0f}/s  p50 {step.p50_ms:7.2f} ms  p99 {step.p99_ms:7.2f} ms  "
        f"server {step.server_busy:4.0%}  {step.server_us:4.0f} us each  {'holds' if holds else 'too much'}"
        f" (limit: {step.limit})",
        flush=True,
    )


def main(arguments: list[str]) -> int:
    """Search, and say what was found; the exit code."""
    parser = argparse.ArgumentParser(
        "python -m examples.api_server.load", description="How many users does one API process carry?"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of each rate")
    parser.add_argument("--target", type=float, default=TARGET_MS, metavar="MS", help="99th percentile")
    parser.add_argument("--interval", type=float, default=INTERVAL_S, metavar="SECONDS", help="of heartbeats")
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--json", action="store_true", help="one object a step on stdout")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
