"""Turns single-id calls of one loop turn into one batch.

Whoever joins before the batch leaves shares its frames; the same key twice is one place in it. A batch that
has left takes nobody in: a caller must never get an answer that is older than its question. Invariant: every
waiter gets the answer for its own key, an error, or was cancelled; a key nobody waits for any more is not
sent.
"""

import asyncio
import sys
from array import array
from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Generic, TypeVar

from pulsering._calls import Call
from pulsering._driver import Driver, Run
from pulsering.errors import PresenceError

__all__ = ["Batcher"]

C = TypeVar("C", bound=Call)
T = TypeVar("T")


class Batcher(Generic[C, T]):
    """Collects keys for one kind of call.

    ``make`` makes the call for packed keys; ``answers`` gives what each key gets of the finished call, in
    order: a result, or the error to raise.
    """

    def __init__(
        self,
        driver: Driver,
        loop: asyncio.AbstractEventLoop,
        timeout: float | None,
        linger: float,
        make: Callable[[bytes], C],
        answers: Callable[[C], "Iterable[T | PresenceError]"],
    ) -> None:
        self._driver = driver
        self._loop = loop
        self._timeout = timeout
        self._linger = linger
        self._make = make
        self._answers = answers
        self._waiters: dict[int, asyncio.Future[T]] = {}
        self._twins: dict[int, list[asyncio.Future[T]]] = {}
        self._sender_ms = 0
        self._since = 0.0

    def join(self, key: int) -> "asyncio.Future[T]":
        """A future of the answer for ``key``."""
        waiters = self._waiters
        if key in waiters:
            twin: asyncio.Future[T] = self._loop.create_future()
            self._twins.setdefault(key, []).append(twin)
            return twin
        self._driver.check_room(len(waiters) + 1)
        if not waiters:
            self._sender_ms = self._driver.cluster.now_ms()
            self._since = self._loop.time()
            if self._linger:
                self._loop.call_later(self._linger, self._leave)
            else:
                self._loop.call_soon(self._leave)
        waiter = waiters[key] = self._loop.create_future()
        return waiter

    def _leave(self) -> None:
        waiters, self._waiters = self._waiters, {}
        twins, self._twins = self._twins, {}
        for key in [key for key, waiter in waiters.items() if waiter.done()]:
            if all(twin.done() for twin in twins.get(key, ())):
                del waiters[key]
        if not waiters:
            return
        keys = array("Q", waiters)
        if sys.byteorder == "big":
            keys.byteswap()
        timeout = self._timeout
        if timeout is not None and self._linger:
            timeout = max(0.0, timeout - (self._loop.time() - self._since))
        call = self._make(keys.tobytes())

        def on_end(run: Run) -> None:
            answers = repeat(run.error) if run.error is not None else self._answers(call)
            for (key, waiter), answer in zip(waiters.items(), answers, strict=False):
                _tell(waiter, answer)
                if key in twins:
                    for twin in twins[key]:
                        _tell(twin, answer)

        self._driver.start(call, timeout, self._sender_ms, on_end)


def _tell(waiter: "asyncio.Future[T]", answer: "T | PresenceError") -> None:
    if waiter.done():
        return
    if isinstance(answer, PresenceError):
        waiter.set_exception(answer)
    else:
        waiter.set_result(answer)
