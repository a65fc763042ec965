"""How an admin port is asked: where a node has it, whom to trust there, and a GET of bounded cost.

Two ask: the node behind a console, of all the others (``admin_cluster``), and the command line
(``cli.admin_ports``). Each says in its own words what came of it. A certificate is checked against the host
that clients dial, whatever way leads to the admin port: loopback, or a tunnel. Invariant: whatever is at that
address costs at most the time and memory that the caller gave, and no redirect, proxy or cookie is heeded.
"""

import asyncio
import os
import ssl
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from pulsering_server.config_admin import is_any, is_loopback
from pulsering_server.config_values import Address
from pulsering_server.trust import TLS_VARIABLES
from pulsering_server.units import about_size

if TYPE_CHECKING:
    import aiohttp

    from pulsering_server.config_cores import Shard

__all__ = ["AdminHttp", "Nowhere", "Place", "Reply", "TooLong", "place_of", "reason_of"]


class Place(NamedTuple):
    """Where a node is asked; whether that is beyond loopback, and so wants a token; whom to expect there."""

    address: Address
    exposed: bool
    host: str = ""

    def __str__(self) -> str:
        return str(self.address)


class Nowhere(StrEnum):
    """Why a node cannot be asked, as far as its configuration says."""

    OFF = "off"
    ANY_PORT = "any_port"


class Reply(NamedTuple):
    """What came back."""

    status: int
    body: bytes


class TooLong(ValueError):
    """More came back than was wanted; the rest was not read."""


def place_of(shard: "Shard") -> Place | Nowhere:
    """Where the admin port of a node is, for whoever is on its machine or, if it is exposed, elsewhere."""
    where, host = shard.admin, shard.address.host
    if where is None:
        return Nowhere.OFF
    if where.port == 0:
        return Nowhere.ANY_PORT
    if is_any(where.host):
        return Place(Address(host, where.port), exposed=True, host=host)
    return Place(where, exposed=not is_loopback(where.host), host=host)


class AdminHttp:
    """``await get(…)`` as often as wanted, and in the end ``await close()``.

    With ``trust``, which is called in a thread, it speaks HTTPS. ``at_once`` are its connections at most.
    """

    def __init__(
        self, trust: Callable[[], ssl.SSLContext] | None, *, at_once: int, timeout_s: float, bytes_max: int
    ) -> None:
        self._trust = trust
        self._at_once = at_once
        self._timeout_s = timeout_s
        self._bytes_max = bytes_max
        self._turn = asyncio.Lock()
        self._made: aiohttp.ClientSession | None = None

    async def get(
        self, place: Place, path: str, params: Iterable[tuple[str, str]] = (), authorization: str = ""
    ) -> Reply:
        """Ask once. Raises ``TooLong``, ``TimeoutError``, ``OSError``, ``aiohttp.ClientError``, and what
        ``trust`` does."""
        secure = await self._context()
        async with self._session().get(
            f"{'http' if secure is None else 'https'}://{place}{path}",
            params=list(params),
            headers={"Authorization": authorization} if authorization else {},
            allow_redirects=False,
            ssl=True if secure is None else secure,
            server_hostname=None if secure is None else place.host or None,
        ) as answer:
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > self._bytes_max:
                    raise TooLong(f"an answer of more than {about_size(self._bytes_max)}")
            return Reply(answer.status, bytes(body))

    async def _context(self) -> ssl.SSLContext | None:
        """What it trusts now, made beside the loop: a system's authorities take tens of milliseconds."""
        if self._trust is None:
            return None
        async with self._turn:
            return await asyncio.to_thread(self._trust)

    async def close(self) -> None:
        """Ask nobody any more."""
        if self._made is not None:
            await self._made.close()
            self._made = None

    def _session(self) -> "aiohttp.ClientSession":
        import aiohttp

        if self._made is None:
            self._made = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._at_once, force_close=True),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._made


def reason_of(error: BaseException) -> str:
    """Why an admin port could not be asked, in a few words."""
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({cause.verify_message}): {TLS_VARIABLES['tls_ca']} names who is"
        )
    if isinstance(cause, ssl.SSLError):
        return f"TLS failed ({cause.reason or cause})"
    number = getattr(cause, "errno", None)
    if isinstance(number, int) and number > 0:  # the loop's own words repeat the address
        return os.strerror(number).lower()
    return str(cause) or type(error).__name__
