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
from typing import Generic, TypeAlias, TypeVar

from pulsering._calls import Call
from pulsering._driver import Driver, Run
from pulsering._read_call import ReadCall
from pulsering._write_call import WriteCall
from pulsering.errors import PresenceError
from pulsering.ids import UserId, seeds_of
from pulsering.kernel import hash_id
from pulsering.options import ClientOptions
from pulsering.wire import Op

__all__ = ["Batcher", "Verdict", "read_batcher", "write_batcher"]

C = TypeVar("C", bound=Call)
T = TypeVar("T")
Verdict: TypeAlias = tuple[int, int, float | None]
"""``Status``, ``Reason``, and the seconds until more will be known."""


class Batcher(Generic[C, T]):
    """Collects the keys of user ids for one kind of call.

    ``make`` makes the call for packed keys; ``answers`` gives what each key gets of the finished call, in
    order: a result, or the error to raise. Both are told in the same way; whoever waited raises.
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
        self._seeds = seeds_of(driver.cluster.topology.hash_seed)
        self._loop = loop
        self._timeout = timeout
        self._linger = linger
        self._make = make
        self._answers = answers
        self._new_waiter: Callable[[], asyncio.Future[T | PresenceError]] = loop.create_future
        self._waiters: dict[int, asyncio.Future[T | PresenceError]] = {}
        self._twins: dict[int, list[asyncio.Future[T | PresenceError]]] = {}
        self._sender_ms = 0
        self._since = 0.0

    def join(self, user_id: UserId) -> "asyncio.Future[T | PresenceError]":
        """A future of the answer for a user, or of the error to raise."""
        key = hash_id(user_id, self._seeds)
        waiters = self._waiters
        waiter = self._new_waiter()
        if waiters.setdefault(key, waiter) is not waiter:
            self._twins.setdefault(key, []).append(waiter)
            return waiter
        keys = len(waiters)
        if keys > self._driver.room:
            del waiters[key]
            self._driver.check_room(keys)
        if keys == 1:
            self._open()
        return waiter

    def _open(self) -> None:
        self._sender_ms = self._driver.cluster.now_ms()
        self._since = self._loop.time()
        if self._linger:
            self._loop.call_later(self._linger, self._leave)
        else:
            self._loop.call_soon(self._leave)

    def _leave(self) -> None:
        waiters, self._waiters = self._waiters, {}
        twins, self._twins = self._twins, {}
        if True in map(asyncio.Future.done, waiters.values()):
            _drop_forsaken(waiters, twins)
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
            if run.error is not None:
                answers: Iterable[T | PresenceError] = repeat(run.error)
            else:
                answers = self._answers(call)
            if not twins:
                _tell(waiters.values(), answers)
                return
            for (key, waiter), answer in zip(waiters.items(), answers, strict=False):
                _tell((waiter, *twins.get(key, ())), repeat(answer))

        self._driver.start(call, timeout, self._sender_ms, on_end)


def _drop_forsaken(
    waiters: "dict[int, asyncio.Future[T]]", twins: "dict[int, list[asyncio.Future[T]]]"
) -> None:
    """Take out the keys that nobody waits for any more."""
    for key in [key for key, waiter in waiters.items() if waiter.done()]:
        if all(twin.done() for twin in twins.get(key, ())):
            del waiters[key]


def _tell(waiters: "Iterable[asyncio.Future[T]]", answers: "Iterable[T]") -> None:
    """Give each waiter its answer, unless it was cancelled."""
    for waiter, answer in zip(waiters, answers, strict=False):
        if not waiter.done():
            waiter.set_result(answer)


def write_batcher(
    driver: Driver, loop: asyncio.AbstractEventLoop, options: ClientOptions, op: Op, grace_ms: int
) -> "Batcher[WriteCall, None]":
    """Collects heartbeats, or leaves with one grace."""

    def answers(call: WriteCall) -> Iterable[PresenceError | None]:
        if 0 not in call.acks:
            return repeat(None)
        now = loop.time()
        return (None if copies else call.failure(now) for copies in call.acks)

    return Batcher(
        driver,
        loop,
        options.timeout,
        options.linger,
        lambda keys: WriteCall(driver.cluster, keys, op, grace_ms=grace_ms),
        answers,
    )


def read_batcher(
    driver: Driver, loop: asyncio.AbstractEventLoop, options: ClientOptions, *, strict: bool
) -> "Batcher[ReadCall, Verdict]":
    """Collects reads."""

    def verdicts(call: ReadCall) -> "Iterable[Verdict | PresenceError]":
        outage = call.outage(loop.time())
        if outage is not None:
            return repeat(outage)
        retry_after = call.retry_after() if call.waits else repeat(None, call.key_count)
        return zip(call.statuses, call.reasons, retry_after, strict=True)

    return Batcher(
        driver,
        loop,
        options.timeout,
        options.linger,
        lambda keys: ReadCall(driver.cluster, keys, strict=strict),
        verdicts,
    )
