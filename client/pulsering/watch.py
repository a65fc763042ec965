"""``Watch``: an iterator of changes, as ``PresenceClient.watch`` gives it.

The caller's end of a watch: ids in, changes out. What is watched and what is known is in ``_watch_core``, so
there is nothing here but waiting. Invariant: a watch that is closed, fails, or is dropped, whatever its task
was doing, watches nobody any more.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from pulsering.errors import ClientClosed
from pulsering.ids import UserId, key_of, keys_of
from pulsering.reports import Change
from pulsering.snapshot import kept_ids

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import Buffer

    from pulsering._watch_hub import WatchHub
    from pulsering._watch_reader import Reader

__all__ = ["Watch"]

Ids: TypeAlias = "Iterable[UserId] | Buffer"

TURN_CHANGES: Final = 256
"""Changes read without a pause before the loop has its turn: a quarter of a millisecond."""


class Watch:
    """Changes of some users' status, first the state of each: ``async for change in watch``.

    Made by ``PresenceClient.watch``. One task reads it; ids may be added and removed meanwhile. It ends when
    it is closed, by ``aclose`` or ``async with``, and when nobody holds it any more. If it cannot go on it
    raises: ``WatchOverflow`` if it was read too slowly, ``ClientClosed``, ``Unauthorized``, or ``NotServed``
    if a node is too old.
    """

    def __init__(
        self,
        hub: "WatchHub",
        hash_seed: int,
        check: Callable[[], asyncio.AbstractEventLoop],
        limit: int,
    ) -> None:
        self._hub = hub
        self._hash_seed = hash_seed
        self._check = check
        self._loop = check()
        self._closed = False
        self._taken = 0
        self._reader: Reader = hub.open(limit)

    def add(self, ids: Ids) -> None:
        """Watch these too; what is watched already stays as it is. The state of each new one comes first."""
        self._check_open()
        if hasattr(ids, "__next__"):
            ids = tuple(cast("Iterable[UserId]", ids))
        self._hub.add(self._reader, keys_of(ids, self._hash_seed), kept_ids(ids))

    def remove(self, ids: Ids) -> None:
        """Watch these no more; nothing is told of them from now on."""
        self._check_open()
        self._hub.remove(self._reader, keys_of(ids, self._hash_seed))

    @property
    def watched(self) -> int:
        """How many users are watched."""
        return len(self._reader.ids)

    @property
    def waiting(self) -> int:
        """Users whose state has not been read."""
        return self._reader.waiting

    def __aiter__(self) -> "Self":
        return self

    async def __anext__(self) -> Change:
        change = await self._take()
        if change is None:
            raise StopAsyncIteration
        return change

    async def _take(self) -> Change | None:
        """The next change, None at the end."""
        self._check()
        reader = self._reader
        self._taken += 1
        if not self._taken % TURN_CHANGES:
            await asyncio.sleep(0)
        while True:
            if reader.error is not None:
                raise reader.error.with_traceback(None)
            if self._closed:
                return None
            change = reader.take()
            if change is not None:
                return change
            if reader.on_ready is not None:
                raise RuntimeError("another task reads this watch already")
            ready: asyncio.Future[None] = self._loop.create_future()
            reader.on_ready = partial(_set, ready)
            try:
                await ready
            finally:
                reader.on_ready = None

    async def take_some(self, limit: int, unread: Sequence[Change]) -> list[Change]:
        """Up to ``limit`` changes that are there, at least one, none at the end; for blocking code.

        ``unread`` were taken before and are too old to be handed on: what holds now is told instead.
        """
        reader = self._reader
        for change in unread:
            key = key_of(change.id, self._hash_seed)
            if key in reader.ids:
                reader.note(key)
        next_one = await self._take()
        changes = []
        while next_one is not None:
            changes.append(next_one)
            next_one = reader.take() if len(changes) < limit else None
        return changes

    # --- Its end -------------------------------------------------------------------------------------------

    async def __aenter__(self) -> "Self":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Watch nobody any more; a task that reads it comes to its end. It may be called again."""
        self._closed = True
        self._hub.discard(self._reader)
        self._reader.wake()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            with contextlib.suppress(RuntimeError):  # the loop is closed, and everything with it
                self._loop.call_soon_threadsafe(self._hub.discard, self._reader)

    def _check_open(self) -> None:
        self._check()
        if self._reader.error is not None:
            raise self._reader.error.with_traceback(None)
        if self._closed:
            raise ClientClosed("the watch is closed; make a new one")


def _set(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)
