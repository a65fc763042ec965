"""What nodes say at their admin ports, asked over HTTP; of each that says nothing, why, and what to do.

Where they are comes from ``cluster.yaml`` or ``--admin``. A port on loopback is another one on every machine,
so an answer counts only if it is of the node that was asked for. A token is shown to whoever is beyond
loopback or asks for it, and is in no message. Invariant: whatever is at that address, it costs a bounded time
and memory, and ends as an answer or as a sentence.
"""

import asyncio
import contextlib
import json
import os
import ssl
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pulsering_server.admin_tokens import VARIABLE as TOKEN_VARIABLE
from pulsering_server.cli.misuse import Misuse
from pulsering_server.cli.target import TLS_VARIABLES, Target
from pulsering_server.config_admin import is_any, is_loopback
from pulsering_server.config_values import Address, parse_address

if TYPE_CHECKING:
    import aiohttp

__all__ = ["AdminPorts", "Told", "silence"]

_BODY_BYTES_MAX: Final = 16 << 20
"""A thousand connections, or five minutes of history, are well below."""
_AT_ONCE: Final = 64

_OFF: Final = (
    "the admin port is off: 'admin: 8400' of the node in cluster.yaml turns it on, with its next start"
)
_ANY: Final = (
    "'admin: 0' is any free port, which cluster.yaml does not tell: the ready line of the node does, "
    "for --admin NODE=HOST:PORT"
)
_URL: Final = "a URL does not tell admin ports: give --config cluster.yaml, or --admin NODE=HOST:PORT"
_FAR: Final = (
    "it is on the loopback of the node's own machine: ask there, or through a tunnel "
    "with --admin NODE=HOST:PORT"
)
_STRANGER: Final = "it is not in cluster.yaml: is this the file that the nodes have?"


class Told(NamedTuple):
    """The answer of one node, or ``why`` there is none. ``off`` is meant so, anything else a fault."""

    node: str
    body: Any = None
    why: str = ""
    off: bool = False
    at: str = ""


class AdminPorts:
    """Where the admin ports of a cluster are, and who may ask there.

    ``told`` are the ``NODE=HOST:PORT`` of ``--admin``; ``Misuse`` if one is not usable.
    """

    def __init__(self, target: Target, told: Sequence[str], environment: Mapping[str, str]) -> None:
        self._said = dict(map(_said, told))
        self._shards = {shard.name: shard for shard in target.config.shards} if target.config else None
        for name in self._said:
            if self._shards is not None and name not in self._shards:
                known = ", ".join(list(self._shards)[:8])
                raise Misuse(f"--admin {name}=…: cluster.yaml has no node '{name}'; it has: {known}")
        self._tls = target.config is not None and target.config.tls.admin
        self._url = target.url
        self.tokens = _tokens(target, environment)
        """All of them, for those who must not show them."""
        self._token = self.tokens[0] if self.tokens else ""

    @property
    def names(self) -> list[str]:
        """Nodes of which the file or the options tell."""
        return sorted({*(self._shards or ()), *self._said})

    def place(self, name: str) -> Address | str:
        """Where a node is asked, or why it cannot be."""
        if name in self._said:
            return self._said[name]
        if self._shards is None:
            return _URL
        if name not in self._shards:
            return _STRANGER
        shard = self._shards[name]
        if shard.admin is None:
            return _OFF
        if shard.admin.port == 0:
            return _ANY
        return Address(shard.address.host, shard.admin.port) if is_any(shard.admin.host) else shard.admin

    async def ask(
        self, names: Iterable[str], path: str, timeout_s: float, *, text: bool = False
    ) -> list[Told]:
        """Ask each of these nodes for ``path``; its JSON, or with ``text`` what it says as it is."""
        import aiohttp

        turns = asyncio.Semaphore(_AT_ONCE)
        limit = aiohttp.ClientTimeout(total=timeout_s)

        async def one(session: "aiohttp.ClientSession", name: str) -> Told:
            place = self.place(name)
            if isinstance(place, str):
                return Told(name, why=place, off=True)
            async with turns:
                return await self._ask(session, name, place, path, text=text)

        connector = aiohttp.TCPConnector(ssl=self._context() or True)
        async with aiohttp.ClientSession(timeout=limit, trust_env=False, connector=connector) as session:
            return list(await asyncio.gather(*(one(session, name) for name in names)))

    def _context(self) -> ssl.SSLContext | None:
        """Whom to trust, and what to show, as at the data port; None for what the system has."""
        from pulsering.transport import connect_by
        from pulsering.url import parse_url

        return connect_by(parse_url(self._url), {})[1].tls_now() if self._tls else None

    async def _ask(
        self, session: "aiohttp.ClientSession", name: str, place: Address, path: str, *, text: bool
    ) -> Told:
        import aiohttp

        at = str(place)
        try:
            status, data = await self._get(session, place, path, shown=not is_loopback(place.host))
            if status == 401 and self._token and is_loopback(place.host):
                status, data = await self._get(session, place, path, shown=True)
        except TimeoutError:
            return Told(name, why=f"the admin port {at} does not answer in time", at=at)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            why = f"the admin port {at} cannot be reached: {_reason(error)}"
            return self._elsewhere(name, place, why)
        if status == 401:
            had = (
                "refuses the token that cluster.yaml or the environment gives"
                if self._token
                else "wants a token"
            )
            return Told(name, why=f"the admin port {at} {had}: set {TOKEN_VARIABLE}", at=at)
        if status != 200:
            words = data[:200].decode("utf-8", "replace").strip() or "nothing"
            return Told(name, why=f"the admin port {at} answers {status}: {words}", at=at)
        if text:
            return Told(name, data.decode("utf-8", "replace"), at=at)
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict) or "node" not in body:
            return Told(name, why=f"at {at} answers something else than a node's admin port", at=at)
        if body["node"] != name:
            return self._elsewhere(name, place, f"at {at} answers node {str(body['node'])[:64]!r}")
        return Told(name, body, at=at)

    def _elsewhere(self, name: str, place: Address, why: str) -> Told:
        """Nobody, or somebody else: on the loopback of this machine that is no fault of a node on another."""
        shard = (self._shards or {}).get(name)
        here = name in self._said or not is_loopback(place.host)
        if here or shard is None or is_loopback(shard.address.host):
            return Told(name, why=why, at=str(place))
        return Told(name, why=f"{why}; {_FAR}", off=True, at=str(place))

    async def _get(
        self, session: "aiohttp.ClientSession", place: Address, path: str, *, shown: bool
    ) -> tuple[int, bytes]:
        scheme = "https" if self._tls else "http"
        headers = {"Authorization": f"Bearer {self._token}"} if shown and self._token else {}
        async with session.get(
            f"{scheme}://{place}{path}", headers=headers, allow_redirects=False
        ) as response:
            data = bytearray()
            async for chunk in response.content.iter_chunked(1 << 16):
                data += chunk
                if len(data) > _BODY_BYTES_MAX:
                    raise ValueError(f"an answer of more than {_BODY_BYTES_MAX >> 20} MiB")
            return response.status, bytes(data)


def silence(answers: Iterable[Told]) -> list[str]:
    """A sentence for each reason why nodes did not answer, with the nodes it holds for."""
    nodes: dict[str, list[str]] = {}
    for told in answers:
        if told.why:
            nodes.setdefault(told.why, []).append(told.node)
    return [
        f"{', '.join(names[:8])}{f' and {len(names) - 8} more' if len(names) > 8 else ''}: {why}"
        for why, names in nodes.items()
    ]


def _said(text: str) -> tuple[str, Address]:
    name, equals, where = text.partition("=")
    try:
        if not (name and equals):
            raise ValueError("expected NODE=HOST:PORT")
        return name, parse_address(where)
    except ValueError as error:
        raise Misuse(f"--admin {text}: {error}; such as a=127.0.0.1:8400") from None


def _tokens(target: Target, environment: Mapping[str, str]) -> list[str]:
    """The tokens of the environment, then of the file that ``cluster.yaml`` names, if it can be read here."""
    words = environment.get(TOKEN_VARIABLE, "").split()
    file = target.config.admin.token_file if target.config else None
    if file is not None and target.file is not None:
        with contextlib.suppress(OSError, ValueError):
            words += Path(target.file.parent, file).read_text("ascii").split()
    if not all(map(str.isascii, words)):
        raise Misuse(f"{TOKEN_VARIABLE} is not ASCII text")
    return words


def _reason(error: BaseException) -> str:
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
