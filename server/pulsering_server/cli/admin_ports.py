"""What nodes say at their admin ports, asked over HTTP; of each that says nothing, why, and what to do.

Where they are comes from ``cluster.yaml`` or ``--admin``. A port on loopback is another one on every machine,
so an answer counts only if it is of the node that was asked for. A token is shown to whoever is beyond
loopback or asks for it, and is in no message. Invariant: whatever is at that address, it costs a bounded time
and memory, and ends as an answer or as a sentence.
"""

import asyncio
import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from pulsering_server.admin_http import AdminHttp, Nowhere, Place, TooLong, place_of, reason_of
from pulsering_server.admin_tokens import VARIABLE as TOKEN_VARIABLE
from pulsering_server.cli.misuse import Misuse
from pulsering_server.cli.target import Target
from pulsering_server.config_admin import is_loopback
from pulsering_server.config_values import Address, parse_address
from pulsering_server.trust import trust_of

__all__ = ["AdminPorts", "Told", "silence"]

_BODY_BYTES_MAX: Final = 16 << 20
"""A thousand connections, or five minutes of history, are well below."""
_AT_ONCE: Final = 64

_NOWHERE: Final = {
    Nowhere.OFF: (
        "the admin port is off: 'admin: 8400' of the node in cluster.yaml turns it on, with its next start"
    ),
    Nowhere.ANY_PORT: (
        "'admin: 0' is any free port, which cluster.yaml does not tell: the ready line of the node does, "
        "for --admin NODE=HOST:PORT"
    ),
}
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
        self._environment = environment
        self.tokens = _tokens(target, environment)
        """All of them, for those who must not show them."""
        self._token = self.tokens[0] if self.tokens else ""

    @property
    def names(self) -> list[str]:
        """Nodes of which the file or the options tell."""
        return sorted({*(self._shards or ()), *self._said})

    def place(self, name: str) -> Place | str:
        """Where a node is asked, or why it cannot be."""
        if name in self._said:
            said = self._said[name]
            expected = self._shards[name].address.host if self._shards is not None else ""
            return Place(said, exposed=not is_loopback(said.host), host=expected)
        if self._shards is None:
            return _URL
        if name not in self._shards:
            return _STRANGER
        found = place_of(self._shards[name])
        return _NOWHERE[found] if isinstance(found, Nowhere) else found

    async def ask(
        self, names: Iterable[str], path: str, timeout_s: float, *, text: bool = False
    ) -> list[Told]:
        """Ask each of these nodes for ``path``; its JSON, or with ``text`` what it says as it is."""
        turns = asyncio.Semaphore(_AT_ONCE)
        trust = trust_of(self._environment).current if self._tls else None
        http = AdminHttp(trust, at_once=_AT_ONCE, timeout_s=timeout_s, bytes_max=_BODY_BYTES_MAX)

        async def one(name: str) -> Told:
            place = self.place(name)
            if isinstance(place, str):
                return Told(name, why=place, off=True)
            async with turns:
                return await self._ask(http, name, place, path, text=text)

        try:
            return list(await asyncio.gather(*map(one, names)))
        finally:
            await http.close()

    async def _ask(self, http: AdminHttp, name: str, place: Place, path: str, *, text: bool) -> Told:
        import aiohttp

        at, shown = str(place), f"Bearer {self._token}" if self._token else ""
        try:
            status, data = await http.get(place, path, authorization=shown if place.exposed else "")
            if status == 401 and shown and not place.exposed:
                status, data = await http.get(place, path, authorization=shown)
        except TimeoutError:
            return Told(name, why=f"the admin port {at} does not answer in time", at=at)
        except (aiohttp.ClientError, OSError, TooLong) as error:
            why = f"the admin port {at} cannot be reached: {reason_of(error)}"
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

    def _elsewhere(self, name: str, place: Place, why: str) -> Told:
        """Nobody, or somebody else: on the loopback of this machine that is no fault of a node on another."""
        shard = (self._shards or {}).get(name)
        here = name in self._said or place.exposed
        if here or shard is None or is_loopback(shard.address.host):
            return Told(name, why=why, at=str(place))
        return Told(name, why=f"{why}; {_FAR}", off=True, at=str(place))


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
