"""What the client library itself can do: users a second of its own core, against a stub that costs little.

``python -m pulsering_bench.client`` starts a stub of a cluster in a process of its own, pinned to another
core than the client's, and drives the real ``PresenceClient`` at it: large batches, small batches, and many
tasks that each await one id in a loop. A stub, so that the node's speed is no part of the figures;
``pulsering_bench.node`` measures the two together. Rates are per second of the client's CPU time, so that
other work on the machine counts little; the rate by the clock stands beside them. Invariant: every answer is
checked, and a wrong one is an error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import multiprocessing
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Final

import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from pulsering import PresenceClient, limits, messages
from pulsering.topology import Node, Topology
from pulsering.wire import VERSION, Frame, FrameReader, Op, encode_frame
from pulsering_bench.quotients import per, shown

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

TTL_MS: Final = 20_000
CALLERS_OF_BATCHES: Final = 8
"""Tasks that have a batch under way at once: enough that neither side waits for the other."""

CALLERS_OF_ONE: Final = 1_000
"""Tasks that each await one id, again and again."""

Step = Callable[[int], Awaitable[None]]


@dataclass(frozen=True)
class Figure:
    """One workload, per second of the client's CPU time (``cpu``) and by the clock (``wall``)."""

    name: str
    users_per_cpu_s: float
    users_per_wall_s: float
    cpu_us_per_call: float | None
    calls: int


# --- The stub ---------------------------------------------------------------------------------------------


class Stub(asyncio.Protocol):
    """A node that takes every heartbeat and says that everybody is online; no table, hardly any parsing.

    The answer to a data-plane body depends on its size only, so it is made once a size.
    """

    def __init__(self, node: str, topology: Topology) -> None:
        self._node = node
        self._topology = topology
        self._reader = FrameReader(limits.FRAME_BYTES_MAX)
        self._answers: dict[tuple[int, int], bytes] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio: the client is there."""
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Asyncio: answer all the frames that are whole."""
        self._reader.feed(data)
        replies = []
        while (frame := self._reader.next_frame()) is not None:
            replies.append(encode_frame(frame.op, frame.request_id, 0, self._answer(frame), reply=True))
        if replies:
            self._transport.write(b"".join(replies))

    def _answer(self, frame: Frame) -> bytes:
        if frame.op not in (Op.HEARTBEAT, Op.GET):
            return self._answer_control(frame)
        known = self._answers.get((frame.op, len(frame.body)))
        if known is None:
            count = messages.decode_keys_request(frame.body).key_count
            if frame.op == Op.GET:
                known = messages.encode_get_reply(1, 0, count, b"\x55" * ((count + 3) // 4))
            else:
                known = messages.encode_write_reply(messages.WriteReply(1, count, 0, 0, 0))
            self._answers[frame.op, len(frame.body)] = known
        return known

    def _answer_control(self, frame: Frame) -> bytes:
        topology = self._topology
        if frame.op == Op.HELLO:
            return messages.encode_map(
                messages.Welcome(
                    version=VERSION,
                    cluster=topology.cluster,
                    node=self._node,
                    boot_id=1,
                    epoch=1,
                    topology_hash=topology.hash,
                    warming_ms=0,
                    frame_bytes_max=limits.FRAME_BYTES_MAX,
                    keys_per_frame=limits.KEYS_PER_FRAME,
                    in_flight=limits.IN_FLIGHT_MAX,
                    agent="stub",
                )
            )
        if frame.op == Op.TOPOLOGY:
            return messages.encode_topology(topology.to_wire())
        return messages.encode_map(messages.Vitals(1, 0, 0, 0, draining=False, agent="stub"))


async def _serve(nodes: int, replicas: int, parent: Connection) -> None:
    loop = asyncio.get_running_loop()
    topology: Topology

    def factory(index: int) -> Callable[[], Stub]:
        return lambda: Stub(f"n{index}", topology)

    servers = [await loop.create_server(factory(index), "127.0.0.1", 0) for index in range(nodes)]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    topology = Topology(
        "bench",
        1,
        TTL_MS,
        limits.TICKS_PER_TTL,
        replicas,
        7,
        tuple(Node(f"n{index}", "127.0.0.1", port) for index, port in enumerate(ports)),
    )
    parent.send(ports[0])
    await loop.run_in_executor(None, _wait_for_end, parent)
    for server in servers:
        server.close()


def _wait_for_end(parent: Connection) -> None:
    with contextlib.suppress(EOFError):
        parent.recv()


def _stub_process(core: int | None, nodes: int, replicas: int, parent: Connection) -> None:
    _pin(core)
    uvloop.run(_serve(nodes, replicas, parent))


@contextlib.contextmanager
def stub_cluster(nodes: int = 1, replicas: int = 1, core: int | None = None) -> Iterator[str]:
    """The URL of a stub cluster that lives as long as the block."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_stub_process, args=(core, nodes, replicas, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield f"presence://127.0.0.1:{ours.recv()}/bench"
    finally:
        ours.close()
        process.join()


# --- The workloads ----------------------------------------------------------------------------------------


def _writes(presence: PresenceClient, size: int) -> Step:
    rng = np.random.default_rng(1)
    batches = [rng.integers(0, 2**63, size, dtype=np.uint64) for _ in range(CALLERS_OF_BATCHES)]

    async def step(caller: int) -> None:
        report = await presence.heartbeat_many(batches[caller])
        assert report.accepted == size, report

    return step


def _reads(presence: PresenceClient, size: int) -> Step:
    rng = np.random.default_rng(2)
    batches = [rng.integers(0, 2**63, size, dtype=np.uint64) for _ in range(CALLERS_OF_BATCHES)]
    expected = b"\1" * size

    async def step(caller: int) -> None:
        snapshot = await presence.get_many(batches[caller])
        assert snapshot.statuses == expected, snapshot

    return step


def _single_write(presence: PresenceClient, size: int) -> Step:
    return presence.heartbeat


def _single_read(presence: PresenceClient, size: int) -> Step:
    async def step(caller: int) -> None:
        assert await presence.is_online(caller)

    return step


WORKLOADS: Final[dict[str, tuple[Callable[[PresenceClient, int], Step], int, int]]] = {
    "heartbeat_many 8192": (_writes, 8192, CALLERS_OF_BATCHES),
    "heartbeat_many 1000": (_writes, 1000, CALLERS_OF_BATCHES),
    "heartbeat_many 100": (_writes, 100, CALLERS_OF_BATCHES),
    "get_many 8192": (_reads, 8192, CALLERS_OF_BATCHES),
    "get_many 1000": (_reads, 1000, CALLERS_OF_BATCHES),
    "get_many 100": (_reads, 100, CALLERS_OF_BATCHES),
    "heartbeat, 1000 tasks": (_single_write, 1, CALLERS_OF_ONE),
    "is_online, 1000 tasks": (_single_read, 1, CALLERS_OF_ONE),
    "heartbeat, 1 task": (_single_write, 1, 1),
}
"""Name: who makes the step, users a call, tasks that call it in a loop."""


async def measure(url: str, name: str, seconds: float) -> Figure:
    """Run one workload for about so long, after a fifth of that to warm up."""
    make, size, callers = WORKLOADS[name]
    calls = 0
    async with PresenceClient.from_url(url, timeout=5) as presence:
        step = make(presence, size)

        async def caller(index: int, until: float) -> None:
            nonlocal calls
            while perf_counter() < until:
                for _ in range(8):
                    await step(index)
                calls += 8

        async def run(duration: float) -> None:
            until = perf_counter() + duration
            async with asyncio.TaskGroup() as group:
                for index in range(callers):
                    group.create_task(caller(index, until))

        await run(seconds / 5)
        calls = 0
        gc.collect()
        began, cpu = perf_counter(), process_time()
        await run(seconds)
        took, busy = perf_counter() - began, process_time() - cpu
    return Figure(name, calls * size / busy, calls * size / took, per(busy, calls, 1e6), calls)


def _pin(core: int | None) -> None:
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def cores() -> tuple[int | None, int | None]:
    """One core for the stub, another for the client, if there are two."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[-1]) if len(allowed) > 1 else (None, None)


def report(figures: list[Figure]) -> Table:
    """The figures as people read them."""
    table = Table(title="client, stub cluster")
    table.add_column("workload")
    for heading in ("M users / CPU s", "M users / s", "CPU µs / call"):
        table.add_column(heading, justify="right")
    for figure in figures:
        table.add_row(
            figure.name,
            f"{figure.users_per_cpu_s / 1e6:.3f}",
            f"{figure.users_per_wall_s / 1e6:.3f}",
            shown(figure.cpu_us_per_call, ".2f"),
        )
    return table


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m pulsering_bench.client", description=__doc__)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of: {', '.join(WORKLOADS)}; all")
    parser.add_argument("--seconds", type=float, default=2.0, help="per workload")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--url", help="a running cluster instead of the stub")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    unknown = set(options.workloads) - WORKLOADS.keys()
    if unknown:
        parser.error(f"no such workload: {', '.join(sorted(unknown))}; there are {', '.join(WORKLOADS)}")
    theirs, ours = cores()
    with contextlib.ExitStack() as stack:
        url = options.url or stack.enter_context(stub_cluster(options.nodes, options.replicas, theirs))
        _pin(ours)
        figures = [uvloop.run(measure(url, name, options.seconds)) for name in options.workloads or WORKLOADS]
    if options.json:
        json.dump([asdict(figure) for figure in figures], sys.stdout, indent=2)
        print()
    else:
        Console().print(report(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
