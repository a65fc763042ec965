"""User ids as a person types them.

On a command line everything is text, but ``42`` and ``"42"`` are different users. Decimal digits
therefore mean an int and all else a str, which is what is meant nearly always; ``--int``, ``--string``
and ``--uuid`` say it outright. Invariant: no id is ever quietly read as another kind than was asked for.
"""

import uuid
from collections.abc import Sequence
from typing import TypeAlias

from pulsering_server.cli.misuse import Misuse

TypedId: TypeAlias = int | str | uuid.UUID

ID_MAX = (1 << 64) - 1


def parse_ids(texts: Sequence[str], *, as_int: bool, as_string: bool, as_uuid: bool) -> list[TypedId]:
    """Return the ids in the order typed; ``Misuse`` names the first that does not fit."""
    if as_int + as_string + as_uuid > 1:
        raise Misuse("--int, --string and --uuid exclude each other")
    if as_string:
        return list(texts)
    if as_uuid:
        return [_uuid(text) for text in texts]
    return [_int(text) if as_int or (text.isascii() and text.isdigit()) else text for text in texts]


def _int(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise Misuse(f"'{text}' is not a decimal number; without --int it is taken as a string")
    value = int(text) if len(text) <= 40 else ID_MAX + 1
    if value > ID_MAX:
        raise Misuse(
            f"{text[:40]} is above 2^64-1, the largest numeric id; with --string it is taken as text"
        )
    return value


def _uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise Misuse(f"'{text}' is not a UUID, such as 123e4567-e89b-12d3-a456-426614174000") from None
