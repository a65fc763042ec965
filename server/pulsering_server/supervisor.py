"""All cores of one node: a process each, started together, kept running, ended together.

Each is ``pulsering serve --node a-3``, which knows nothing of this process, so one core can be run, looked at
and debugged alone. One that ends is started again, soon at first and then ever later, while the others serve
on; it is cold for one ttl, as any node after a start. One that was told to drain, and did, rests: SIGHUP to
this process starts it again, and when all rest the node has ended. SIGTERM drains all of them at once, a
second ends them. Invariant: no core outlives this process.
"""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import structlog

from pulsering import limits
from pulsering_server import child
from pulsering_server.core_reports import CoreReport, in_common
from pulsering_server.service_manager import Manager
from pulsering_server.signals import Signals

__all__ = ["Restarts", "supervise"]

DRAINED: Final = 0
FAILED: Final = 1

log = structlog.get_logger("pulsering_server.supervisor")


class Restarts:
    """How long to wait before a core that ended is started again, in ms."""

    __slots__ = ("_next_ms",)

    def __init__(self) -> None:
        self._next_ms = limits.RESTART_MS_MIN

    def after(self, served_ms: int) -> int:
        """It ended after serving for so long (0: it never got ready)."""
        if served_ms >= limits.RESTART_MS_MAX:
            self._next_ms = limits.RESTART_MS_MIN
        delay_ms = self._next_ms
        self._next_ms = min(2 * delay_ms, limits.RESTART_MS_MAX)
        return delay_ms


class _Core:
    """One core: its process, and the next one after it."""

    def __init__(
        self, config_path: Path, name: str, options: tuple[str, ...], on_rest: Callable[[], None]
    ) -> None:
        self.name = name
        self.facts: dict[str, str] = {}
        """Of its ready line."""
        self.process: asyncio.subprocess.Process | None = None
        self._config_path = config_path
        self._options = options
        self._restarts = Restarts()
        self._on_rest = on_rest
        self._wanted = asyncio.Event()
        self.rests = False
        """Whether it was told to drain, and has."""
        self.report: CoreReport | None = None
        """What it says of itself, where somebody wants to know."""

    async def start(self) -> bool:
        """Start its process; whether that came to serve."""
        service = None if self.report is None else self.report.environ
        self.process = await child.spawn(self._config_path, self.name, *self._options, service=service)
        try:
            self.facts = await child.read_ready(self.process)
        except ValueError:
            child.send_signal(self.process, signal.SIGKILL)
            await self.process.wait()
            return False
        return True

    async def keep(self) -> None:
        """Start it again whenever it ends, unless that was asked for; for as long as this runs."""
        loop = asyncio.get_running_loop()
        ready_s = loop.time()
        serves = True
        while True:
            assert self.process is not None
            code = await self.process.wait()
            drained = serves and code == DRAINED
            if self.report is not None:
                self.report.forget("drained" if drained else "not running")
            served_ms = round((loop.time() - ready_s) * 1000) if serves else 0
            if drained:
                await self._rest()
            else:
                delay_ms = self._restarts.after(served_ms)
                log.error(
                    "core.ended", core=self.name, exit_code=code, served_ms=served_ms, restart_ms=delay_ms
                )
                await asyncio.sleep(delay_ms / 1000)
            serves = await self.start()
            ready_s = loop.time()
            if serves:
                log.info("core.restarted", core=self.name, pid=self.process.pid)

    async def _rest(self) -> None:
        """Wait until it is wanted again."""
        log.warning("core.drained", core=self.name, again="SIGHUP to the node")
        self._wanted.clear()
        self.rests = True
        self._on_rest()
        await self._wanted.wait()
        self.rests = False

    def reload(self) -> None:
        """Have it read its configuration: by a signal, or by a new start if it rests."""
        self._wanted.set()
        self.tell(signal.SIGHUP)

    def pid(self) -> int | None:
        """Its process, if one was ever started."""
        return None if self.process is None else self.process.pid

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self.process is not None and self.process.returncode is None

    def tell(self, number: int) -> None:
        """Send its process a signal."""
        if self.process is not None:
            child.send_signal(self.process, number)

    async def end(self) -> int:
        """Wait for the end of its process; the exit code."""
        return await self.process.wait() if self.process is not None else DRAINED


async def supervise(
    config_path: Path,
    cores: list[tuple[str, tuple[str, ...]]],
    on_ready: Callable[[dict[str, str]], None],
) -> int:
    """Run the cores, each a name and the options of its ``serve``; the exit code.

    ``on_ready`` is told the facts of the first one's ready line once all serve. If one does not get ready at
    the start, none is left and its exit code is ours.
    """
    signals = Signals(asyncio.get_running_loop())
    all_rest = asyncio.Event()

    def on_rest() -> None:
        if all(core.rests for core in node):
            all_rest.set()

    node = [_Core(config_path, name, options, on_rest) for name, options in cores]
    service = _Service(node, signals)
    keepers: list[asyncio.Task[None]] = []
    tasks: list[asyncio.Future[Any]] = [asyncio.create_task(_pass_on_reloads(node, signals))]
    told = asyncio.create_task(signals.first.wait())
    over = asyncio.create_task(all_rest.wait())
    started = asyncio.gather(*(core.start() for core in node))
    tasks += (told, over, started)
    try:
        await asyncio.wait((told, started), return_when=asyncio.FIRST_COMPLETED)
        if not told.done():
            if not all(started.result()):
                return _first_failure(node)
            on_ready(node[0].facts)
            keepers = [asyncio.create_task(core.keep()) for core in node]
            tasks += keepers
            await asyncio.wait((told, over, *keepers), return_when=asyncio.FIRST_COMPLETED)
        for keeper in keepers:
            if keeper.done():  # it never ends by itself: a fault of ours
                keeper.result()
        await _cancel(tasks)
        service.manager.tell()
        return await _drain([core for core in node if core.running], signals)
    finally:
        await _cancel([*tasks, *service.tasks])
        for core in node:
            core.tell(signal.SIGKILL)
        await asyncio.gather(*(core.end() for core in node))
        service.close()
        signals.close()


class _Service:
    """The cores as one service of a manager that wants to know how it is, and that none of them hangs."""

    def __init__(self, node: list[_Core], signals: Signals) -> None:
        self.reports: list[CoreReport] = []
        self.manager = Manager(
            lambda: in_common([each.state for each in self.reports], stopping=signals.first.is_set())
        )
        self.tasks: list[asyncio.Future[Any]] = []
        if not self.manager:
            return
        for core in node:
            core.report = CoreReport(core.pid, self.manager.watchdog_us, self.manager.tell)
            self.reports.append(core.report)
        self.tasks.append(asyncio.create_task(self.manager.run()))
        if self.manager.watchdog_us:
            self.tasks.append(asyncio.create_task(self._watch(node)))

    async def _watch(self, node: list[_Core]) -> None:
        """End cores whose loop does not turn; whoever keeps them starts them again."""
        told: set[int | None] = set()
        while True:
            await asyncio.sleep(self.manager.watchdog_us / 4e6)
            for core in node:
                if core.report is None or not core.report.overdue:
                    continue
                pid = core.pid()
                log.error("core.hangs", core=core.name, pid=pid)
                core.tell(signal.SIGKILL if pid in told else signal.SIGABRT)  # the latter logs where it hangs
                told.add(pid)
                core.report.excuse()

    def close(self) -> None:
        """Let go of all sockets."""
        self.manager.close()
        for report in self.reports:
            report.close()


async def _pass_on_reloads(node: list[_Core], signals: Signals) -> None:
    """Each core reads the configuration for itself; SIGHUP means all of them, also those at rest."""
    while True:
        await signals.reload.wait()
        signals.reload.clear()
        for core in node:
            core.reload()


def _first_failure(node: list[_Core]) -> int:
    """One did not get ready: the exit code of the first that ended by itself."""
    codes = [core.process.returncode for core in node if core.process is not None]
    return next((code for code in codes if code is not None and code > 0), FAILED)


async def _cancel(tasks: "list[asyncio.Future[Any]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _drain(node: list[_Core], signals: Signals) -> int:
    """Tell all cores to leave, and again if we are told again; 0 if all did in time."""
    log.info("node.draining", cores=len(node), drain_ms=limits.DRAIN_MS)
    for core in node:
        core.tell(signal.SIGTERM)
    ends = asyncio.gather(*(core.end() for core in node))
    hurried = asyncio.create_task(signals.second.wait())
    wait_ms = limits.DRAIN_MS + limits.STOP_GRACE_MS
    await asyncio.wait((ends, hurried), timeout=wait_ms / 1000, return_when=asyncio.FIRST_COMPLETED)
    hurried.cancel()
    if not ends.done():
        for core in node:
            core.tell(signal.SIGTERM)
        await asyncio.wait((ends,), timeout=limits.STOP_GRACE_MS / 1000)
    if not ends.done():
        ends.cancel()
        log.error("node.stopped", reason="cores did not end")
        return FAILED
    # A core that had not got as far as to mind signals ends by SIGTERM itself: nothing was served there.
    drained = all(code in (DRAINED, -signal.SIGTERM) for code in ends.result())
    log.info("node.stopped", reason="drained" if drained else "cut short", exit_codes=ends.result())
    return DRAINED if drained else FAILED
