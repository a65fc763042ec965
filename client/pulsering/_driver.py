"""Runs calls: carries their frames to channels, their outcomes back, and wakes them in time.

One sweep every few milliseconds looks after all running calls, and there is no sweep while there are none: no
timer a call. Invariant: a call ends exactly once, by its result, its deadline, its caller's cancellation or
the client's end, and then nothing is left of it but tombstones in connections.
"""

import asyncio
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from pulsering import limits
from pulsering._calls import Call, Send
from pulsering._cluster import Cluster
from pulsering.errors import (
    ClientClosed,
    ClientOverloaded,
    NodeBusy,
    NodeUnavailable,
    PresenceError,
    Unauthorized,
)
from pulsering.wire import Op

__all__ = ["Driver", "Run"]

SWEEP_S: Final = limits.SWEEP_MS / 1000
LAG_S: Final = 2 * SWEEP_S
"""A sweep that comes this much late says that the loop was busy, not that nodes were silent."""


class Run:
    """One call under way."""

    refreshing = False
    error: PresenceError | None = None
    """Why it ended without its call being done."""
    began = 0.0
    """Seconds of ``time.perf_counter``, for telemetry: the loop's time may be cut to milliseconds."""

    def __init__(self, call: Call, deadline: float, sender_ms: int, on_end: "Callable[[Run], None]") -> None:
        self.call = call
        self.deadline = deadline
        self.sender_ms = sender_ms
        self.on_end = on_end
        self.requests: set[Send] = set()
        """Those without an outcome."""


class Driver:
    """All calls of one client."""

    def __init__(self, cluster: Cluster, loop: asyncio.AbstractEventLoop, pending_keys_max: int) -> None:
        self.cluster = cluster
        self.room = pending_keys_max
        """Keys that may be added to those pending."""
        self.calls = 0
        self.frames = 0
        self.timeouts = 0
        self.on_call_end: Callable[[Run], None] | None = None
        """Told of each call that ends, for telemetry."""
        self._loop = loop
        self._pending_keys_max = pending_keys_max
        self._runs: dict[Run, None] = {}  # in the order of their start, which a set would not keep
        self._sweep_at = 0.0
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def running(self) -> int:
        """Calls under way."""
        return len(self._runs)

    @property
    def pending_keys(self) -> int:
        """Keys that wait for answers."""
        return self._pending_keys_max - self.room

    def check_room(self, keys: int) -> None:
        """Refuse more keys than the client may hold."""
        if keys > self.room:
            raise ClientOverloaded(
                f"{self.pending_keys} keys wait for answers already, {keys} more would be above "
                f"pending_keys_max ({self._pending_keys_max}): make smaller batches, or wait for some"
            )

    async def complete(self, call: Call, timeout: float | None, sender_ms: int) -> None:
        """Run a call to its end; cancelling this ends it."""
        ended: asyncio.Future[None] = self._loop.create_future()

        def on_end(run: Run) -> None:
            if not ended.done():
                ended.set_result(None)

        self.check_room(call.key_count)
        run = self.start(call, timeout, sender_ms, on_end)
        try:
            await ended
        finally:
            self._end(run)
        if run.error is not None:
            raise run.error

    def start(self, call: Call, timeout: float | None, sender_ms: int, on_end: Callable[[Run], None]) -> Run:
        """Begin a call; ``on_end`` is told once, unless ``drop`` comes first."""
        now = self._loop.time()
        run = Run(call, math.inf if timeout is None else now + timeout, sender_ms, on_end)
        if self._closed:
            run.error = ClientClosed("the client was closed")
            on_end(run)
            return run
        self.calls += 1
        self.cluster.budget.earn()
        self._runs[run] = None
        self.room -= call.key_count
        if self.on_call_end is not None:
            run.began = time.perf_counter()
        if self._sweep is None:
            self._schedule_sweep()
        self._go_on(run, call.start(now))
        return run

    def close(self) -> None:
        """End all calls with ``ClientClosed``."""
        self._closed = True
        for run in list(self._runs):
            run.error = ClientClosed("the client was closed while the call was under way")
            self._end(run)
            run.on_end(run)
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    # --- Between a call and the channels -------------------------------------------------------------------

    def _go_on(self, run: Run, sends: list[Send]) -> None:
        """Send what the call wants sent, feed refusals back at once, and end it when it is done."""
        call = run.call
        while sends or (call.wants_topology and not run.refreshing):
            further: list[Send] = []
            for send in sends:
                error = self._send(run, send)
                if error is not None:
                    further += call.on_failure(send, error, self._loop.time())
            if call.wants_topology and not run.refreshing:
                further += self._go_to_topology(run)
            sends = further
        if call.late:
            for send in call.take_late():
                if send in run.requests:
                    send.channel.suspect(send)
        if call.done and run in self._runs:
            self._end(run)
            run.on_end(run)

    def _send(self, run: Run, send: Send) -> PresenceError | None:
        channel = self.cluster.channel(send.node)
        if channel is None:
            return NodeUnavailable(f"{send.node} is no longer part of the cluster", node=send.node)
        send.run = run
        send.channel = channel
        send.sender_ms = run.sender_ms
        send.on_outcome = self._on_outcome
        run.requests.add(send)
        error = channel.send(send)
        if error is not None:
            run.requests.discard(send)
        else:
            self.frames += 1
        return error

    def _on_outcome(self, send: Send, reply: Any, error: PresenceError | None) -> None:
        run, channel = send.run, send.channel
        run.requests.discard(send)
        cluster, now = self.cluster, self._loop.time()
        if error is None:
            channel.record_answer()
            if cluster.read_times is not None and send.op == Op.GET:
                cluster.read_times.record(now - send.sent_at)
            cluster.note_epoch(reply.epoch, channel.node)
            sends = run.call.on_reply(send, reply, now)
        else:
            if isinstance(error, Unauthorized) and error.op is not None:  # as every owner would say
                run.error = error
                self._end(run)
                run.on_end(run)
                return
            if isinstance(error, NodeBusy):
                channel.record_answer()
            sends = run.call.on_failure(send, error, now)
        self._go_on(run, sends)

    def _go_to_topology(self, run: Run) -> list[Send]:
        refresh = self.cluster.when_refreshed(run.deadline)
        if refresh is None:
            return run.call.on_topology(self._loop.time())
        run.refreshing = True
        refresh.add_done_callback(partial(self._on_refreshed, run))
        return []

    def _on_refreshed(self, run: Run, refresh: "asyncio.Task[None]") -> None:
        run.refreshing = False
        if run in self._runs and run.call.wants_topology:
            self._go_on(run, run.call.on_topology(self._loop.time()))

    def _end(self, run: Run) -> None:
        if run not in self._runs:
            return
        del self._runs[run]
        self.room += run.call.key_count
        for send in run.requests:
            send.abandon()
        run.requests.clear()
        if self.on_call_end is not None:
            self.on_call_end(run)

    # --- Time --------------------------------------------------------------------------------------------

    def _schedule_sweep(self) -> None:
        self._sweep_at = self._loop.time() + SWEEP_S
        self._sweep = self._loop.call_later(SWEEP_S, self._on_sweep)

    def _on_sweep(self) -> None:
        self._sweep = None
        now = self._loop.time()
        # After a busy spell the answers lie unread in the sockets: let them in before judging who was silent.
        if now - self._sweep_at <= LAG_S:
            for run in list(self._runs):
                if run in self._runs:
                    self._look_after(run, now)
        if self._runs:
            self._schedule_sweep()

    def _look_after(self, run: Run, now: float) -> None:
        call = run.call
        if now >= run.deadline:
            self.timeouts += 1
            call.expire(now)
            self._go_on(run, [])
        elif call.wake_at is not None and now >= call.wake_at:
            self._go_on(run, call.on_wake(now))
