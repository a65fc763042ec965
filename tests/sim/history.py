"""What happened, as a list of records in the order of true time: calls as they begin and end, and phases.

A call begins with what was asked and ends with what was answered; one that never ended has no end. A phase
says what is promised from then on, as it depends on the faults of that time. Watches have records of their
own: each change they tell of, and what is shown now and then. The same records come from a
simulated history and from real processes, whose times are those of one monotonic clock; ``dump`` and ``load``
keep them as JSON, one record a line. Invariant: records are in the order of their time.
"""

import json
from collections.abc import Iterable, Iterator
from typing import IO, Final, NamedTuple

__all__ = ["Begin", "End", "Phase", "Record", "Shown", "Told", "dump", "load"]

BEAT: Final = "beat"
LEAVE: Final = "leave"
READ: Final = "read"
COUNT: Final = "count"


class Begin(NamedTuple):
    """A call begins: heartbeats and leaves are said now."""

    at_us: int
    call: int
    kind: str
    users: tuple[int, ...] = ()
    grace_us: int = 0


class End(NamedTuple):
    """A call ends. ``copies`` is how many owners surely took *every* key of a write.

    ``statuses`` has the ``Status`` of each user read; ``total`` is an exact count, or None.
    """

    at_us: int
    call: int
    copies: int = 0
    statuses: bytes | None = None
    total: int | None = None
    error: str = ""


class Phase(NamedTuple):
    """What is promised from now on, until the next phase.

    ``copies`` is how many owners must have acknowledged a heartbeat for *offline* to be wrong; 0: nothing is
    judged by acknowledgements. ``definite``: 2, no answer may be unknown or an error; 1, none about a user
    whom so many owners have; 0, any may be. ``leaves``: a leave that all owners took counts everywhere.
    """

    at_us: int
    copies: int
    definite: int
    leaves: bool
    why: str = ""


class Told(NamedTuple):
    """A watch has told of a change; ``watch`` differs for each watch of the history."""

    at_us: int
    watch: int
    user: int
    status: int
    reason: int
    cause: int
    version: int


class Shown(NamedTuple):
    """What a page shows that follows a watch: the last status it was told of each user."""

    at_us: int
    watch: int
    users: tuple[int, ...]
    statuses: bytes


Record = Begin | End | Phase | Told | Shown
_KINDS: Final = {"begin": Begin, "end": End, "phase": Phase, "told": Told, "shown": Shown}


def dump(records: Iterable[Record], file: IO[str]) -> None:
    """Write records, a line each."""
    for record in records:
        fields = record._asdict()
        if isinstance(record, End | Shown) and record.statuses is not None:
            fields["statuses"] = list(record.statuses)
        file.write(json.dumps({"record": type(record).__name__.lower(), **fields}) + "\n")


def load(file: Iterable[str]) -> Iterator[Record]:
    """Read what ``dump`` wrote."""
    for line in file:
        fields = json.loads(line)
        kind = _KINDS[fields.pop("record")]
        if fields.get("statuses") is not None:
            fields["statuses"] = bytes(fields["statuses"])
        if "users" in fields:
            fields["users"] = tuple(fields["users"])
        yield kind(**fields)
