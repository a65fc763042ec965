"""Peers that speak something else: told in one line, in words their own tools show.

A browser, a TLS client or ``redis-cli`` pointed at a node's port would otherwise see a dropped connection and
nothing to go by. What they are is guessed from the first bytes, which is enough to word the hint and count
it.
"""

from typing import Final, NamedTuple

from pulsering.messages import encode_error
from pulsering.wire import MAGIC, ErrorCode, Op, encode_frame

PEEK_BYTES: Final = 16
"""Longer than any prefix below."""

_HINT: Final = "this port is a Pulsering node and speaks Pulsering's binary protocol only"

_HTTP_STARTS: Final = (
    b"GET /",
    b"HEAD /",
    b"POST /",
    b"PUT /",
    b"DELETE /",
    b"OPTIONS ",
    b"PATCH /",
    b"CONNECT ",
    b"TRACE /",
    b"PRI * HTTP",
)
_REDIS_STARTS: Final = (b"*", b"$", b"PING\r", b"PING\n", b"INFO", b"AUTH ", b"QUIT", b"EXISTS ", b"SET ")


class Foreign(NamedTuple):
    """What a stranger seems to speak, and what to answer before closing."""

    kind: str
    answer: bytes


def plain_answer(start: bytes, now_ms: int) -> bytes:
    """What to tell a peer that begins without TLS where TLS is spoken: a client of ours in its own words."""
    if start[:1] == bytes((MAGIC,)):
        message = "this port speaks TLS: presences:// instead of presence://"
        return encode_frame(Op.ERROR, 0, now_ms, encode_error(ErrorCode.BAD_FRAME, message), reply=True)
    return recognise(start).answer


def recognise(start: bytes) -> Foreign:
    """Guess the protocol that begins with ``start`` (any length from one byte)."""
    if start[:1] == b"\x16":
        return Foreign("tls", f"{_HINT}, without TLS\n".encode())
    if any(start.startswith(prefix[: len(start)]) for prefix in _HTTP_STARTS):
        return Foreign("http", f"HTTP/1.0 400 Bad Request\r\n\r\n{_HINT}, not HTTP\n".encode())
    if start.startswith(_REDIS_STARTS):
        return Foreign("redis", f"-ERR {_HINT}, not Redis\r\n".encode())
    return Foreign("other", f"{_HINT}\n".encode())
