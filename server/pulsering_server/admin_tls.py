"""TLS at the admin port: a connection counts from the start, shakes hands soon or goes, then speaks HTTP.

The loop's own server with TLS would make a protocol known only after its handshake, and whoever never shakes
hands would hold a file descriptor that nobody counts. So the same layer as on the data port (``tls``) lies
between the socket and HTTP, with the certificates of the moment in which a connection comes. Invariant:
whoever is not done with the handshake is counted, and not there for longer than ``HELLO_TIMEOUT_MS``.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

from pulsering import limits
from pulsering_server.tls import TlsFailed, TlsLayer

__all__ = ["TlsGate"]

_PLAIN: Final = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    b"this port speaks HTTPS\n"
)


class TlsGate:
    """Lets connections in by TLS; ``len`` of it is how many are not done with that."""

    def __init__(self, loop: asyncio.AbstractEventLoop, context: Callable[[], ssl.SSLContext | None]) -> None:
        self._loop = loop
        self._context = context
        self._waiting: set[_Guest] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def admit(self, behind: asyncio.Protocol) -> asyncio.Protocol:
        """A connection has come for ``behind``, which will hear of it after the handshake."""
        context = self._context()
        assert context is not None, "no TLS for the admin port without a certificate"
        return _Guest(self._loop, context, behind, self._waiting)

    def close(self) -> None:
        """Send away who still waits."""
        for guest in list(self._waiting):
            guest.abort()


class _Guest(asyncio.Protocol):
    """One connection: takes TLS off what comes, and is asked by HTTP to put it on what goes."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: ssl.SSLContext,
        behind: asyncio.Protocol,
        waiting: "set[_Guest]",
    ) -> None:
        self._loop = loop
        self._layer = TlsLayer(context)
        self._context = context
        self._behind = behind
        self._waiting = waiting
        self._plain: asyncio.Transport = cast("asyncio.Transport", None)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._plain = cast("asyncio.Transport", transport)
        self._waiting.add(self)
        self._timer = self._loop.call_later(limits.HELLO_TIMEOUT_MS / 1000, self.abort)

    def data_received(self, data: bytes) -> None:
        layer = self._layer
        try:
            said = layer.receive(memoryview(data))
        except TlsFailed as error:
            self._plain.write(_PLAIN if error.plain else layer.take())
            self._plain.close()
            return
        self._plain.write(layer.take())
        if layer.established and self._timer is not None:
            self._settle()
            self._behind.connection_made(_Secure(self._plain, layer, self._context))
        if said:
            self._behind.data_received(said)
        if layer.ended:
            self._plain.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is None:
            self._behind.connection_lost(exc)
        else:
            self._settle()

    def pause_writing(self) -> None:
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        self._behind.resume_writing()

    def abort(self) -> None:
        """Drop it."""
        self._plain.abort()

    def _settle(self) -> None:
        assert self._timer is not None
        self._timer.cancel()
        self._timer = None
        self._waiting.discard(self)


class _Secure(asyncio.Transport):
    """The transport that HTTP sees: the plain one, with all that is written put under TLS."""

    def __init__(self, plain: asyncio.Transport, layer: TlsLayer, context: ssl.SSLContext) -> None:
        super().__init__()
        self._plain = plain
        self._layer = layer
        self._context = context

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._context if name == "sslcontext" else self._plain.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if data and not self._plain.is_closing():
            self._plain.write(self._layer.wrap(bytes(data)))

    def writelines(self, parts: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(parts))

    def close(self) -> None:
        if not self._plain.is_closing():
            self._plain.write(self._layer.farewell())
            self._plain.close()

    def abort(self) -> None:
        self._plain.abort()

    def is_closing(self) -> bool:
        return self._plain.is_closing()

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self._plain.pause_reading()

    def resume_reading(self) -> None:
        self._plain.resume_reading()

    def is_reading(self) -> bool:
        return self._plain.is_reading()

    def get_write_buffer_size(self) -> int:
        return self._plain.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._plain.set_write_buffer_limits(high, low)
