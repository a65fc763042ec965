"""Reads bodies of fixed shape: every msgpack form of the few types that the data plane uses.

A cursor goes through a body value by value and accepts every msgpack encoding of an unsigned integer, ``bin``
or ``ext`` and nothing else, so that no hostile body can make Python objects. Invariant: a length is compared
with what is there before anything is taken for it, and whatever is refused is a ``FrameError``.
"""

from typing import Final, NoReturn

from pulsering.errors import FrameError

__all__ = ["KEYS_EXT", "KEY_BYTES", "Cursor", "bad"]

KEYS_EXT: Final = 1
"""The msgpack ext type of a packed array of little-endian u64 keys."""

KEY_BYTES: Final = 8


def bad(what: str) -> NoReturn:
    """Refuse a body."""
    raise FrameError(f"body: {what}")


class Cursor:
    """Reads msgpack values of expected type, one after another."""

    __slots__ = ("_body", "_offset")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._offset = 0

    def _take(self, size: int) -> int:
        """The next ``size`` bytes as a big-endian unsigned integer."""
        start = self._offset
        end = start + size
        if end > len(self._body):
            bad("ends early")
        self._offset = end
        return int.from_bytes(self._body[start:end], "big")

    def array(self, length: int) -> None:
        """An array of exactly ``length`` values."""
        head = self._take(1)
        if head == 0xDC:
            found = self._take(2)
        elif head == 0xDD:
            found = self._take(4)
        elif head & 0xF0 == 0x90:
            found = head & 0x0F
        else:
            bad(f"an array of {length} expected, not a value of type 0x{head:02x}")
        if found != length:
            bad(f"an array of {length} expected, not of {found}")

    def uint(self, maximum: int, what: str) -> int:
        """An unsigned integer, at most ``maximum``."""
        head = self._take(1)
        if head < 0x80:
            value = head
        elif 0xCC <= head <= 0xCF:
            value = self._take(1 << (head - 0xCC))
        else:
            bad(f"{what} is not an unsigned integer (type 0x{head:02x})")
        if value > maximum:
            bad(f"{what} is {value}, at most {maximum}")
        return value

    def _bytes(self, size: int, what: str) -> memoryview:
        start = self._offset
        end = start + size
        if end > len(self._body):
            bad(f"{what} says {size} bytes, {len(self._body) - start} are there")
        self._offset = end
        return memoryview(self._body)[start:end]

    def bin(self, what: str) -> bytes:
        """Some bytes."""
        head = self._take(1)
        if not 0xC4 <= head <= 0xC6:
            bad(f"{what} is not binary (type 0x{head:02x})")
        return bytes(self._bytes(self._take(1 << (head - 0xC4)), what))

    def keys(self) -> memoryview:
        """Packed keys, as a view into the body."""
        head = self._take(1)
        if 0xD4 <= head <= 0xD8:
            size = 1 << (head - 0xD4)
        elif 0xC7 <= head <= 0xC9:
            size = self._take(1 << (head - 0xC7))
        else:
            bad(f"keys are not an ext value (type 0x{head:02x})")
        kind = self._take(1)
        if kind != KEYS_EXT:
            bad(f"keys are ext type {kind}, not {KEYS_EXT}")
        if size % KEY_BYTES:
            bad(f"keys of {size} bytes, not a multiple of {KEY_BYTES}")
        return self._bytes(size, "keys")

    def end(self) -> None:
        """Nothing more."""
        if self._offset != len(self._body):
            bad(f"{len(self._body) - self._offset} bytes too many")
