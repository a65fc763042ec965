"""What goes wrong, as a caller gets to see it: ``application/problem+json`` (RFC 9457), one sentence on what
to do.

Whose fault it is decides the status: the caller's is 4xx; a cluster that cannot be asked right now is 503
with ``Retry-After``; a mistake of ours is 500. Invariant: nobody is ever told *offline* because something
broke.
"""

import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ExceptionHandler

from pulsering import NodeBusy, PresenceError

__all__ = ["HANDLERS", "PROBLEM", "Problem"]

PROBLEM: Final = "application/problem+json"
RETRY_AFTER_S: Final = 1.0
"""Where no node said when: by then the client has found another way, or the node is back."""


class Problem(Exception):
    """Ends a request with this status and a sentence for whoever writes the caller."""

    def __init__(self, status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """As it goes to the caller."""
        document = {
            "type": "about:blank",
            "title": self.status.phrase,
            "status": int(self.status),
            "detail": self.detail,
        }
        headers = {"Cache-Control": "no-store", **self.headers}
        return Response(json.dumps(document), self.status, headers, PROBLEM)


def _told(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


def _no_such_thing(_: Request, error: Exception) -> Response:
    """What the framework refused: a path or a method that is not there."""
    assert isinstance(error, HTTPException)
    return Problem(
        HTTPStatus(error.status_code), f"{error.detail}; see /openapi.json", error.headers
    ).response()


def _unavailable(_: Request, error: Exception) -> Response:
    """No answer is no status. The client has tried other owners already: the caller is to come back later."""
    assert isinstance(error, PresenceError)
    if not error.retryable:
        raise error  # a wrong setting, or a mistake in this server
    wait_s = error.retry_after if isinstance(error, NodeBusy) else RETRY_AFTER_S
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "presence cannot be asked right now; nothing is known of anybody",
        {"Retry-After": str(max(1, math.ceil(wait_s)))},
    ).response()


def _ours(_: Request, __: Exception) -> Response:
    """The server logs the traceback; a caller learns nothing of it."""
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "a mistake of this server; it was logged").response()


HANDLERS: Final[Mapping[type[Exception], ExceptionHandler]] = {
    Problem: _told,
    HTTPException: _no_such_thing,
    PresenceError: _unavailable,
    Exception: _ours,
}
