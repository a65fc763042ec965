"""Turns single-id calls of one loop turn into one batch.

Whoever joins before the batch leaves shares its frames; the same key twice is one place in it. A batch that
has left takes nobody in: a caller must never get an answer that is older than its question. Invariant: every
waiter gets the answer for its own key, an error, or was cancelled; a key nobody waits for any more is not
sent.
"""

import asyncio
import sys
from array import array
from collections.abc import Callable
from typing import Generic, TypeVar

from pulsering._calls import Call
from pulsering._connection import now_ms
from pulsering._driver import Driver, Run
from pulsering.errors import PresenceError

__all__ = ["Batcher"]

C = TypeVar("C", bound=Call)
T = TypeVar("T")


class Batcher(Generic[C, T]):
    """Collects keys for one kind of call.

    ``make`` makes the call for packed keys; ``answer`` gives what key ``index`` gets of the finished call, or
    raises it.
    """

    def __init__(
        self,
        driver: Driver,
        loop: asyncio.AbstractEventLoop,
        timeout: float | None,
        linger: float,
        make: Callable[[bytes], C],
        answer: Callable[[C, int], T],
    ) -> None:
        self._driver = driver
        self._loop = loop
        self._timeout = timeout
        self._linger = linger
        self._make = make
        self._answer = answer
        self._places: dict[int, list[asyncio.Future[T]]] = {}
        self._sender_ms = 0
        self._since = 0.0

    def join(self, key: int) -> "asyncio.Future[T]":
        """A future of the answer for ``key``."""
        waiter: asyncio.Future[T] = self._loop.create_future()
        places = self._places
        if key in places:
            places[key].append(waiter)
            return waiter
        self._driver.check_room(len(places) + 1)
        if not places:
            self._sender_ms = now_ms()
            self._since = self._loop.time()
            if self._linger:
                self._loop.call_later(self._linger, self._leave)
            else:
                self._loop.call_soon(self._leave)
        places[key] = [waiter]
        return waiter

    def _leave(self) -> None:
        places, self._places = self._places, {}
        wanted = {
            key: waiters for key, waiters in places.items() if not all(waiter.done() for waiter in waiters)
        }
        if not wanted:
            return
        keys = array("Q", wanted)
        if sys.byteorder == "big":
            keys.byteswap()
        timeout = self._timeout
        if timeout is not None and self._linger:
            timeout = max(0.0, timeout - (self._loop.time() - self._since))
        groups = list(wanted.values())
        call = self._make(keys.tobytes())

        def on_end(run: Run) -> None:
            self._tell(run, call, groups)

        self._driver.start(call, timeout, self._sender_ms, on_end)

    def _tell(self, run: Run, call: C, groups: "list[list[asyncio.Future[T]]]") -> None:
        for index, waiters in enumerate(groups):
            for waiter in waiters:
                if waiter.done():
                    continue
                if run.error is not None:
                    waiter.set_exception(run.error)
                    continue
                try:
                    waiter.set_result(self._answer(call, index))
                except PresenceError as error:
                    waiter.set_exception(error)
