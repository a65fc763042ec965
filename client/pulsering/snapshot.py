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

    __slots__ = ("__dict__", "_ages", "_retry_after", "_tick_s", "ids", "reasons_packed", "statuses")

    def __init__(
        self,
        ids: "Sequence[UserId]",
        statuses: bytes,
        reasons_packed: bytes,
        ages: bytes | bytearray | None = None,
        tick_s: float = 0.0,
        retry_after: Callable[[], Sequence[float | None]] | None = None,
    ) -> None:
        assert len(ids) == len(statuses) == len(reasons_packed)
        self.ids = ids
        self.statuses = statuses
        self.reasons_packed = reasons_packed
        self._ages = ages
        self._tick_s = tick_s
        self._retry_after = retry_after

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
