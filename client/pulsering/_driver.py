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
from typing import TYPE_CHECKING, Any, Final

from pulsering import limits
from pulsering._calls import Call, Send
from pulsering._cluster import Cluster
from pulsering._connection import Outcome, Request
from pulsering.errors import (
    ClientClosed,
    ClientOverloaded,
    NodeBusy,
    NodeUnavailable,
    PresenceError,
    Unauthorized,
)
from pulsering.wire import Op

if TYPE_CHECKING:
    from pulsering._channel import Channel

__all__ = ["CallRequest", "Driver", "Run"]

SWEEP_S: Final = limits.SWEEP_MS / 1000
LAG_S: Final = 2 * SWEEP_S
"""A sweep that comes this much late says that the loop was busy, not that nodes were silent."""


class Run:
    """One call under way."""

    __slots__ = ("began", "call", "deadline", "error", "on_end", "refreshing", "requests", "sender_ms")

    def __init__(self, call: Call, deadline: float, sender_ms: int, on_end: "Callable[[Run], None]") -> None:
        self.call = call
        self.deadline = deadline
        self.sender_ms = sender_ms
        self.on_end = on_end
        self.requests: dict[int, CallRequest] = {}
        """By token, those without an outcome."""
        self.refreshing = False
        self.error: PresenceError | None = None
        """Why it ended without its call being done."""
        self.began = 0.0
        """Seconds of ``time.perf_counter``, for telemetry: the loop's time may be cut to milliseconds."""


class CallRequest(Request):
    """One frame of a run."""

    __slots__ = ("channel", "run", "token")

    def __init__(self, run: Run, send: Send, channel: "Channel", on_outcome: Outcome) -> None:
        super().__init__(
            send.op, send.body, run.sender_ms, on_outcome, count=send.keys, want_ages=send.want_ages
        )
        self.run = run
        self.token = send.token
        self.channel = channel
        send.body = b""


class Driver:
    """All calls of one client."""

    def __init__(self, cluster: Cluster, loop: asyncio.AbstractEventLoop, pending_keys_max: int) -> None:
        self.cluster = cluster
        self.pending_keys = 0
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

    def check_room(self, keys: int) -> None:
        """Refuse more keys than the client may hold."""
        if keys > self.room:
            raise ClientOverloaded(
                f"{self.pending_keys} keys wait for answers already, {keys} more would be above "
                f"pending_keys_max ({self._pending_keys_max}): make smaller batches, or wait for some"
            )

    def _hold(self, keys: int) -> None:
        self.pending_keys += keys
        self.room -= keys

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
        self._hold(call.key_count)
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
        while True:
            further: list[Send] = []
            for send in sends:
                error = self._send(run, send)
                if error is not None:
                    further += call.on_failure(send.token, error, self._loop.time())
            if call.wants_topology and not run.refreshing:
                further += self._go_to_topology(run)
            if not further:
                break
            sends = further
        if call.late:
            for token in call.take_late():
                if token in run.requests:
                    request = run.requests[token]
                    request.channel.suspect(request)
        if call.done and run in self._runs:
            self._end(run)
            run.on_end(run)

    def _send(self, run: Run, send: Send) -> PresenceError | None:
        channel = self.cluster.channel(send.node)
        if channel is None:
            return NodeUnavailable(f"{send.node} is no longer part of the cluster", node=send.node)
        request = run.requests[send.token] = CallRequest(run, send, channel, self._on_outcome)
        error = channel.send(request)
        if error is not None:
            del run.requests[send.token]
        else:
            self.frames += 1
        return error

    def _on_outcome(self, request: CallRequest, reply: Any, error: PresenceError | None) -> None:
        run, channel = request.run, request.channel
        del run.requests[request.token]
        now = self._loop.time()
        if error is None:
            channel.record_answer()
            if self.cluster.read_times is not None and request.op == Op.GET:
                self.cluster.read_times.record(now - request.sent_at)
            self.cluster.note_epoch(reply.epoch, channel.node)
            sends = run.call.on_reply(request.token, reply, now)
        else:
            if isinstance(error, Unauthorized) and error.op is not None:  # as every owner would say
                run.error = error
                self._end(run)
                run.on_end(run)
                return
            if isinstance(error, NodeBusy):
                channel.record_answer()
            sends = run.call.on_failure(request.token, error, now)
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
        self._hold(-run.call.key_count)
        for request in run.requests.values():
            request.abandon()
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
