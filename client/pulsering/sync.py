"""``pulsering.sync.PresenceClient``: the same client for code that blocks, safe to share among threads.

Nothing is written twice. Each client has one thread of its own that runs an event loop with one asyncio
client on it; a method here hands the call over to the method of the same name there and waits. So calls of
many threads that come together share frames, as calls of many tasks do. Invariants: a call that was handed
over ends with its result or an error, also when the client is closed meanwhile; nobody ever waits for the
thread it is on; the thread holds no reference to the client in the caller's hand, so dropping that ends it.
"""

import asyncio
import atexit
import contextlib
import functools
import os
import threading
import time
import types
import uuid
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, ParamSpec, TypeVar, overload

from pulsering import limits
from pulsering.client import PresenceClient as AsyncClient
from pulsering.errors import ClientClosed
from pulsering.reports import Change
from pulsering.topology import Topology
from pulsering.watch import Watch as AsyncWatch

if TYPE_CHECKING:
    from typing import Self, Unpack

    from typing_extensions import Buffer

    from pulsering.ids import UserId
    from pulsering.options import Options

__all__ = ["PresenceClient", "Watch"]

P = ParamSpec("P")
T = TypeVar("T")

TAKEN_AT_ONCE: Final = 256
"""Changes that a blocking watch takes with one trip to its client's thread."""

FRESH_S: Final = 0.05
"""How long they count as the latest; those that are older are looked up again."""

EXIT_S: Final = 3.0
"""How long the end of the process waits for one client to say goodbye."""

_PLAIN: Final = (int, str, bytes, bytearray, memoryview, uuid.UUID, float, list, tuple, range, set, frozenset)


class _Home:
    """The thread on which an asyncio client lives, from its opening to its end."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self.pid = os.getpid()
        self.opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="pulsering", daemon=True)
        self._lock = threading.RLock()  # a signal handler may come in between
        self._loop: asyncio.AbstractEventLoop | None = None
        self._life: asyncio.Task[None] | None = None
        self._end: asyncio.Event | None = None
        self._open = False
        self.ending = False
        _homes.add(self)

    @property
    def is_here(self) -> bool:
        """Whether the caller is on this very thread and must not wait for it."""
        return threading.get_ident() == self._thread.ident

    def start(self) -> None:
        """Begin; ``opened`` tells when the client is open, or why not."""
        self._thread.start()

    def submit(self, call: Callable[[], Coroutine[Any, Any, T]], answer: "Future[T]") -> None:
        """Run a coroutine here, its outcome in ``answer``; ``ClientClosed`` if nobody would.

        The caller makes ``answer``, so that it can cancel the coroutine whenever it is interrupted, even on
        the way back from here.
        """
        with self._lock:  # whoever gets in before the end is ended by it, not forgotten
            if not self._open or self._loop is None:
                raise ClientClosed("the client is closed")
            self._loop.call_soon_threadsafe(_start, self._loop, call, answer)

    def end(self) -> None:
        """Close the client and end the thread; does not wait for it."""
        with self._lock:
            self._open = False
            self.ending = True
            if self._loop is not None:
                with contextlib.suppress(RuntimeError):  # it has ended already
                    self._loop.call_soon_threadsafe(self._on_end)

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end, unless that would be waiting for oneself."""
        if not self.is_here and self._thread.ident is not None:
            self._thread.join(timeout)

    def _on_end(self) -> None:
        assert self._end is not None
        assert self._life is not None
        self._end.set()
        if not self.opened.done():
            self._life.cancel()

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        end = self._end = asyncio.Event()
        self._life = asyncio.current_task()
        try:
            with self._lock:
                if self.ending:
                    raise asyncio.CancelledError
                self._loop = asyncio.get_running_loop()
            await self.client.open()
        except asyncio.CancelledError:
            self.opened.set_exception(ClientClosed("the client was closed while it was being opened"))
            return
        except BaseException as error:
            self.opened.set_exception(error)
            return
        with self._lock:
            self._open = not self.ending
        self.opened.set_result(None)
        await end.wait()
        await self.client.aclose()
        while calls := asyncio.all_tasks() - {self._life}:
            await asyncio.wait(calls)


def _start(
    loop: asyncio.AbstractEventLoop, call: Callable[[], Coroutine[Any, Any, T]], answer: "Future[T]"
) -> None:
    if answer.cancelled():
        return

    async def run() -> T:
        return await call()  # a call that cannot even begin, for wrong arguments, fails as any other

    def pass_on(done: "asyncio.Task[T]") -> None:
        if done.cancelled():
            answer.cancel()
        if not answer.set_running_or_notify_cancel():
            return
        error = done.exception()
        if error is None:
            answer.set_result(done.result())
        else:
            answer.set_exception(error)

    def give_up(ended: "Future[T]") -> None:
        if ended.cancelled() and not task.done():
            loop.call_soon_threadsafe(task.cancel)

    task = loop.create_task(run())
    task.add_done_callback(pass_on)
    answer.add_done_callback(give_up)


_homes: "weakref.WeakSet[_Home]" = weakref.WeakSet()
_inherited: list[_Home] = []
"""Homes of the parent process. Their sockets and loop are its own: never closed here, so never collected."""


def _end_all() -> None:
    """Say goodbye to the nodes before the interpreter takes the threads away."""
    mine = [home for home in _homes if home.pid == os.getpid()]
    for home in mine:
        home.end()
    for home in mine:
        home.join(EXIT_S)


atexit.register(_end_all)


class _Blocking(Generic[P, T]):
    """A method of the asyncio client as a blocking one: same parameters, same result, same docstring."""

    def __init__(self, method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]) -> None:
        def call(client: "PresenceClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
            return client._wait_for(method, args, kwargs)

        self._function = functools.update_wrapper(call, method)

    @overload
    def __get__(
        self, client: None, owner: type["PresenceClient"]
    ) -> "Callable[Concatenate[PresenceClient, P], T]": ...
    @overload
    def __get__(self, client: "PresenceClient", owner: type["PresenceClient"]) -> Callable[P, T]: ...
    def __get__(self, client: "PresenceClient | None", owner: type["PresenceClient"]) -> Any:
        return self._function if client is None else types.MethodType(self._function, client)


class _Relayed(_Blocking[P, T]):
    """The same for a method that does not wait, but belongs to its loop."""

    def __init__(self, method: Callable[Concatenate[AsyncClient, P], T]) -> None:
        async def ask(client: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
            return method(client, *args, **kwargs)

        functools.update_wrapper(ask, method)
        super().__init__(ask)


class PresenceClient:
    """A blocking client of one cluster, for any number of threads.

    ::

        with PresenceClient.from_url("presence://h1:7400,h2:7400") as presence:
            presence.heartbeat(42)
            assert presence.is_online(42)

    Everything is as in ``pulsering.PresenceClient``: names, parameters, defaults, results and errors; only
    ``aclose`` is ``close`` here. Make one a process and share it. A process that was forked (gunicorn,
    Celery, multiprocessing) opens its own after the fork. One that is still open when the process ends is
    closed then.

    Raises, besides what its twin raises: ``ClientClosed`` from a call on the client's own thread, which would
    wait for itself.
    """

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._home: _Home | None = None
        self._closed = False
        self._lock = threading.RLock()

    @classmethod
    def from_url(cls, url: str, **options: "Unpack[Options]") -> "Self":
        """As ``pulsering.PresenceClient.from_url``."""
        return cls(AsyncClient.from_url(url, **options))

    # --- Life --------------------------------------------------------------------------------------------

    def __enter__(self) -> "Self":
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.close()

    def open(self) -> None:
        """Find the cluster and connect to its nodes; ``with`` does it. Raises as its twin does."""
        with self._lock:
            if self._home is not None or self._closed:
                raise ClientClosed("a client is opened once; make a new one")
            self._home = home = _Home(self._client)
        home.start()
        try:
            home.opened.result()
        except BaseException:  # KeyboardInterrupt too
            self._closed = True
            home.end()
            raise

    def close(self) -> None:
        """Close all connections and end the thread. Calls under way end with ``ClientClosed``.

        It may be called again, from any thread; on the client's own it does not wait for the end.
        """
        self._closed = True
        if self._home is None:
            return
        if self._home.pid != os.getpid():
            _inherited.append(self._home)
            return
        self._home.end()
        self._home.join()

    def __del__(self) -> None:
        home = getattr(self, "_home", None)
        if home is None or self._closed or home.ending:
            return
        if home.pid != os.getpid():
            _inherited.append(home)
            return
        warnings.warn(f"unclosed {self!r}; use with, or close()", ResourceWarning, stacklevel=2)
        home.end()

    def __repr__(self) -> str:
        return repr(self._client).replace("<PresenceClient", "<sync.PresenceClient")

    # --- Calls ---------------------------------------------------------------------------------------------

    heartbeat = _Blocking(AsyncClient.heartbeat)
    heartbeat_many = _Blocking(AsyncClient.heartbeat_many)
    leave = _Blocking(AsyncClient.leave)
    leave_many = _Blocking(AsyncClient.leave_many)
    is_online = _Blocking(AsyncClient.is_online)
    get_many = _Blocking(AsyncClient.get_many)
    count = _Blocking(AsyncClient.count)
    status = _Blocking(AsyncClient.status)

    def watch(self, ids: "Iterable[UserId] | Buffer" = (), *, buffer: int = limits.WATCH_BUFFER) -> "Watch":
        """As ``pulsering.PresenceClient.watch``; ``for change in presence.watch(ids)`` waits for each."""
        return Watch(self, self._wait_for(_watch, (ids,), {"buffer": buffer}))

    locate = _Relayed(AsyncClient.locate)
    stats = _Relayed(AsyncClient.stats)

    @property
    def topology(self) -> Topology:
        """The topology the client follows."""
        return self._wait_for(_topology, (), {})

    def _wait_for(
        self,
        method: Callable[..., Coroutine[Any, Any, T]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> T:
        home = self._home
        if home is None:
            raise ClientClosed(
                "the client is closed" if self._closed else "the client is not open yet: use with"
            )
        if home.pid != os.getpid():
            raise ClientClosed("the process was forked after the client was opened: open one in each process")
        if home.is_here:
            raise ClientClosed("called on the client's own thread, which would wait for itself")
        here = [_taken_here(arg) for arg in args]
        named = {name: _taken_here(arg) for name, arg in kwargs.items()}
        answer: Future[T] = Future()
        try:
            home.submit(lambda: method(self._client, *here, **named), answer)
            return answer.result()
        except CancelledError:
            raise ClientClosed("the client was closed while the call was under way") from None
        finally:
            answer.cancel()  # whoever was interrupted no longer waits


class Watch:
    """Changes of some users' status, first the state of each: ``for change in watch`` waits for the next.

    As ``pulsering.Watch``, only that ``aclose`` is ``close``. One thread reads it; any other may add ids,
    remove them, and close it, which ends the reading.
    """

    def __init__(self, client: PresenceClient, watch: AsyncWatch) -> None:
        self._client = client
        self._watch = watch
        self._taken: deque[Change] = deque()
        self._taken_until = 0.0

    def add(self, ids: "Iterable[UserId] | Buffer") -> None:
        """As ``pulsering.Watch.add``."""
        self._client._wait_for(_add, (self._watch, ids), {})

    def remove(self, ids: "Iterable[UserId] | Buffer") -> None:
        """As ``pulsering.Watch.remove``."""
        self._client._wait_for(_remove, (self._watch, ids), {})

    @property
    def watched(self) -> int:
        """How many users are watched."""
        return self._watch.watched

    def __iter__(self) -> "Self":
        return self

    def __next__(self) -> Change:
        taken = self._taken
        if not taken or time.monotonic() > self._taken_until:
            unread = tuple(taken)
            taken.clear()
            taken += self._client._wait_for(_take_some, (self._watch, unread), {})
            self._taken_until = time.monotonic() + FRESH_S
            if not taken:
                raise StopIteration
        return taken.popleft()

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Watch nobody any more. It may be called again, from any thread."""
        with contextlib.suppress(ClientClosed):  # it has ended with its client
            self._client._wait_for(_close, (self._watch,), {})
        self._taken.clear()


async def _watch(client: AsyncClient, ids: "Iterable[UserId] | Buffer", *, buffer: int) -> AsyncWatch:
    return client.watch(ids, buffer=buffer)


async def _add(client: AsyncClient, watch: AsyncWatch, ids: "Iterable[UserId] | Buffer") -> None:
    watch.add(ids)


async def _remove(client: AsyncClient, watch: AsyncWatch, ids: "Iterable[UserId] | Buffer") -> None:
    watch.remove(ids)


async def _take_some(client: AsyncClient, watch: AsyncWatch, unread: tuple[Change, ...]) -> list[Change]:
    return await watch.take_some(TAKEN_AT_ONCE, unread)


async def _close(client: AsyncClient, watch: AsyncWatch) -> None:
    await watch.aclose()


async def _topology(client: AsyncClient) -> Topology:
    return client.topology


def _taken_here(value: Any) -> Any:
    """Run through a generator or query on the caller's thread, where its connection and locals belong."""
    if value is None or isinstance(value, _PLAIN) or not isinstance(value, Iterable):
        return value
    try:
        memoryview(value)  # type: ignore[arg-type]
    except TypeError:
        return tuple(value)
    return value
