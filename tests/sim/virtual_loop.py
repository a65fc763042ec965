"""An asyncio event loop that never waits: its time is its machine's virtual clock, its sockets a ``Network``.

It does what the standard loop does, in the same order: first what was made ready before, then what the
sockets have, then timers that are due. Tasks are numbered and hash by their number, because asyncio keeps
them in sets, whose order would else depend on addresses. Invariant: callbacks run only inside
``take_turn``, and what one raises becomes a problem of the world, which fails the history.
"""

import asyncio
import heapq
import socket
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from sim.world import Process

__all__ = ["VirtualLoop"]

WINDING_ROUNDS: Final = 20


class NumberedTask(asyncio.Task[Any]):
    """A task with a hash that is the same in every run."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], **options: Any) -> None:
        self._number = number
        super().__init__(coro, **options)
        self._log_destroy_pending = False

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class VirtualLoop:
    """The loop of one process."""

    def __init__(self, process: "Process") -> None:
        self.tasks: dict[asyncio.Task[Any], None] = {}
        """Unfinished tasks, in the order of their making."""
        self._process = process
        self._clock = process.machine.clock
        self.ready: deque[asyncio.Handle] = deque()
        """Callbacks for the next turn."""
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._sequence = 0
        self._turning = False
        self._self = cast("asyncio.AbstractEventLoop", self)
        """All of one that is ever asked for; the rest of that class is about what does not exist here."""

    # -- turns -----------------------------------------------------------------------------------------------

    def next_timer_s(self) -> float | None:
        """When the next timer is due, in this loop's time."""
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        return timers[0][0] if timers else None

    def take_turn(self, sockets: "deque[Callable[[], None]]") -> None:
        """One iteration: what is ready now; what that makes ready waits for the next."""
        due: list[asyncio.Handle] = []
        timers = self._timers
        if timers:
            now = self.time()
            while timers and timers[0][0] <= now:
                due.append(heapq.heappop(timers)[2])
        events._set_running_loop(self._self)
        self._turning = True
        try:
            self._run_ready(sockets, due)
        finally:
            self._turning = False
            events._set_running_loop(None)

    def _run_ready(self, sockets: "deque[Callable[[], None]]", due: list[asyncio.Handle]) -> None:
        ready = self.ready
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()
        for _ in range(len(sockets)):
            if sockets:  # else the process ended itself meanwhile
                self._read(sockets.popleft())
        for handle in due:
            if not handle._cancelled:
                handle._run()

    def _read(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception as error:
            self.call_exception_handler({"message": "reading a socket", "exception": error})

    def inside(self, question: Callable[[], Any]) -> Any:
        """What a function returns that wants to be called in this loop."""
        events._set_running_loop(self._self)
        self._turning = True
        try:
            return question()
        finally:
            self._turning = False
            events._set_running_loop(None)

    def wind_up(self) -> None:
        """Let all tasks end as if cancelled, after the process has ended: nothing they do reaches anybody."""
        self._timers.clear()
        for _ in range(WINDING_ROUNDS):
            for task in list(self.tasks):
                task.cancel()
            for _ in range(WINDING_ROUNDS):
                if self.ready:
                    self.take_turn(deque())
            if not self.tasks:
                break
        self.ready.clear()
        self._timers.clear()

    # -- what asyncio asks of a loop -------------------------------------------------------------------------

    def time(self) -> float:
        return self._clock.timer_s()

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._turning

    def is_closed(self) -> bool:
        return False

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = events.Handle(callback, args, self._self, context)
        self.ready.append(handle)
        if not self._turning:
            self._process.poke()
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = events.TimerHandle(when, callback, args, self._self, context)
        self._sequence += 1
        heapq.heappush(self._timers, (when, self._sequence, handle))
        if not self._turning:
            self._process.wake(self._process.machine.clock.true_us(when))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Nothing: the handle is thrown away when its time comes."""

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self._self)

    def create_task(
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> "asyncio.Task[Any]":
        self._sequence += 1
        task = NumberedTask(self._sequence, coro, loop=self._self, name=name or "task", context=context)
        self.tasks[task] = None
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self.tasks.pop(task, None)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self._process.alive:
            error = context.get("exception")
            self._process.world.problems.append(f"{self._process.name}: {context.get('message')}: {error!r}")

    def set_exception_handler(self, handler: object) -> None:
        """Nothing: problems are the world's."""

    # -- sockets ---------------------------------------------------------------------------------------------

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]

    async def create_connection(self, factory: Callable[[], Any], host: Any, port: Any, **_: Any) -> Any:
        return await self._process.world.network.connect(self._process, factory, host, port)

    async def create_server(self, factory: Callable[[], Any], *, sock: Any, **_: Any) -> Any:
        return self._process.world.network.listen(self._process, factory, sock.getsockname())
