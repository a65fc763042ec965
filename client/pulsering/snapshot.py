"""The answer to a batch read: a byte a user, in the order they were asked for.

A snapshot keeps the ids as they came, a status and a reason byte each, and nothing else; views by status are
made when first looked at. Invariant: entry i answers id i, duplicates included, and the snapshot does not
change when the caller changes the list it was made from.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import compress
from typing import TYPE_CHECKING, Any, overload

from pulsering._last_seen import SEEN_NONE, packed_seconds
from pulsering.ids import UserId
from pulsering.status import Reason, Status

if TYPE_CHECKING:
    import numpy

__all__ = ["Snapshot"]

_STATUSES = tuple(Status)
_REASONS = tuple(Reason)
_IS = {status: bytes(value == status for value in range(256)) for status in Status}
AGE_NONE = 255


class Snapshot(Sequence[Status]):
    """Statuses of users at one moment: a sequence of ``Status`` as long as the ids, in their order.

    ``len(snapshot.statuses)`` bytes hold the statuses, ``snapshot.reasons_packed`` the reasons;
    ``numpy.asarray(snapshot)`` is a read-only ``uint8`` view without a copy.
    """

    __slots__ = ("__dict__", "_ages", "_retry_after", "_seen", "_tick_s", "ids", "reasons_packed", "statuses")

    def __init__(
        self,
        ids: "Sequence[UserId]",
        statuses: bytes,
        reasons_packed: bytes,
        ages: bytes | bytearray | None = None,
        tick_s: float = 0.0,
        retry_after: Callable[[], Sequence[float | None]] | None = None,
        seen: tuple[bytes | bytearray, bytes | bytearray] | None = None,
    ) -> None:
        assert len(ids) == len(statuses) == len(reasons_packed)
        self.ids = ids
        self.statuses = statuses
        self.reasons_packed = reasons_packed
        self._ages = ages
        self._tick_s = tick_s
        self._retry_after = retry_after
        self._seen = seen

    def __len__(self) -> int:
        return len(self.statuses)

    @overload
    def __getitem__(self, index: int) -> Status: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Status, ...]: ...
    def __getitem__(self, index: int | slice) -> Status | tuple[Status, ...]:
        if isinstance(index, slice):
            return tuple(_STATUSES[value] for value in self.statuses[index])
        return _STATUSES[self.statuses[index]]

    def __iter__(self) -> Iterator[Status]:
        return map(_STATUSES.__getitem__, self.statuses)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Snapshot):
            return NotImplemented
        return (
            self.statuses == other.statuses
            and self.reasons_packed == other.reasons_packed
            and list(self.ids) == list(other.ids)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        counts = self.counts
        return (
            f"<Snapshot of {len(self)}: {counts[Status.ONLINE]} online, "
            f"{counts[Status.OFFLINE]} offline, {counts[Status.UNKNOWN]} unknown>"
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> "numpy.ndarray[Any, Any]":
        import numpy

        view = numpy.frombuffer(self.statuses, dtype=numpy.uint8)
        if dtype is not None and numpy.dtype(dtype) != view.dtype:
            return view.astype(dtype)
        return view.copy() if copy else view

    @cached_property
    def online(self) -> tuple[UserId, ...]:
        """The ids that are online, in order, duplicates included."""
        return self._with(Status.ONLINE)

    @cached_property
    def offline(self) -> tuple[UserId, ...]:
        """The ids that are offline."""
        return self._with(Status.OFFLINE)

    @cached_property
    def unknown(self) -> tuple[UserId, ...]:
        """The ids the cluster could not speak about; ``reasons`` says why."""
        return self._with(Status.UNKNOWN)

    @property
    def counts(self) -> dict[Status, int]:
        """How many entries have each status."""
        return {status: self.statuses.count(status) for status in Status}

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why each entry is unknown; ``Reason.NONE`` beside the definite answers."""
        return tuple(map(_REASONS.__getitem__, self.reasons_packed))

    @property
    def unknown_reasons(self) -> dict[Reason, int]:
        """How many entries are unknown for each reason that occurs."""
        return {_REASONS[value]: count for value, count in Counter(self.reasons_packed).items() if value}

    @cached_property
    def retry_after(self) -> tuple[float | None, ...]:
        """Seconds, from the answer on, until an owner will know: it is warm then, or less busy.

        None beside definite answers, and where no node said when.
        """
        return tuple(self._retry_after()) if self._retry_after is not None else (None,) * len(self)

    @property
    def ages(self) -> tuple[float | None, ...]:
        """Seconds since each user's last heartbeat, in whole ticks (ttl/80); None where not online.

        Only there if it was asked for: ``get_many(ids, ages=True)``; ``ValueError`` otherwise.
        """
        if self._ages is None:
            raise ValueError("ages were not asked for: get_many(ids, ages=True)")
        tick_s = self._tick_s
        return tuple(None if age == AGE_NONE else age * tick_s for age in self._ages)

    @cached_property
    def last_seen(self) -> tuple[float | None, ...]:
        """Seconds since the last heartbeat of each user who is offline; None where it is not remembered.

        Whole seconds, coarser the longer ago, and never less than it was (docs/last-seen.md). None too beside
        users who are online, whose ``ages`` say it, and beside the unknown. Only there if it was asked for:
        ``get_many(ids, last_seen=True)``; ``ValueError`` otherwise.
        """
        seen, _ = self._asked()
        return tuple(
            float(seconds) if status == Status.OFFLINE and seconds != SEEN_NONE else None
            for status, seconds in zip(self.statuses, packed_seconds(seen), strict=True)
        )

    @cached_property
    def listened(self) -> tuple[float | None, ...]:
        """For how many seconds the cluster has heard every heartbeat of each user who is offline.

        Whoever has no ``last_seen`` was not seen for so long, at least. A ``last_seen`` beyond it is when a
        heartbeat was heard; whether there was a later one is not known. 0 where nothing is remembered, None
        beside users who are not offline. There if ``last_seen`` is.
        """
        _, unheard = self._asked()
        return tuple(
            float(SEEN_NONE - seconds) if status == Status.OFFLINE else None
            for status, seconds in zip(self.statuses, packed_seconds(unheard), strict=True)
        )

    def _asked(self) -> tuple[bytes | bytearray, bytes | bytearray]:
        if self._seen is None:
            raise ValueError("last_seen was not asked for: get_many(ids, last_seen=True)")
        return self._seen

    def _with(self, status: Status) -> tuple[UserId, ...]:
        return tuple(compress(self.ids, self.statuses.translate(_IS[status])))


def kept_ids(ids: Any) -> "Sequence[UserId]":
    """The caller's ids as a sequence that nobody else changes: a tuple, or ``array('Q')`` of a buffer."""
    if isinstance(ids, tuple):
        return ids
    if isinstance(ids, (list, str, bytes, bytearray)):
        return tuple(ids)
    try:
        view = memoryview(ids)
    except TypeError:
        return tuple(ids)
    return array("Q", view.tobytes()) if view.itemsize == 8 else tuple(ids)
