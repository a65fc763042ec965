"""What a server costs while it is measured: CPU, memory, files and tasks of a whole tree of processes.

Linux says for each thread how long it ran and how long it was ready but had to wait for a core
(``/proc/<pid>/task/<tid>/schedstat``, in nanoseconds). The two together are the time that it had something to
do, whoever else used the machine, so *busy* here means that, and a neighbour on the same core does not make
a server look idle. Memory is the proportional set size, which counts the pages that several processes share
once. Invariant: a process that ends between two looks makes no error; what it used is lost.
"""

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter, sleep
from typing import Final, NamedTuple

__all__ = [
    "BUSY_SHARE",
    "Cpu",
    "Share",
    "Watch",
    "bytes_of",
    "cores",
    "cpu_of",
    "files_of",
    "pin",
    "settled_bytes_of",
    "tasks_of",
    "tree_of",
]

BUSY_SHARE: Final = 0.9
"""Of the time by the clock, above which a side had work all the time, but for rounding."""


SETTLE_S: Final = 0.25
SETTLE_LOOKS: Final = 40
SETTLED_SHARE: Final = 0.001
"""How memory is watched until it stands still: so often, so many times, so little change."""

LEAST_S: Final = 0.001
"""What a side counts as having used at least: the system books at its ticks, which are milliseconds apart."""


class Cpu(NamedTuple):
    """Seconds that threads ran, and that they were ready but waited for a core."""

    ran_s: float
    waited_s: float


class Share(NamedTuple):
    """What one side did in a stretch of time: CPU seconds, and which part of the time it had work."""

    cpu_s: float
    busy: float


def tree_of(root: int) -> list[int]:
    """A process and all its descendants."""
    found = [root]
    for pid in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (task / "children").read_text("ascii").split())
    return found


def cpu_of(pids: Iterable[int]) -> Cpu:
    """What all threads of these processes used since they started."""
    threads = _threads_of(pids).values()
    return Cpu(sum(thread.ran_s for thread in threads), sum(thread.waited_s for thread in threads))


def _threads_of(pids: Iterable[int]) -> dict[int, Cpu]:
    """What each thread used since it started."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    fields = (task / "schedstat").read_text("ascii").split()
                    found[int(task.name)] = Cpu(int(fields[0]) / 1e9, int(fields[1]) / 1e9)
    return found


def _used(before: dict[int, Cpu], after: dict[int, Cpu]) -> Cpu:
    """What those threads used that are still there; who ended takes nothing away from the others."""
    were = [(thread, before.get(number, Cpu(0.0, 0.0))) for number, thread in after.items()]
    return Cpu(
        sum(now.ran_s - was.ran_s for now, was in were), sum(now.waited_s - was.waited_s for now, was in were)
    )


def bytes_of(pids: Iterable[int]) -> int:
    """Resident bytes of these processes, shared pages counted once."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) << 10
    return total


def settled_bytes_of(pids: Iterable[int]) -> int:
    """``bytes_of`` once it stands still: some stores go on filling a larger index after they were loaded."""
    pids = list(pids)
    size = bytes_of(pids)
    for _ in range(SETTLE_LOOKS):
        sleep(SETTLE_S)
        before, size = size, bytes_of(pids)
        if abs(size - before) <= SETTLED_SHARE * size:
            break
    return size


def files_of(pids: Iterable[int]) -> int:
    """Files that these processes have open."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += len(os.listdir(f"/proc/{pid}/fd"))
    return total


def tasks_of(pids: Iterable[int]) -> int:
    """Threads of these processes."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += len(os.listdir(f"/proc/{pid}/task"))
    return total


def cores() -> tuple[int, int]:
    """The server's core and the generator's; the same one where there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def pin(core: int, pid: int = 0) -> Callable[[], None]:
    """Keep a process (0: this one) on one core; returns what lets it go again."""
    before = os.sched_getaffinity(pid)
    os.sched_setaffinity(pid, {core})
    return lambda: os.sched_setaffinity(pid, before)


class Watch:
    """Runs from its making to ``stop``: what the server's processes and this one did in between."""

    def __init__(self, server: Iterable[int]) -> None:
        self._server = list(server)
        self._before = _threads_of(self._server), _threads_of((os.getpid(),))
        self._began = perf_counter()

    def stop(self) -> tuple[float, Share, Share]:
        """Seconds by the clock, the server's share, the generator's."""
        wall = perf_counter() - self._began
        after = _threads_of(self._server), _threads_of((os.getpid(),))
        used = [_used(was, now) for was, now in zip(self._before, after, strict=True)]
        shares = [Share(max(LEAST_S, cpu.ran_s), (cpu.ran_s + cpu.waited_s) / wall) for cpu in used]
        return wall, shares[0], shares[1]
