"""How bytes get to a node: by TCP, or by whatever is plugged in under another URL scheme.

A transport is all that a client knows of the world outside: where to begin, how to reach an address, and what
time it is there. Everything else, handshake, deadlines, retries, is the same code over any of them, so what
holds over ``memory://`` holds over TCP. Other packages plug theirs in by the entry-point group
``pulsering.transports``: the scheme is the entry's name, and what it names is called with the ``ServiceUrl``.
Invariant: a transport never decides anything; it connects or raises ``OSError``.
"""

import asyncio
import errno
import ssl
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Final, Protocol

from pulsering._plugins import TRANSPORTS_GROUP, load_plugin
from pulsering.credentials import explain
from pulsering.errors import ConfigError
from pulsering.options import ClientOptions
from pulsering.url import TCP_SCHEMES, Address, ServiceUrl

if TYPE_CHECKING:
    from pulsering.options import Options

__all__ = ["Provider", "TcpTransport", "Transport", "connect_by", "now_ms"]

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", None)


def now_ms() -> int:
    """Milliseconds of the clock from which nodes tell ages; it counts suspended time where it can."""
    nanoseconds = time.monotonic_ns() if _CLOCK is None else time.clock_gettime_ns(_CLOCK)
    return nanoseconds // 1_000_000


class Transport(Protocol):
    """The way to one cluster, for one client."""

    @property
    def seeds(self) -> tuple[Address, ...]:
        """Addresses to begin with."""
        ...

    @property
    def cluster(self) -> str:
        """The cluster's name, checked in the handshake; empty accepts any."""
        ...

    def now_ms(self) -> int:
        """Milliseconds of any origin, never going back: the time at which heartbeats are said."""
        ...

    async def connect(self, protocol: asyncio.Protocol, address: Address) -> None:
        """Connect; returns after ``protocol.connection_made``. Raises ``OSError``; may be cancelled."""
        ...


Provider = Callable[[ServiceUrl], Transport]
"""Makes a transport of a URL, and takes its own options out of ``url.options``: the rest is the client's."""


class TcpTransport:
    """TCP, with TLS for ``presences://``. Names are looked up afresh at each connect."""

    def __init__(
        self,
        seeds: Iterable[Address],
        cluster: str = "",
        *,
        tls: bool = False,
        context: Callable[[], ssl.SSLContext | None] = lambda: None,
    ) -> None:
        self.seeds = tuple(seeds)
        self.cluster = cluster
        self._tls = tls
        self._given = context

    now_ms = staticmethod(now_ms)

    async def connect(self, protocol: asyncio.Protocol, address: Address) -> None:
        """Look up, connect, and shake hands for TLS."""
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: protocol,
                address.host,
                address.port,
                ssl=(self._given() or self._system) if self._tls else None,
                server_hostname=address.host if self._tls else None,
            )
        except ssl.SSLError as error:
            raise ConnectionError(errno.EPROTO, explain(error)) from error

    @cached_property
    def _system(self) -> ssl.SSLContext:
        """Made when first needed: reading the system's certificates takes tens of milliseconds."""
        return ssl.create_default_context()


def connect_by(url: ServiceUrl, given: "Options") -> tuple[Transport, ClientOptions]:
    """The transport that a URL means, and all options, its own and those given. Raises ``ConfigError``."""
    plugged: Transport | None = None
    if url.scheme not in TCP_SCHEMES:
        provider: Provider = load_plugin(TRANSPORTS_GROUP, url.scheme, f"{url.scheme}://")
        plugged = provider(url)  # takes its own options out
    options = ClientOptions.from_mapping(given, url.options)
    if not url.tls:
        for name in ("ssl", "tls_ca", "tls_certificate", "tls_key"):
            if getattr(options, name) is not None:
                raise ConfigError(f"option {name}: only together with presences://, which asks for TLS")
    return plugged or TcpTransport(url.seeds, url.cluster, tls=url.tls, context=options.tls_now), options
