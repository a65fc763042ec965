"""A wave of users who all go offline: when readers learn it, when the count does, and what it costs.

A fresh server gets a wave of users at once and nothing more. Each batch was written between two moments that
are known, so from the first plus ttl on its users *may* be offline, and from the second plus ttl on they
*must* be. Reads before the one and after the other are judged, those in between are not asked for. The count
(what an operator shows as "users online") is asked ten times a second until it is zero. Invariant: a
verdict on a read never depends on how fast this process was.
"""

from dataclasses import dataclass
from time import perf_counter, sleep
from typing import Final, NamedTuple

import numpy as np

from pulsering_bench.drive import Drive
from pulsering_bench.peers import Ids, Peer
from pulsering_bench.usage import bytes_of, cpu_of

__all__ = ["Expiry", "run_wave"]

BATCH: Final = 1000
BATCHES_AT_ONCE: Final = 5
"""Written between two looks at the clock: the finer, the more reads can be judged."""

PROBE: Final = 100
PROBES_AT_ONCE: Final = 8
STEP_S: Final = 0.05
SLACK_S: Final = 0.2
"""A probe of users who must still be online is sent this long before they may go."""

TICKS_PER_TTL: Final = 80


@dataclass(frozen=True)
class Expiry:
    """What one wave did; seconds after (before) the moment at which it should have happened."""

    users: int
    ttl_s: int
    reads: int
    late_reads: int
    """Online beyond ttl and one tick."""
    late_s: float
    early_reads: int
    """Offline before the ttl was over: a false offline."""
    early_s: float
    count_lag_s: float | None
    """From the last user's deadline to a count of zero; None: never within ``watched_s``, or no count."""
    counts: bool
    watched_s: float
    server_cpu_s_per_million: float
    bytes_per_user_left: float


class _Chunk(NamedTuple):
    ids: Ids
    may_go: float
    must_go: float


def run_wave(peer: Peer, ids: Ids, patience_s: float) -> Expiry:
    """Start ``peer``, send it the wave, watch it until the count is zero or patience ends, stop it."""
    peer.start()
    try:
        empty = bytes_of(peer.pids())
        while (warm_in := peer.warm_in_s()) > 0:
            sleep(min(warm_in + 0.01, 1.0))
        with Drive(peer, 1) as drive:
            chunks = _write(peer, drive, ids)
            return _Watcher(peer, drive, chunks, empty).watch(len(ids), patience_s)
    finally:
        peer.stop()


def _write(peer: Peer, drive: Drive, ids: Ids) -> list[_Chunk]:
    ttl_s = peer.scale.ttl_s
    chunks = []
    for start in range(0, len(ids), BATCH * BATCHES_AT_ONCE):
        part = ids[start : start + BATCH * BATCHES_AT_ONCE]
        requests = [peer.refresh(part[at : at + BATCH]) for at in range(0, len(part), BATCH)]
        began = perf_counter()
        done = drive.run_all(requests, BATCHES_AT_ONCE)
        if done.wrong:
            raise RuntimeError(f"{peer.title} did not take {done.wrong} heartbeats")
        chunks.append(_Chunk(part, began + ttl_s, perf_counter() + ttl_s))
    return chunks


class _Watcher:
    def __init__(self, peer: Peer, drive: Drive, chunks: list[_Chunk], empty_bytes: int) -> None:
        self._peer = peer
        self._drive = drive
        self._chunks = chunks
        self._empty_bytes = empty_bytes
        self._tick_s = peer.scale.ttl_s / TICKS_PER_TTL
        self._random = np.random.default_rng(7)
        self._reads = self._late = self._early = 0
        self._late_s = self._early_s = 0.0

    def watch(self, users: int, patience_s: float) -> Expiry:
        peer = self._peer
        last = max(chunk.must_go for chunk in self._chunks)
        counts, lag = True, None
        before = cpu_of(peer.pids())
        while (now := perf_counter()) < last + patience_s:
            self._probe(now)
            if counts and lag is None:
                asked = perf_counter()
                online = peer.count()
                counts = online is not None
                if online == 0 and asked >= last - peer.scale.ttl_s:
                    lag = max(0.0, asked - last)
            if now > last + 20 * self._tick_s and (lag is not None or not counts):
                break
            sleep(STEP_S)
        cpu = cpu_of(peer.pids()).ran_s - before.ran_s
        left = max(0, bytes_of(peer.pids()) - self._empty_bytes)
        return Expiry(
            users,
            peer.scale.ttl_s,
            self._reads,
            self._late,
            self._late_s,
            self._early,
            self._early_s,
            lag,
            counts,
            perf_counter() - last,
            1e6 * cpu / users,
            left / users,
        )

    def _probe(self, now: float) -> None:
        """Ask for users of the batches that went last, and of those that go next."""
        gone = [chunk for chunk in self._chunks if chunk.must_go + self._tick_s < now]
        here = [chunk for chunk in self._chunks if chunk.may_go > now + SLACK_S]
        for chunk in [*gone[-PROBES_AT_ONCE:], *gone[:1]]:
            began, wrong = self._ask(chunk, online=False)
            if wrong:
                self._late += wrong
                self._late_s = max(self._late_s, began - chunk.must_go)
        for chunk in [*here[:PROBES_AT_ONCE], *here[-1:]]:
            _, wrong = self._ask(chunk, online=True)
            ended = perf_counter()
            if wrong and ended < chunk.may_go:
                self._early += wrong
                self._early_s = max(self._early_s, chunk.may_go - ended)

    def _ask(self, chunk: _Chunk, *, online: bool) -> tuple[float, int]:
        ids = self._random.choice(chunk.ids, min(PROBE, len(chunk.ids)), replace=False)
        request = self._peer.get(ids, np.full(len(ids), online))
        began = perf_counter()
        done = self._drive.run_all([request], 1)
        self._reads += len(ids)
        return began, done.wrong
