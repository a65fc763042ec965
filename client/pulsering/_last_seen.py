"""When users were last seen, on the wire: what a GET may ask for beside states and ages, and its answer.

A body of its own kind, read by the cursor alone, so that the ordinary answer stays what it was and costs what
it did. A node whose HELLO reply has no ``last_seen_s`` does not know the question and must not be asked it.
"""

import sys
from array import array
from typing import Final, NamedTuple

import msgpack

from pulsering._cursor import Cursor, bad

__all__ = [
    "SEEN_NONE",
    "WANT_LAST_SEEN",
    "GetSeenReply",
    "decode_get_seen_reply",
    "encode_get_seen_reply",
    "packed_seconds",
]

WANT_LAST_SEEN: Final = 2
"""GET argument, added to others: send when those who are not online were last seen."""

SEEN_NONE: Final = 0xFFFF_FFFF
"""Not known, or online."""

_SECOND_BYTES: Final = 4
_U32_MAX: Final = 0xFFFF_FFFF


class GetSeenReply(NamedTuple):
    """As ``messages.GetReply``, and ``last_seen``: seconds since then, a little-endian u32 a key.

    For ``listened_s`` seconds the node has heard every heartbeat, and has forgotten nobody since.
    """

    epoch: int
    warming_ms: int
    key_count: int
    states: bytes
    ages: bytes
    last_seen: bytes
    listened_s: int


def encode_get_seen_reply(reply: GetSeenReply) -> bytes:
    """Body of the reply to a GET with WANT_LAST_SEEN."""
    body: bytes = msgpack.packb(list(reply))
    return body


def decode_get_seen_reply(body: bytes, count: int, *, want_ages: bool) -> GetSeenReply:
    """Read the reply to such a GET of ``count`` keys; its lengths must be exactly those of the request."""
    cursor = Cursor(body)
    cursor.array(7)
    epoch = cursor.uint(_U32_MAX, "epoch")
    warming_ms = cursor.uint(_U32_MAX, "warming_ms")
    found = cursor.uint(_U32_MAX, "count")
    states, ages, last_seen = cursor.bin("states"), cursor.bin("ages"), cursor.bin("last_seen")
    listened_s = cursor.uint(_U32_MAX, "listened_s")
    cursor.end()
    sizes = (len(states), len(ages), len(last_seen))
    if found != count or sizes != ((count + 3) // 4, count if want_ages else 0, count * _SECOND_BYTES):
        bad(f"an answer for {found} keys ({' + '.join(map(str, sizes))} bytes) to a request of {count}")
    return GetSeenReply(epoch, warming_ms, found, states, ages, last_seen, listened_s)


def packed_seconds(packed: bytes | bytearray) -> "array[int]":
    """Return the u32 of a packed array of them."""
    seconds = array("I", packed)
    if sys.byteorder == "big":
        seconds.byteswap()
    return seconds
