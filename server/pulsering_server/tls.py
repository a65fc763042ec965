"""TLS of one accepted connection, between its socket and its session: bytes in, bytes out, no socket.

A node accepts sockets in plain and lays this over each, so that a connection counts, is bounded in time, and
can be told a plain word from the first byte on, before any handshake; and so that each handshake uses the
certificates of that moment: new ones take effect without a connection lost. The protocol itself is OpenSSL's,
by way of ``ssl.SSLObject``. Invariant: ``receive`` raises nothing but ``TlsFailed``, whatever a peer sends.
"""

import contextlib
import ssl
from typing import Final

__all__ = ["TlsFailed", "TlsLayer"]

_HANDSHAKE: Final = 0x16
"""First byte of whoever wants TLS."""

_READ_BYTES: Final = 64 << 10


class TlsFailed(Exception):
    """The connection cannot go on. ``plain`` is true for a peer that does not speak TLS at all."""

    def __init__(self, reason: str, *, plain: bool = False) -> None:
        super().__init__(reason)
        self.plain = plain


class TlsLayer:
    """The node's side. After each ``receive``, what ``take`` returns has to be sent as it is."""

    __slots__ = ("_incoming", "_outgoing", "_ssl", "_started", "ended", "established")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._started = False
        self.established = False
        """Whether the handshake is done."""
        self.ended = False
        """Whether the peer has said that nothing more will come."""

    def receive(self, data: memoryview) -> bytes:
        """Return what was said under the encryption, which may be nothing yet."""
        if not self._started:
            if data[0] != _HANDSHAKE:
                raise TlsFailed("no TLS", plain=True)
            self._started = True
        self._incoming.write(data)
        parts: list[bytes] = []
        try:
            if not self.established:
                self._ssl.do_handshake()
                self.established = True
            while part := self._ssl.read(_READ_BYTES):
                parts.append(part)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            raise TlsFailed((error.reason or str(error)).lower().replace("_", " ")) from None
        return b"".join(parts)

    def take(self) -> bytes:
        """Return what OpenSSL has to say to the peer."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def farewell(self) -> bytes:
        """Return what ends the encryption in order, and whatever else was to be sent."""
        if self.established:
            with contextlib.suppress(ssl.SSLError):
                self._ssl.unwrap()
        return self.take()

    def wrap(self, data: bytes) -> bytes:
        """Encrypt; before the handshake is done there is no way to say anything, and nothing comes out."""
        if not self.established:
            return b""
        try:
            self._ssl.write(data)
        except ssl.SSLError:  # it has ended under our hands
            return b""
        return self._outgoing.read()
