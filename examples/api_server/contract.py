"""What callers may send, and how much of it. Pure: text in, values or a ``Problem`` out.

``openapi`` says the same to machines, from the same numbers. Invariant: what is taken is taken whole and as
it came; nothing is trimmed, skipped or cut to size in silence.
"""

import json
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl

from examples.api_server.problems import Problem

__all__ = [
    "BODY_BYTES_MAX",
    "IDS_MAX",
    "ID_PATTERN",
    "WATCHED_MAX",
    "WATCH_BYTES_MAX",
    "id_of",
    "ids_of",
    "ids_of_query",
    "name_of_body",
    "token_of_form",
]

ID_PATTERN: Final = "[a-z0-9][a-z0-9_-]{0,31}"
"""Of a user id. Pulsering takes any int, text, bytes or UUID; what you call your users is up to you."""

IDS_MAX: Final = 200
"""Users in one question: a long page of them, and a URL that proxies still let through (8 KB)."""

WATCHED_MAX: Final = 1000
"""Users that one page watches. A node bounds what all of them watch together."""

BODY_BYTES_MAX: Final = 4096
"""Of a request over HTTP: a name, or a token."""

WATCH_BYTES_MAX: Final = 64 << 10
"""Of a message on the WebSocket: all that may be watched, at once."""

_ID: Final = re.compile(ID_PATTERN)


def id_of(value: object) -> str:
    """A user id, or the problem with it."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise Problem(HTTPStatus.BAD_REQUEST, f"a user id is text like {ID_PATTERN}, not {_shown(value)}")
    return value


def ids_of(values: object, most: int) -> list[str]:
    """A list of at least one and at most so many ids."""
    if not isinstance(values, list) or not 1 <= len(values) <= most:
        raise Problem(HTTPStatus.BAD_REQUEST, f"a list of 1 to {most} user ids is needed")
    return [id_of(value) for value in values]


def ids_of_query(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """The ids of ``?ids=ada,grace``."""
    if [name for name, _ in pairs] != ["ids"]:
        raise Problem(
            HTTPStatus.BAD_REQUEST, "ask with ?ids=ada,grace: one parameter, commas between the ids"
        )
    return ids_of(pairs[0][1].split(","), IDS_MAX)


def name_of_body(kind: str, body: bytes) -> str:
    """The name in ``{"name": "ada"}``."""
    _only(kind, "application/json")
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or set(document) != {"name"}:
        raise Problem(HTTPStatus.BAD_REQUEST, 'a JSON object with a name is needed, like {"name": "ada"}')
    return id_of(document["name"])


def token_of_form(kind: str, body: bytes) -> str:
    """The token in ``token=…``, as ``navigator.sendBeacon`` posts it: that one can send no header."""
    _only(kind, "application/x-www-form-urlencoded")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=1)
    except ValueError:
        pairs = []
    if len(pairs) != 1 or pairs[0][0] != "token":
        raise Problem(HTTPStatus.BAD_REQUEST, "a form with the one field token is needed")
    return pairs[0][1]


def _only(kind: str, wanted: str) -> None:
    if kind.partition(";")[0].strip().lower() != wanted:
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"a body of {wanted} is needed, not {_shown(kind)}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
