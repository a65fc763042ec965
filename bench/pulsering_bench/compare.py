"""``pulsering bench compare``: the same work on every presence store, in one run, alternating.

All servers run at once on one core, the generator on another. Rounds go through the peers in turn, each
starting with another one, so that a slow minute of the machine falls on all of them. Users are 64-bit ids,
a seed fixes which. Every answer is checked while it is measured (``drive``); how the peers are set up
stands in ``peers``. Invariant: what one peer is asked, every peer is asked: the same ids, the same batches,
the same rates.
"""

import contextlib
import functools
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from pulsering_bench.drive import CONNECTIONS, WINDOW, Arrival, Closed, Drive, Open, percentiles_ms
from pulsering_bench.expiry import run_wave
from pulsering_bench.figures import measure_of, ratios_of
from pulsering_bench.machine import machine_facts
from pulsering_bench.peers import (
    Call,
    Client,
    Ids,
    Mask,
    Memcached,
    PackedRedis,
    Peer,
    PostgreSQL,
    PulseringNode,
    Redis,
    Request,
    Scale,
    TtlDictionary,
    Valkey,
)
from pulsering_bench.quotients import median_of, per
from pulsering_bench.table import keys_of
from pulsering_bench.usage import Watch, bytes_of, cores, pin, settled_bytes_of

__all__ = ["PEERS", "Work", "compare"]

PEERS: Final[tuple[type[Peer], ...]] = (
    PulseringNode,
    Valkey,
    Redis,
    PackedRedis,
    Memcached,
    PostgreSQL,
    TtlDictionary,
)
HOLD_S: Final = 7200
"""The ttl of stores in which it comes with the user: nobody expires while rates are measured."""

ABSENT: Final = 1 << 40
"""Users from this number on were never online."""

CLIENT_POOL: Final = 20
USERS_UNDER_WAY: Final = 2000
"""On one connection at least, so that a server has something to do while we read its replies."""

MEASURES: Final = ("refresh", "refresh_small", "get_hits", "get_half")
FORMAT: Final = 1

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Work:
    """How much of everything; the same for all peers."""

    users: int = 5_000_000
    ttl_s: int = 20
    batch: int = 1000
    small_batch: int = 32
    """What is left of a batch for one node of many; also says what a frame costs beside its users."""

    seconds: float = 1.5
    repeats: int = 3
    pool_batches: int = 2000
    client_batch: int = 8192
    client_seconds: float = 1.0
    page: int = 100
    pages_per_s: int = 500
    beats_per_s: int = 200
    open_seconds: float = 4.0
    wave_users: int = 1_000_000
    wave_ttl_s: int = 10
    wave_patience_s: float = 15.0
    seed: int = 1
    await_warm: bool = True
    """Whether to wait until a fresh node may say offline; else it says unknown, which is not wrong."""


def compare(work: Work, tell: Tell = lambda _: None, peers: Sequence[type[Peer]] = PEERS) -> dict[str, Any]:
    """Run everything; the results as JSON has them."""
    facts = machine_facts()
    server_core, own_core = cores()
    skipped: dict[str, Any] = {}
    chosen: list[Peer] = []
    for kind in peers:
        absent = kind.missing()
        if absent is None:
            chosen.append(kind(Scale(work.users, work.ttl_s, HOLD_S, server_core)))
            continue
        skipped[kind.name] = {"title": kind.title, "missing": absent, "install": kind.install}
        tell(f"skipped: {kind.title}: {absent} is not installed ({kind.install})")
    release = pin(own_core)
    try:
        results = _Comparison(work, chosen, tell).run()
    finally:
        release()
    results = {
        "format": FORMAT,
        "machine": facts,
        "cores": {"server": server_core, "generator": own_core},
        "work": asdict(work),
        "peers": results,
        "skipped": skipped,
        "wrong_answers": sum(peer["wrong_answers"] for peer in results.values()),
    }
    return results | ratios_of(results["peers"])


class _Comparison:
    def __init__(self, work: Work, peers: list[Peer], tell: Tell) -> None:
        self.work = work
        self.peers = peers
        self.tell = tell
        self.random = np.random.default_rng(work.seed)
        self.ids = keys_of(np.arange(work.users, dtype=np.uint64))
        self.loaded_at: dict[str, float] = {}
        self.runs: dict[str, dict[str, dict[str, list[Closed]]]] = {}
        self.opens: dict[str, list[Open]] = {}
        self.facts: dict[str, dict[str, Any]] = {}

    def run(self) -> dict[str, Any]:
        with contextlib.ExitStack() as stack:
            for peer in self.peers:
                self.tell(f"{peer.title}: loading {self.work.users:,} users")
                stack.callback(peer.stop)
                self._load_first(peer)
            if self.work.await_warm:
                self._await_warm()
            gc.collect()
            gc.freeze()
            for turn in range(self.work.repeats):
                self.tell(f"round {turn + 1} of {self.work.repeats}")
                for measure in MEASURES:
                    self._each(turn, measure, functools.partial(self._closed, measure=measure))
                self._each(turn, "clients", self._clients)
                self._each(turn, "open", self._open)
            gc.unfreeze()
        for peer in self.peers:
            self._expire(peer)
        return {peer.name: self._figures(peer) for peer in self.peers}

    # --- Users ----------------------------------------------------------------------------------------------

    def _load_first(self, peer: Peer) -> None:
        peer.start()
        self.facts[peer.name] = {"version": peer.version()}
        self.runs[peer.name] = {"raw": {}, "client": {}}
        self.opens[peer.name] = []
        empty = bytes_of(peer.pids())
        with Drive(peer) as drive:
            self._note(peer, "raw", "load", self._load(peer, drive))
            loaded = settled_bytes_of(peer.pids())  # while those are connected that touched shared memory
        self.facts[peer.name] |= {
            "bytes_empty": empty,
            "bytes_loaded": loaded,
            "bytes_per_user": (loaded - empty) / self.work.users,
            "bytes_per_user_of_all": loaded / self.work.users,
        }

    def _load(self, peer: Peer, drive: Drive) -> Closed:
        batch = self.work.batch
        requests = (peer.refresh(self.ids[at : at + batch]) for at in range(0, len(self.ids), batch))
        self.loaded_at[peer.name] = time.monotonic()
        return drive.run_all(requests)

    def _renew(self, peer: Peer) -> None:
        """Refresh everybody, where the ttl is the store's own and a good part of it is over."""
        if not peer.keeps_hold and time.monotonic() - self.loaded_at[peer.name] > self.work.ttl_s / 4:
            with Drive(peer) as drive:
                self._load(peer, drive)

    def _await_warm(self) -> None:
        while (warm_in := max((peer.warm_in_s() for peer in self.peers), default=0.0)) > 0:
            time.sleep(min(warm_in + 0.01, 1.0))

    def _each(self, turn: int, what: str, do: Callable[[Peer], None]) -> None:
        """Ask every peer for the same, starting with another one each round."""
        first = turn % len(self.peers)
        for peer in self.peers[first:] + self.peers[:first]:
            self.random = np.random.default_rng([self.work.seed, turn, *what.encode()])
            do(peer)

    def _choose(self, count: int, size: int) -> Iterator[Ids]:
        """``count`` batches of present users, nobody twice while there are enough."""
        size = min(size, len(self.ids) // 2)
        order = self.random.permutation(len(self.ids))
        per_round = len(order) // size
        for index in range(count):
            at = index % per_round * size
            yield self.ids[order[at : at + size]]

    def _half(self, present: Ids) -> tuple[Ids, Mask]:
        """Every second of them replaced by somebody who was never online."""
        online = np.arange(len(present)) % 2 == 0
        absent = keys_of(self.random.integers(ABSENT, 1 << 60, len(present), dtype=np.uint64))
        return np.where(online, present, absent), online

    # --- Rates ----------------------------------------------------------------------------------------------

    def _closed(self, peer: Peer, measure: str) -> None:
        size = self.work.small_batch if measure == "refresh_small" else self.work.batch
        pool = [self._request(peer, measure, ids) for ids in self._choose(self.work.pool_batches, size)]
        self._renew(peer)
        with Drive(peer) as drive:
            window = min(max(WINDOW, USERS_UNDER_WAY // size), (len(pool) - 1) // CONNECTIONS)
            self._note(peer, "raw", measure, drive.run_for(pool, self.work.seconds, window))

    def _request(self, peer: Peer, measure: str, present: Ids) -> Request:
        if measure in ("refresh", "refresh_small"):
            return peer.refresh(present)
        if measure == "get_hits":
            return peer.get(present, np.ones(len(present), bool))
        return peer.get(*self._half(present))

    def _clients(self, peer: Peer) -> None:
        """One caller, batch after batch, through the Python client."""
        size = self.work.client_batch
        client = peer.client()
        try:
            refreshes = [Call(client.prepare(ids)) for ids in self._choose(CLIENT_POOL, size)]
            gets = [
                Call(client.prepare(ids), online.tobytes())
                for ids, online in map(self._half, self._choose(CLIENT_POOL, size))
            ]
            self._renew(peer)
            for measure, calls in (("refresh", refreshes), ("get_half", gets)):
                self._note(peer, "client", measure, self._calls(peer, client, calls))
        finally:
            client.close()

    def _calls(self, peer: Peer, client: Client, calls: Sequence[Call]) -> Closed:
        client.run(calls[:1])
        made = users = 0

        def over_and_over() -> Iterator[Call]:
            nonlocal made, users
            while time.perf_counter() < until:
                call = calls[made % len(calls)]
                made += 1
                users += len(call.ids)
                yield call

        watch = Watch(peer.pids())
        until = time.perf_counter() + self.work.client_seconds
        wrong = client.run(over_and_over())
        wall, server, caller = watch.stop()
        return Closed(users, wrong, wall, server, caller, made)

    def _note(self, peer: Peer, section: str, measure: str, run: Closed) -> None:
        self.runs[peer.name][section].setdefault(measure, []).append(run)

    # --- Latency --------------------------------------------------------------------------------------------

    def _open(self, peer: Peer) -> None:
        """Pages and heartbeats at one fixed rate, the same for all, each timed from when it was due."""
        work = self.work
        arrivals = []
        for kind, rate in (("get", work.pages_per_s), ("refresh", work.beats_per_s)):
            count = max(1, int(rate * work.open_seconds))
            offset = 0.5 / rate if kind == "refresh" else 0.0
            for index, present in enumerate(self._choose(count, work.page)):
                measure = "get_half" if kind == "get" else "refresh"
                arrivals.append(Arrival(index / rate + offset, kind, self._request(peer, measure, present)))
        arrivals.sort(key=lambda arrival: arrival.due_s)
        self._renew(peer)
        with Drive(peer) as drive:
            self.opens[peer.name].append(drive.run_open(arrivals))

    # --- Expiry ---------------------------------------------------------------------------------------------

    def _expire(self, peer: Peer) -> None:
        work = self.work
        self.tell(f"{peer.title}: a wave of {work.wave_users:,} users goes offline")
        scale = Scale(work.wave_users, work.wave_ttl_s, work.wave_ttl_s, peer.scale.core)
        ids = keys_of(np.arange(work.wave_users, dtype=np.uint64))
        self.facts[peer.name]["expiry"] = asdict(run_wave(type(peer)(scale), ids, work.wave_patience_s))

    # --- Results --------------------------------------------------------------------------------------------

    def _figures(self, peer: Peer) -> dict[str, Any]:
        runs = self.runs[peer.name]
        sections: dict[str, dict[str, Any]] = {
            section: {measure: measure_of(found) for measure, found in runs[section].items()}
            for section in ("raw", "client")
        }
        latency = latency_of(self.opens[peer.name])
        wrong = latency["wrong_answers"] + sum(
            measure["wrong_answers"] for section in sections.values() for measure in section.values()
        )
        return (
            {
                "title": peer.title,
                "design": peer.design,
                "client_title": peer.client_title,
                "one_key_per_user": peer.one_key_per_user,
                "has_library": peer.has_library,
                "ttl_s": HOLD_S if peer.keeps_hold else self.work.ttl_s,
            }
            | self.facts[peer.name]
            | sections
            | {"latency": latency, "wrong_answers": wrong, "unknown_answers": peer.unknown}
        )


def latency_of(runs: Sequence[Open]) -> dict[str, Any]:
    """Several open loops: percentiles of all their samples, medians of the rest."""
    found: dict[str, Any] = {}
    for kind in runs[0].latencies_s:
        samples = np.concatenate([run.latencies_s[kind] for run in runs])
        names = ("p50_ms", "p99_ms", "p999_ms", "max_ms")
        figures = percentiles_ms(samples, 50, 99, 99.9, 100)
        found[kind] = dict(zip(names, figures, strict=True)) | {"samples": len(samples)}
    return found | {
        "generator_lag_p99_ms": statistics.median(run.lag_ms for run in runs),
        "generator_busy": statistics.median(run.generator.busy for run in runs),
        "server_busy": statistics.median(run.server.busy for run in runs),
        "server_cpu_s_per_million": median_of(per(run.server.cpu_s, run.users, 1e6) for run in runs),
        "unanswered": sum(run.unanswered for run in runs),
        "refused": sum(run.refused for run in runs),
        "wrong_answers": sum(run.wrong for run in runs),
    }
