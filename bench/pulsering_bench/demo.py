"""``pulsering demo``: three real nodes, a million people, one node killed half-way, and a verdict on
every answer.

This module only conducts. ``Plan`` says what happens when, ``LocalCluster`` is the processes,
``Generator`` plays and reads, ``Truth`` judges, and ``view`` shows; here they are started in order,
watched once a second, and always taken down again, however the demo ends. The exit code is 0 only if
something was read and every answer was right.
"""

import asyncio
import gc
import json
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.live import Live

from pulsering import PresenceClient
from pulsering.errors import PresenceError
from pulsering.reports import Count, NodeStatus
from pulsering_bench.crowd import Crowd
from pulsering_bench.demo_config import DemoConfig, demo_config
from pulsering_bench.generator import Generator
from pulsering_bench.plan import Plan
from pulsering_bench.trace import busiest_hours, load_trace, playback
from pulsering_bench.view import (
    VERDICT_WIDTH,
    Frame,
    Happening,
    NodeLine,
    Verdict,
    dashboard,
    plain_line,
    verdict_table,
)
from pulsering_server.local_cluster import LocalCluster, NodeFailed

TRACE_HOURS: Final = 48
"""The busiest hours of nine years, side by side."""
WATCH_S: Final = 0.25
PLAIN_S: Final = 2.0
_NEWS: Final = {"UN": ("is up and warm", "green"), "DN": ("does not answer", "red")}
_TRUTH_ROWS: Final = 1 << 16
"""Rows counted at a time, so that counting never holds the loop for long."""


def run_demo(plan: Plan, config: Path | None, *, as_json: bool) -> int:
    """Run a demo and return its exit code; ``as_json`` leaves stdout to one object, people read stderr."""
    console = Console(stderr=as_json, highlight=False)
    if not console.is_terminal:
        console.width = VERDICT_WIDTH
    source = demo_config(config, plan.ttl_ms)
    with tempfile.TemporaryDirectory(prefix="pulsering-demo-") as directory:
        file = Path(directory, "cluster.yaml")
        file.write_text(source.text, "utf-8")
        try:
            verdict = _run_in_loop(Demo(plan, source, file, console).run())
        except NodeFailed as error:
            console.print(f"pulsering demo: {error}", style="red", markup=False)
            return 1
        except asyncio.CancelledError:
            console.print("pulsering demo: told to stop; no verdict")
            return 128 + signal.SIGTERM
    console.print(verdict_table(verdict))
    if as_json:
        console.file.flush()
        print(json.dumps(verdict.document), flush=True)
    return 0 if verdict.passed else 1


def _run_in_loop(main: Any) -> Verdict:
    try:
        import uvloop
    except ModuleNotFoundError:
        factory: Any = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        verdict: Verdict = runner.run(main)
    return verdict


class Demo:
    """One run, from starting the nodes to the verdict."""

    def __init__(self, plan: Plan, source: DemoConfig, file: Path, console: Console) -> None:
        """Prepare; nothing is started before ``run``."""
        self.plan = plan
        self.source = source
        self.console = console
        self.names = tuple(node.name for node in source.config.nodes)
        self.cluster = LocalCluster(config_path=file)
        self.victim = self.names[len(self.names) // 2]
        self.happenings: list[Happening] = []
        self.tick = plan.ttl_ms / source.config.ticks_per_ttl / 1000
        self._truth = (0, 0)
        self._count: Count | None = None
        self._drift: float | None = None
        self._warm_up: tuple[int, int] | None = None
        self._nodes: list[NodeLine] = []
        self._rates = _Rates()
        self._cpu_began = 0.0

    async def run(self) -> Verdict:
        """Start the nodes, play, kill, watch, and judge."""
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        self._introduce()
        url = f"{self.cluster.url}/{self.source.config.cluster}"
        crowd = self._crowd()
        async with self.cluster, PresenceClient.from_url(url) as client:
            generator = Generator(client, self.plan, crowd, tick=self.tick)
            gc.collect()
            gc.freeze()
            self._cpu_began = time.process_time()
            playing = asyncio.create_task(generator.run())
            watching = [
                asyncio.create_task(work)
                for work in (self._watch(client, generator), self._count_people(client, generator))
            ]
            watching.append(asyncio.create_task(self._show(generator)))
            if self.plan.kill:
                watching.append(asyncio.create_task(self._kill_and_restart(generator)))
            try:
                await self._first_of(playing, watching)
            finally:
                for work in (playing, *watching):
                    work.cancel()
                await asyncio.gather(playing, *watching, return_exceptions=True)
            return self._verdict(generator)

    async def _first_of(self, playing: "asyncio.Task[None]", watching: "list[asyncio.Task[None]]") -> None:
        """Wait for the players; a watcher that fails meanwhile is a failure of the demo."""
        waiting = {playing, *watching}
        while not playing.done():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for work in done:
                work.result()
        playing.result()

    # --- What happens -----------------------------------------------------------------------------------

    def _introduce(self) -> None:
        config, plan = self.source.config, self.plan
        self.console.print(
            f"[bold]{len(self.names)} nodes[/], {config.replicas} replicas, ttl {plan.ttl_ms / 1000:g} s; "
            f"[bold]{plan.users:,} users[/] beating every {plan.interval:g} s, "
            f"beside {TRACE_HOURS} hours of a recorded chat channel; {plan.seconds:g} s",
            soft_wrap=True,
        )
        for note in self.source.notes:
            self.console.print(f"note: {note}", style="yellow", markup=False, soft_wrap=True)

    def _crowd(self) -> Crowd:
        events = load_trace()
        play = playback(events, busiest_hours(events, TRACE_HOURS))
        return Crowd(play, self.plan.seconds, np.random.default_rng(self.plan.seed + 2))

    async def _kill_and_restart(self, generator: Generator) -> None:
        await asyncio.sleep(self.plan.kill_at)
        self._happened(generator, f"node {self.victim} killed (kill -9)", "bold red")
        await self.cluster.kill(self.victim)
        await asyncio.sleep(max(0.0, self.plan.back_at - generator.elapsed))
        self._happened(generator, f"node {self.victim} started again, empty", "yellow")
        await self.cluster.restart(self.victim)

    def _happened(self, generator: Generator, text: str, style: str = "") -> None:
        self.happenings.append(Happening(generator.elapsed, text, style))

    # --- What is seen -----------------------------------------------------------------------------------

    async def _watch(self, client: PresenceClient, generator: Generator) -> None:
        """Look at the nodes; tell when one becomes warm, or ends without being told to."""
        told: dict[str, str] = {}
        while True:
            before = {node.name: node.state for node in self._nodes}
            with suppress(PresenceError):
                self._nodes = [_node_line(node) for node in await client.status()]
            for node in self._nodes:
                # One look that failed is not yet news; two in a row are.
                if node.state == before.get(node.name) != told.get(node.name):
                    told[node.name] = node.state
                    if node.state in _NEWS:
                        text, style = _NEWS[node.state]
                        self._happened(generator, f"node {node.name} {text}", style)
            if self._warm_up is None and self._nodes and all(node.state == "UN" for node in self._nodes):
                tally = generator.truth.tally
                self._warm_up = (tally.reads_checked, tally.unknown)
            await asyncio.sleep(WATCH_S)

    async def _count_people(self, client: PresenceClient, generator: Generator) -> None:
        """Compare count() with the truth about once a second."""
        while True:
            counted = None
            with suppress(PresenceError):
                counted = await client.count()
            least = most = 0
            for low in range(0, len(generator.truth), _TRUTH_ROWS):
                some_least, some_most = generator.truth.online_between(
                    generator.clock(), slice(low, low + _TRUTH_ROWS)
                )
                least, most = least + some_least, most + some_most
                await asyncio.sleep(0)
            self._truth, self._count = (least, most), counted
            if counted is not None and counted.exact and most:
                off = max(0, least - counted.online, counted.online - most) / most
                self._drift = max(self._drift or 0.0, off)
            await asyncio.sleep(1.0)

    async def _show(self, generator: Generator) -> None:
        """Draw the dashboard, or print a line now and then."""
        if not self.console.is_terminal:
            while True:
                await asyncio.sleep(PLAIN_S)
                self.console.print(plain_line(self._frame(generator)), markup=False, soft_wrap=True)
        with Live(console=self.console, refresh_per_second=4, auto_refresh=False, transient=True) as live:
            while True:
                live.update(dashboard(self._frame(generator)), refresh=True)
                await asyncio.sleep(0.25)

    def _frame(self, generator: Generator) -> Frame:
        load, tally = generator.load, generator.truth.tally
        elapsed = generator.elapsed
        self._rates.update(elapsed, load.heartbeats, load.gets, load.second_us)
        return Frame(
            elapsed=elapsed,
            seconds=self.plan.seconds,
            truth=self._truth,
            counted=None if self._count is None else self._count.online,
            counted_exactly=self._count is not None and self._count.exact,
            heartbeats_per_s=self._rates.heartbeats,
            gets_per_s=self._rates.gets,
            p50_ms=load.get_us.get_value_at_percentile(50) / 1000,
            p99_ms=load.get_us.get_value_at_percentile(99) / 1000,
            reads=tally.reads_checked,
            ghosts=tally.ghosts,
            false_offlines=tally.false_offlines,
            unknowns=tally.unknown,
            nodes=self._nodes,
            happenings=self.happenings,
            p99s_ms=self._rates.p99s_ms,
        )

    def _verdict(self, generator: Generator) -> Verdict:
        load, tally, elapsed = generator.load, generator.truth.tally, generator.elapsed
        reads_then, unknowns_then = self._warm_up or (tally.reads_checked, tally.unknown)
        lag_ms = load.lag_us.get_value_at_percentile(99) / 1000
        return Verdict(
            reads_checked=tally.reads_checked,
            ghosts=tally.ghosts,
            false_offlines=tally.false_offlines,
            unknowns=tally.unknown,
            warm_reads=tally.reads_checked - reads_then,
            warm_unknowns=tally.unknown - unknowns_then,
            online=tally.online,
            offline=tally.offline,
            undecided=tally.undecided,
            users=self.plan.users,
            heartbeats_per_s=load.heartbeats / elapsed,
            gets_per_s=load.gets / elapsed,
            get_p50_ms=load.get_us.get_value_at_percentile(50) / 1000,
            get_p99_ms=load.get_us.get_value_at_percentile(99) / 1000,
            seconds=round(elapsed, 3),
            seed=self.plan.seed,
            heartbeats=load.heartbeats,
            unacknowledged=load.unacknowledged,
            failed_calls=load.failed_calls,
            count_drift=self._drift,
            generator_lag_p99_ms=lag_ms,
            generator_cpu=(time.process_time() - self._cpu_began) / elapsed,
            unknown_reasons=load.unknown_reasons,
            failures=load.failures,
            notes=(*self.source.notes, *self._doubts(generator, elapsed)),
            examples=tuple(tally.examples),
            happenings=tuple(self.happenings),
        )

    def _doubts(self, generator: Generator, elapsed: float) -> list[str]:
        """Return what the reader of the verdict should know about the generator and the nodes."""
        doubts = []
        worst = generator.load.lag_us.get_max_value() / 1e6
        if worst > self.plan.interval / 10:
            doubts.append(
                f"the generator could not keep the interval of {self.plan.interval:g} s: heartbeats were "
                f"sent up to {worst:.1f} s late; rates and latencies are those of a busy machine"
            )
        if elapsed > self.plan.seconds * 1.05:
            doubts.append(f"the load of {self.plan.seconds:g} s took {elapsed:.1f} s to play")
        doubts += [
            node.describe("ended by itself") for node in self.cluster.nodes.values() if not node.running
        ]
        return doubts


class _Rates:
    """Rates and p99 of the last full second, from counters that only grow."""

    def __init__(self) -> None:
        self.heartbeats = self.gets = 0.0
        self.p99s_ms: list[float] = []
        self._since = (0.0, 0, 0)

    def update(self, elapsed: float, heartbeats: int, gets: int, second_us: Any) -> None:
        """Take the counters; ``second_us`` is read and emptied once a second."""
        at, heartbeats_then, gets_then = self._since
        if elapsed - at < 1:
            return
        self.heartbeats = (heartbeats - heartbeats_then) / (elapsed - at)
        self.gets = (gets - gets_then) / (elapsed - at)
        self.p99s_ms.append(second_us.get_value_at_percentile(99) / 1000)
        second_us.reset()
        self._since = (elapsed, heartbeats, gets)


def _node_line(node: NodeStatus) -> NodeLine:
    state = "DN" if not node.up else "UR" if node.draining else "UW" if node.warming else "UN"
    return NodeLine(node.name, node.address, state, node.users, node.warming or 0.0)
