"""Frames: the header, the op codes, and a reader that cuts a byte stream into frames.

A frame is 16 header bytes and one msgpack body. This module knows neither sockets nor clocks: bytes go in,
frames come out, and a breach of the protocol is a ``FrameError`` raised before anything is allocated for it.
After an error a reader stays broken: nothing behind a bad frame is ever interpreted. ``docs/protocol.md``
is this module in prose; ``messages`` reads and writes the bodies.
"""

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from pulsering import limits
from pulsering.errors import FrameError

__all__ = ["HEADER_BYTES", "MAGIC", "VERSION", "ErrorCode", "Frame", "FrameReader", "Op", "encode_frame"]

MAGIC: Final = 0xC1
"""First byte of every frame: never used by msgpack, not ASCII, not TLS, not UTF-8."""

VERSION: Final = 1
"""The protocol version this module speaks; HELLO negotiates it."""

REPLY: Final = 0x01
"""The only flag: this frame answers the request with the same id; with id 0 it is said unasked, as GOAWAY and
what a watch has to tell. Other bits are refused."""

_made = tuple.__new__
"""Makes a named tuple of a tuple, at a third of the price."""

_HEADER: Final = struct.Struct("<HBBIII")
HEADER_BYTES: Final = _HEADER.size
_START: Final = VERSION << 8 | MAGIC
"""The first two bytes of every frame, as one number."""


class Op(IntEnum):
    """What a frame is about. A reply carries its request's op and the REPLY flag, or ERROR."""

    HELLO = 1
    PING = 2
    HEARTBEAT = 3
    LEAVE = 4
    GET = 5
    COUNT = 6
    TOPOLOGY = 7
    GOAWAY = 8
    WATCH = 9
    ERROR = 127


KNOWN_OPS: Final = frozenset(Op)
DATA_OPS: Final = frozenset({Op.HEARTBEAT, Op.LEAVE, Op.GET})
"""The data plane: ops that come by the million."""

KEYS_OPS: Final = DATA_OPS | {Op.WATCH}
"""Ops whose requests carry keys, and whose bodies may therefore be large."""


class ErrorCode(IntEnum):
    """Why a request was not done, in an ERROR frame. Codes below 16 end the connection."""

    BAD_FRAME = 1
    UNSUPPORTED_VERSION = 2
    HELLO_REQUIRED = 3
    CLUSTER_MISMATCH = 4
    FRAME_TOO_LARGE = 5
    HELLO_TIMEOUT = 6
    FRAME_TIMEOUT = 7
    UNAUTHORIZED = 8
    UNKNOWN_OP = 16
    TOO_MANY_KEYS = 17
    BUSY = 18
    DRAINING = 19
    FORBIDDEN = 20
    WATCH_LIMIT = 21


class Frame(NamedTuple):
    """One frame as it came: ``sender_ms`` is the sender's monotonic clock, modulo 2^32 milliseconds."""

    op: int
    flags: int
    request_id: int
    sender_ms: int
    body: bytes

    @property
    def is_reply(self) -> bool:
        """Whether this frame answers a request of ours."""
        return bool(self.flags & REPLY)


def encode_frame(op: int, request_id: int, sender_ms: int, body: bytes, *, reply: bool = False) -> bytes:
    """One frame as bytes. ``sender_ms`` may be any int; it travels modulo 2^32."""
    header = _HEADER.pack(_START, op, REPLY if reply else 0, request_id, len(body), sender_ms & 0xFFFFFFFF)
    return header + body


class FrameReader:
    """Cuts a stream into frames, whatever way it was chopped.

    ``feed`` takes bytes, ``next_frame`` gives the next complete frame or None. Requests of control ops are
    held to ``CONTROL_BODY_BYTES_MAX``, everything else to ``frame_bytes_max``, which starts small and is
    raised by the owner once HELLO is done.
    """

    def __init__(self, frame_bytes_max: int = limits.HELLO_FRAME_BYTES_MAX) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()
        self._offset = 0
        self._error: FrameError | None = None

    @property
    def pending(self) -> int:
        """Bytes that came and are not yet a frame."""
        return len(self._buffer) - self._offset

    @property
    def buffered(self) -> tuple[bytearray, int]:
        """The buffer and where in it the pending bytes start, for native code that reads them in place."""
        return self._buffer, self._offset

    def skip(self, size: int) -> None:
        """Take ``size`` pending bytes, whole frames, for read elsewhere."""
        self._offset += size
        if self._offset == len(self._buffer):  # nothing waits: hold no memory for it
            self._buffer.clear()
            self._offset = 0

    def peek(self, size: int) -> bytes:
        """Up to ``size`` of the pending bytes, for a helpful word to a peer of another protocol."""
        return bytes(self._buffer[self._offset : self._offset + size])

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Append what a socket delivered."""
        if self._offset:
            del self._buffer[: self._offset]
            self._offset = 0
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """The next complete frame, None if more bytes are needed; raises FrameError, then for ever."""
        if self._error is not None:
            raise self._error
        buffer, offset = self._buffer, self._offset
        body = offset + HEADER_BYTES
        if body > len(buffer):
            self._check_start(buffer[offset : offset + 2])
            return None
        start, op, flags, request_id, body_bytes, sender_ms = _HEADER.unpack_from(buffer, offset)
        if start != _START:
            self._check_start(buffer[offset : offset + 2])
        if flags > REPLY:
            raise self._broken(f"unknown flags 0x{flags & ~REPLY:02x} in a frame of op {op}")
        if body_bytes > limits.CONTROL_BODY_BYTES_MAX or body_bytes > self.frame_bytes_max - HEADER_BYTES:
            self._check_size(op, flags, body_bytes)
        end = body + body_bytes
        if end > len(buffer):
            return None
        self._offset = end
        return _made(Frame, (op, flags, request_id, sender_ms, bytes(buffer[body:end])))

    def _check_start(self, start: bytearray) -> None:
        """Refuse what cannot be a frame, from its first two bytes, as far as they are there."""
        if start and start[0] != MAGIC:
            raise self._broken(f"not a Pulsering frame: first byte 0x{start[0]:02x}, not 0x{MAGIC:02x}")
        if len(start) > 1 and start[1] != VERSION:
            raise self._broken(
                f"protocol version {start[1]} is not spoken here, only {VERSION}",
                ErrorCode.UNSUPPORTED_VERSION,
            )

    def _check_size(self, op: int, flags: int, body_bytes: int) -> None:
        bound = self.frame_bytes_max - HEADER_BYTES
        if not flags & REPLY and op not in KEYS_OPS:
            bound = min(bound, limits.CONTROL_BODY_BYTES_MAX)
        if body_bytes > bound:
            raise self._broken(
                f"a body of {body_bytes} bytes for op {op}, at most {bound} here", ErrorCode.FRAME_TOO_LARGE
            )

    def _broken(self, what: str, code: ErrorCode = ErrorCode.BAD_FRAME) -> FrameError:
        self._error = FrameError(what, code=code)
        return self._error
