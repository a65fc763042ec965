"""The generator: sends requests that were made ahead over raw sockets and checks every reply.

One thread, a few connections, epoll. *Closed loop*: each connection has a fixed number of requests under way
and sends the next when one is answered; it says how much a server can do, and its latencies say nothing.
*Open loop*: requests are due at times fixed beforehand, and latency counts from then, so a server that
stands still for a second is charged with everything that should have been asked in that second. The
generator watches itself: how much of the time it had work, and how late it sent what was due. To be on time
it looks for what is due again and again, which is waiting and not work; and its garbage collector rests
meanwhile, as a pause of ours would be booked on the server. Invariant: no reply is counted unread, and no
figure comes without both sides' shares.
"""

import contextlib
import gc
import select
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from socket import SO_RCVBUF, SO_SNDBUF, SOL_SOCKET, socket
from time import perf_counter
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pulsering_bench.quotients import per
from pulsering_bench.usage import BUSY_SHARE, Share, Watch

__all__ = [
    "CONNECTIONS",
    "WINDOW",
    "Arrival",
    "Closed",
    "Drive",
    "Open",
    "Speaker",
    "limit_of",
    "percentiles_ms",
]

CONNECTIONS: Final = 4
WINDOW: Final = 8
"""Requests under way on each connection: enough that the server never waits for us."""

SOCKET_BYTES: Final = 4 << 20
READ_BYTES: Final = 1 << 18
PATIENCE_S: Final = 60.0
DISTURBED_SHARE: Final = 0.8
"""Of the time by the clock, below which a server that always had work was kept from its core."""

SPIN_S: Final = 0.0015
"""Before something is due, epoll with its millisecond steps is not asked to wait any more."""


class Answer(Protocol):
    """Where a reply ended, how many of its answers are wrong, whether it is a refusal instead."""

    @property
    def end(self) -> int: ...
    @property
    def wrong(self) -> int: ...
    @property
    def refused(self) -> bool: ...


class Speaker(Protocol):
    """What the generator needs of a peer."""

    def connect(self) -> socket: ...  # noqa: D102
    def pids(self) -> list[int]: ...  # noqa: D102
    def stamp(self, request: Any) -> None: ...  # noqa: D102
    def check(self, request: Any, data: bytes, at: int) -> Answer | None: ...  # noqa: D102


@dataclass(frozen=True)
class Closed:
    """One closed loop: users, wrong answers, seconds by the clock, what each side did.

    ``refused`` are requests that an overloaded server refused; they count neither as users nor as calls.
    """

    users: int
    wrong: int
    wall_s: float
    server: Share
    generator: Share
    calls: int = 0
    refused: int = 0

    @property
    def limit(self) -> str:
        """Which side had work all the time: ``server``, ``generator``, or ``neither``."""
        return limit_of(self.server, self.generator)

    @property
    def disturbed(self) -> bool:
        """Whether others had a good part of the server's core, and so of its caches, while it had work."""
        return self.server.busy >= BUSY_SHARE and self.server.cpu_s < DISTURBED_SHARE * self.wall_s

    @property
    def per_server_s(self) -> float | None:
        """Users a second of the server's own CPU; None if nobody was served."""
        return per(self.users, self.server.cpu_s) if self.users else None


@dataclass(frozen=True)
class Open:
    """One open loop: seconds from due to answered by kind of request, and how late the generator was.

    The generator is busy while it sends and reads, not while it waits for the next to be due.
    """

    latencies_s: dict[str, NDArray[np.float64]]
    lag_s: NDArray[np.float64]
    users: int
    wrong: int
    refused: int
    unanswered: int
    wall_s: float
    server: Share
    generator: Share

    def percentile_ms(self, kind: str, percent: float) -> float | None:
        """Milliseconds within which so many percent of this kind were answered; None if all were refused."""
        return percentiles_ms(self.latencies_s[kind], percent)[0]

    @property
    def server_starved(self) -> float:
        """The share of the time in which the server had work, but others its core."""
        return self.server.busy - self.server.cpu_s / self.wall_s

    @property
    def lag_ms(self) -> float:
        """How late the generator itself was, at its 99th percentile."""
        return float(np.percentile(self.lag_s, 99)) * 1000 if len(self.lag_s) else 0.0


class Arrival(NamedTuple):
    """A request and when it is due, in seconds from the start."""

    due_s: float
    kind: str
    request: Any


def percentiles_ms(seconds: NDArray[np.float64], *percents: float) -> list[float | None]:
    """Percentiles of these latencies in milliseconds, each None where there are no latencies."""
    if not len(seconds):
        return [None] * len(percents)
    return [float(value) * 1000 for value in np.percentile(seconds, percents)]


def limit_of(server: Share, generator: Share) -> str:
    """Which side had work all the time; the server first, as it is the one that is measured."""
    if server.busy >= BUSY_SHARE:
        return "server"
    return "generator" if generator.busy >= BUSY_SHARE else "neither"


@dataclass
class _Line:
    """One connection: what was sent and is not answered, and bytes on their way in either direction."""

    sock: socket
    pending: deque[tuple[Any, str, float]] = field(default_factory=deque)
    unread: bytes = b""
    unsent: deque[memoryview] = field(default_factory=deque)
    blocked: bool = False


class Drive:
    """The connections to one server; closed with it."""

    def __init__(self, speaker: Speaker, connections: int = CONNECTIONS) -> None:
        self._speaker = speaker
        self._epoll = select.epoll()
        self._lines: dict[int, _Line] = {}
        for _ in range(connections):
            sock = speaker.connect()
            for option in (SO_SNDBUF, SO_RCVBUF):
                sock.setsockopt(SOL_SOCKET, option, SOCKET_BYTES)
            sock.setblocking(False)
            self._lines[sock.fileno()] = _Line(sock)
            self._epoll.register(sock.fileno(), select.EPOLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._epoll.close()
        for line in self._lines.values():
            line.sock.close()

    def run_all(self, requests: Iterable[Any], window: int = WINDOW) -> Closed:
        """Closed loop: each request once, and again if it was refused."""
        waiting: deque[Any] = deque()
        source = iter(requests)

        def either() -> Iterator[Any]:
            while waiting:
                yield waiting.popleft()
            for request in source:  # noqa: UP028 - ``yield from`` would close it when this one is dropped
                yield request

        return self._closed(either, window, waiting.append)

    def run_for(self, pool: Sequence[Any], seconds: float, window: int = WINDOW) -> Closed:
        """Closed loop: the pool over and over for about so long. A request is never under way twice."""
        assert len(pool) > window * len(self._lines)
        until = perf_counter() + seconds
        endless = cycle(pool)

        def source() -> Iterator[Any]:
            return endless if perf_counter() < until else iter(())

        return self._closed(source, window, _forget)

    def _closed(
        self, source: Callable[[], Iterator[Any]], window: int, on_refused: Callable[[Any], None]
    ) -> Closed:
        """``source`` is asked for a new iterator each time, as one that once ended stays at its end."""
        with _no_pauses():
            return self._closed_loop(source, window, on_refused)

    def _closed_loop(
        self, source: Callable[[], Iterator[Any]], window: int, on_refused: Callable[[Any], None]
    ) -> Closed:
        users = wrong = calls = refused = 0
        lines = list(self._lines.values())
        watch = Watch(self._speaker.pids())
        for line in lines:
            self._send(line, [(request, "", 0.0) for request in islice(source(), window)])
        open_lines = {line.sock.fileno() for line in lines if line.pending}
        while open_lines:
            for number, event in self._poll(PATIENCE_S, must=True):
                line = self._lines[number]
                if event & select.EPOLLOUT:
                    self._flush(line)
                if not event & ~select.EPOLLOUT:
                    continue
                answered = 0
                for request, _, answer in self._receive(line):
                    answered += 1
                    if answer.refused:
                        refused += 1
                        on_refused(request)
                        continue
                    users += request.users
                    wrong += int(answer.wrong)
                    calls += 1
                if answered:
                    self._send(line, [(request, "", 0.0) for request in islice(source(), answered)])
                    if not line.pending:
                        open_lines.discard(number)
        wall, server, generator = watch.stop()
        return Closed(users, wrong, wall, server, generator, calls, refused)

    def run_open(self, arrivals: Sequence[Arrival], patience_s: float = 10.0) -> Open:
        """Open loop: each request when it is due, on the lines in turn, whatever is unanswered."""
        with _no_pauses():
            return self._open_loop(arrivals, patience_s)

    def _open_loop(self, arrivals: Sequence[Arrival], patience_s: float) -> Open:
        latencies: dict[str, list[float]] = {arrival.kind: [] for arrival in arrivals}
        lag = np.zeros(len(arrivals))
        users = wrong = refused = sent = 0
        waited_s = 0.0
        lines = list(self._lines.values())
        watch = Watch(self._speaker.pids())
        began = perf_counter()
        last = began + (arrivals[-1].due_s if arrivals else 0.0)
        while True:
            turn = now = perf_counter()
            was_sent = sent
            while sent < len(arrivals) and (due := began + arrivals[sent].due_s) <= now:
                arrival = arrivals[sent]
                lag[sent] = now - due
                self._send(lines[sent % len(lines)], [(arrival.request, arrival.kind, due)])
                sent += 1
                now = perf_counter()
            if sent == len(arrivals) and (now > last + patience_s or not any(line.pending for line in lines)):
                break
            ahead = began + arrivals[sent].due_s - now if sent < len(arrivals) else 0.05
            asked = perf_counter()
            events = self._poll(ahead - SPIN_S if ahead > SPIN_S else 0.0)
            idle = not events and sent == was_sent
            waited_s += perf_counter() - (turn if idle else asked)
            for number, event in events:
                line = self._lines[number]
                if event & select.EPOLLOUT:
                    self._flush(line)
                if event & ~select.EPOLLOUT:
                    for request, (kind, due), answer in self._receive(line):
                        if answer.refused:
                            refused += 1
                            continue
                        latencies[kind].append(perf_counter() - due)
                        users += request.users
                        wrong += int(answer.wrong)
        wall, server, used = watch.stop()
        generator = Share(used.cpu_s, max(0.0, 1 - waited_s / wall))
        ended = perf_counter()
        unanswered = 0
        for line in lines:
            for _, kind, due in line.pending:  # charged with what they waited so far
                latencies[kind].append(ended - due)
                unanswered += 1
        arrays = {kind: np.array(values) for kind, values in latencies.items()}
        return Open(arrays, lag, users, wrong, refused, unanswered, wall, server, generator)

    def _poll(self, timeout_s: float, *, must: bool = False) -> list[tuple[int, int]]:
        events = self._epoll.poll(timeout_s)
        if must and not events:
            raise TimeoutError(f"no answer for {timeout_s:.0f} s")
        return events

    def _send(self, line: _Line, batch: list[tuple[Any, str, float]]) -> None:
        stamp = self._speaker.stamp
        for request, kind, due in batch:
            stamp(request)
            line.pending.append((request, kind, due))
            line.unsent.append(memoryview(request.data))
        if batch:
            self._flush(line)

    def _flush(self, line: _Line) -> None:
        unsent = line.unsent
        while unsent:
            try:
                sent = line.sock.sendmsg(list(islice(unsent, 64)))
            except BlockingIOError:
                break
            while unsent and sent >= len(unsent[0]):
                sent -= len(unsent.popleft())
            if sent:
                unsent[0] = unsent[0][sent:]
        if bool(unsent) != line.blocked:
            line.blocked = not line.blocked
            wanted = select.EPOLLIN | select.EPOLLOUT if line.blocked else select.EPOLLIN
            self._epoll.modify(line.sock.fileno(), wanted)

    def _receive(self, line: _Line) -> list[tuple[Any, tuple[str, float], Answer]]:
        """Read what is there; the requests that are answered now, each with its answer."""
        try:
            chunk = line.sock.recv(READ_BYTES)
        except BlockingIOError:
            return []
        if not chunk:
            raise ConnectionError(f"the server hung up with {len(line.pending)} requests unanswered")
        data = line.unread + chunk if line.unread else chunk
        at = 0
        answered = []
        check = self._speaker.check
        while line.pending and at < len(data):
            request, kind, due = line.pending[0]
            checked = check(request, data, at)
            if checked is None:
                break
            line.pending.popleft()
            answered.append((request, (kind, due), checked))
            at = checked.end
        line.unread = data[at:]
        return answered


@contextlib.contextmanager
def _no_pauses() -> Iterator[None]:
    """No garbage is looked for; what these loops drop has no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _forget(_request: Any) -> None:
    """What was refused in a loop over time is not done."""
