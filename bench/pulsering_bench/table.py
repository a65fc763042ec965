"""How much memory and time the shard table takes for N users, and whether it ever answers wrong.

Strategy: users are the numbers 0..N-1 run through a bijective mix, so that any of them, present or absent,
can be made again by numpy outside the timed parts. One thread; rates are users per second of that thread's
CPU time, so that other work on the machine does not count against the table. Memory that growing needs next
is populated before each batch: a node has a thread for that, here its time counts as inserting, but not as a
call's. Invariant: what is timed is a call of the public face with a batch of ``BATCH`` keys, or a slice of
maintenance with the budget a node would pass in.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict, dataclass
from time import thread_time
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil  # type: ignore[import-untyped,unused-ignore]
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pulsering_server.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Advance = Callable[[str, int, int], None]  # phase, users done, users in all

BATCH = 1_000
CHUNK = 20_000  # keys made at a time: 160 kB, so that the generator's own memory is small
PROBES_MAX = 100_000_000
REFRESHED_MAX = 20_000_000
CROWD = 1_000_000  # users on one spoke
SLICE_LINES = 2_048  # what a node does between two rounds of its loop
TTL_MS = 3_600_000  # nobody expires while a billion users are put in
TTL_MS_DEFAULT = 20_000
BYTES_A_USER = 9.5
BYTES_BESIDE = 300 << 20


@dataclass(frozen=True)
class TableFigures:
    """One run. Rates are users per CPU second of one core; sizes are bytes; a call's time is its CPU time."""

    users: int
    bytes_per_user: float
    bytes_per_user_max: float
    rss_bytes: int
    insert_per_s: float
    refresh_per_s: float
    get_per_s: float
    single_get_ns: float
    longest_call_ms: float
    populate_ms: float
    rss_expired_bytes: int
    expiry_p99_ratio: float
    wrong_answers: int
    sweep_core_share: float


def keys_of(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Keys of numbered users: splitmix64's finaliser, a bijection (Steele, Lea, Flood 2014)."""
    x = numbers * np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def packed(keys: NDArray[np.uint64]) -> memoryview:
    """Keys as the table takes them: bytes, little-endian."""
    return keys.astype("<u8", copy=False).data.cast("B")


def memory_needed(users: int) -> int:
    """Bytes that a run with so many users takes at its highest."""
    return int(users * BYTES_A_USER) + BYTES_BESIDE


def require_memory(users: int) -> None:
    """MemoryError, with what to do, when a run would not fit."""
    needed, available = memory_needed(users), psutil.virtual_memory().available
    if needed > available:
        fits = max(0, int((available - BYTES_BESIDE) / BYTES_A_USER))
        raise MemoryError(
            f"{users:,} users need about {needed / 2**30:.1f} GiB, but {available / 2**30:.1f} GiB are "
            f"available: free some, or take --users {fits} at most"
        )


class _Run:
    """The phases of one run, in order; each adds to what ``figures`` reports."""

    def __init__(self, users: int, advance: Advance) -> None:
        self.users = users
        self.advance = advance
        self.process = psutil.Process()
        self.random = np.random.default_rng(1)
        keys_of(self.random.integers(0, users, CHUNK, dtype=np.uint64))  # what making keys takes is not ours
        self.rss_before = int(self.process.memory_info().rss)
        self.table = Table(ttl_ms=TTL_MS)
        self.now = 0
        self.longest = 0.0
        self.populated = 0.0
        self.bytes_max = 0.0

    def timed(self, call: Callable[[memoryview, int], object], keys: NDArray[np.uint64], batch: int) -> float:
        """CPU seconds that ``call`` takes over ``keys``, batch by batch."""
        view = packed(keys)
        now, total, longest = self.now, 0.0, self.longest
        for at in range(0, len(view), 8 * batch):
            part = view[at : at + 8 * batch]
            began = thread_time()
            call(part, now)
            took = thread_time() - began
            total += took
            longest = max(longest, took)
        self.longest = longest
        return total

    def sweep(self) -> float:
        """CPU seconds of the maintenance that is due."""
        total, due = 0.0, 1
        while due:
            began = thread_time()
            due = self.table.maintain(self.now, SLICE_LINES)
            took = thread_time() - began
            self.longest = max(self.longest, took)
            total += took
        return total

    def rss(self) -> int:
        return int(self.process.memory_info().rss - self.rss_before)

    def populate(self) -> float:
        """CPU seconds of what a node's second thread does."""
        total = 0.0
        while self.table.populate_due:
            began = thread_time()
            self.table.populate()
            took = thread_time() - began
            self.populated = max(self.populated, took)
            total += took
        return total

    def insert(self) -> float:
        """Put every user in, growth included; users a second."""
        total = 0.0
        for start in range(0, self.users, CHUNK):
            stop = min(start + CHUNK, self.users)
            keys = keys_of(np.arange(start, stop, dtype=np.uint64))
            for at in range(0, len(keys), BATCH):
                total += self.populate() + self.timed(self.table.heartbeat, keys[at : at + BATCH], BATCH)
            if stop >= 10_000_000:
                self.bytes_max = max(self.bytes_max, self.rss() / stop)
            self.advance("insert", stop, self.users)
        return self.users / total

    def sample(self, phase: str, call: Callable[[memoryview, int], object], step_ms: int) -> float:
        """Users a second over random users who are present: the median chunk."""
        number = min(max(self.users, 2 * CHUNK), REFRESHED_MAX)
        rates = []
        for done in range(0, number, CHUNK):
            keys = keys_of(self.random.integers(0, self.users, CHUNK, dtype=np.uint64))
            self.now += step_ms
            rates.append(CHUNK / self.timed(call, keys, BATCH))
            self.advance(phase, done + CHUNK, number)
        return statistics.median(rates)

    def single(self) -> float:
        """Nanoseconds of a get of one user, the call from Python included."""
        keys = packed(keys_of(self.random.integers(0, self.users, 20_000, dtype=np.uint64)))
        parts, get, now = [keys[at : at + 8] for at in range(0, len(keys), 8)], self.table.get, self.now
        began = thread_time()
        for part in parts:
            get(part, now)
        return (thread_time() - began) / len(parts) * 1e9

    def share(self) -> float:
        """Part of a core that sweeping takes at the default ttl: a whole pass's time a ttl."""
        ticks, total = 20, 0.0
        self.sweep()
        for done in range(ticks):
            self.now += int(self.table.tick_ms)
            total += self.sweep()
            self.advance("sweep", done + 1, ticks)
        return total * 80 / ticks / (TTL_MS_DEFAULT / 1000)

    def wrong(self) -> int:
        """Wrong answers to present users and to as many who were never seen."""
        wrong, probes = 0, min(self.users, PROBES_MAX)
        for first, right in ((0, 0b01010101), (self.users, 0)):
            for start in range(0, probes, CHUNK):
                number = min(CHUNK, probes - start)
                keys = keys_of(np.arange(first + start, first + start + number, dtype=np.uint64))
                states = np.frombuffer(self.table.get(packed(keys), self.now), np.uint8)
                for shift in range(0, 8, 2):
                    part = states[: (number - shift // 2 + 3) // 4] >> shift & 3
                    wrong += int(np.count_nonzero(part != right & 3))
                self.advance("probe", start + number, probes)
        return wrong

    def crowd(self) -> float:
        """How many times the p99 of a batch rises in the tick in which a million users expire at once."""
        table = Table(ttl_ms=TTL_MS_DEFAULT)
        keys = keys_of(np.arange(min(self.users, CROWD), dtype=np.uint64))
        view = packed(keys)
        table.heartbeat(view, 0)

        def p99(now: int) -> float:
            times = []
            for at in range(0, len(view), 8 * BATCH):
                began = thread_time()
                table.get(view[at : at + 8 * BATCH], now)
                times.append(thread_time() - began)
                table.maintain(now, 256)
            return float(np.percentile(times, 99))

        before = statistics.median(p99(now) for now in range(0, 1_000, 250))
        return p99(TTL_MS_DEFAULT + int(table.tick_ms)) / before

    def expire(self) -> int:
        """Resident bytes of the process once everybody has expired and one sweep has passed."""
        ticks = 80
        for done in range(2 * ticks + 2):
            self.now += int(self.table.tick_ms) + 1
            self.sweep()
            self.advance("expire", done + 1, 2 * ticks + 2)
        return int(self.process.memory_info().rss)


def run(users: int, advance: Advance = lambda phase, done, total: None) -> TableFigures:
    """Measure a table of ``users`` users. MemoryError if it would not fit; ValueError for none."""
    if users < 1:
        raise ValueError(f"users must be at least 1, not {users}")
    require_memory(users)
    work = _Run(users, advance)
    insert = work.insert()
    rss, held = int(work.process.memory_info().rss), work.rss()
    refresh = work.sample("refresh", work.table.heartbeat, int(work.table.tick_ms) // 50)
    get = work.sample("get", work.table.get, 0)
    single = work.single()
    share = work.share()
    wrong = work.wrong() + abs(work.table.online - users)
    return TableFigures(
        users=users,
        bytes_per_user=held / users,
        bytes_per_user_max=max(work.bytes_max, held / users),
        rss_bytes=rss,
        insert_per_s=insert,
        refresh_per_s=refresh,
        get_per_s=get,
        single_get_ns=single,
        longest_call_ms=work.longest * 1e3,
        populate_ms=work.populated * 1e3,
        expiry_p99_ratio=work.crowd(),
        wrong_answers=wrong,
        sweep_core_share=share,
        rss_expired_bytes=work.expire(),
    )


def run_with_progress(users: int) -> TableFigures:
    """``run`` with a bar a phase on a terminal, silent elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks: dict[str, Any] = {}

        def advance(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = progress.add_task(phase, total=total)
            progress.update(tasks[phase], completed=done, total=total)

        return run(users, advance)


def lines_of(figures: TableFigures) -> list[str]:
    """The figures as lines for people."""
    return [
        f"users               {figures.users:>16,}",
        f"bytes a user        {figures.bytes_per_user:>16.2f}",
        f"  the most, 10 M on {figures.bytes_per_user_max:>16.2f}",
        f"resident            {figures.rss_bytes / 1e9:>16.3f} GB",
        f"insert              {figures.insert_per_s / 1e6:>16.1f} M users/s",
        f"refresh             {figures.refresh_per_s / 1e6:>16.1f} M users/s",
        f"get                 {figures.get_per_s / 1e6:>16.1f} M users/s",
        f"get of one user     {figures.single_get_ns:>16.0f} ns, the call from Python included",
        f"longest call        {figures.longest_call_ms:>16.2f} ms",
        f"populating 2 MiB    {figures.populate_ms:>16.2f} ms at most, by the system, beside the calls",
        f"get p99, mass expiry{figures.expiry_p99_ratio:>16.2f} x the p99 of the ticks before",
        f"resident, expired   {figures.rss_expired_bytes / 1e9:>16.3f} GB",
        f"wrong answers       {figures.wrong_answers:>16,}",
        f"sweep               {figures.sweep_core_share * 100:>16.2f} % of a core",
    ]


def main(arguments: list[str] | None = None) -> int:
    """``python -m pulsering_bench.table --users N [--json]``."""
    parser = argparse.ArgumentParser(prog="pulsering bench table", description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000, help="how many users (default: 1000000)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    try:
        figures = run_with_progress(options.users)
    except (MemoryError, ValueError) as error:
        print(f"pulsering bench table: {error}", file=sys.stderr)
        return 1
    print(json.dumps(asdict(figures)) if options.json else "\n".join(lines_of(figures)))
    return 1 if figures.wrong_answers else 0


if __name__ == "__main__":
    sys.exit(main())
