"""The whole cluster as one node sees it: what each of the others says of itself, asked for over HTTP.

Nodes do not talk to each other, except here, and only while somebody looks at a console: the node asks the
admin ports of all others for their ``/summary``, a few at a time and with little patience. However many
look, it asks once (*a look*) and keeps what it heard for a second, or longer in a large cluster. A summary is
passed on as the bytes that came, so that a thousand of them are never made into text again in the loop that
serves.

A node that does not answer is part of the document, with why, and what to do next. A token is passed on only
to nodes that listen beyond loopback, as the others ask for none.
Invariant: an answer is at most what its limits allow, comes from the node that was meant, and has its age.
"""

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import aiohttp

from pulsering import limits
from pulsering.errors import ConfigError
from pulsering_server.admin_http import AdminHttp, Nowhere, Place, TooLong, place_of, reason_of
from pulsering_server.admin_tokens import VARIABLE
from pulsering_server.config_admin import is_loopback
from pulsering_server.trust import TLS_VARIABLES

if TYPE_CHECKING:
    from pulsering_server.config_cores import Shard

__all__ = ["ClusterView", "NoAnswer", "admin_of"]

SKIPPED_LETTERS_MAX: Final = limits.ADMIN_LINE_BYTES // 2
"""Of the names that a count skips, in a request line."""

_NOWHERE: Final = {"address": None, "zone": "", "weight": 0, "share_first": 0.0, "share": 0.0, "admin": None}
"""A node that the topology does not have."""


class NoAnswer(Exception):
    """A node that cannot be asked, or does not answer as it should: ``problem`` in a word, and what to do."""

    def __init__(self, problem: str, message: str, advice: str) -> None:
        super().__init__(message)
        self.problem = problem
        self.message = message
        self.advice = advice


class _Heard(NamedTuple):
    """What came of asking one node; it is ``leaving`` if the topology has it no more."""

    node: dict[str, Any]
    leaving: bool
    admin: Place | None = None
    at_s: float = 0.0
    took_ms: float = 0.0
    summary: bytes | None = None
    cold: bool = False
    silence: NoAnswer | None = None


def admin_of(shard: "Shard", asker: "Shard") -> Place:
    """Where ``asker`` can ask ``shard`` over HTTP; ``NoAnswer`` if nowhere, as far as the file says."""
    place, line = place_of(shard), f"set `admin` of node {shard.node.name} in cluster.yaml"
    if place is Nowhere.OFF:
        message = f"{shard.name} has no admin port"
        raise NoAnswer(place, message, f"{line}, and restart it when all are ready")
    if place is Nowhere.ANY_PORT:
        message = f"{shard.name} has any free port, which it alone knows"
        raise NoAnswer(place, message, f"{line} to a number")
    if not place.exposed and not _one_machine(shard.address.host, asker.address.host):
        message = f"the admin port of {shard.name} is on loopback of another machine"
        raise NoAnswer(
            "loopback", message, f"{line} to host:port, with a token, or open its own console there"
        )
    return place


def _one_machine(host: str, other: str) -> bool:
    return host == other or (is_loopback(host) and is_loopback(other))


class ClusterView:
    """``cluster`` as its node ``name`` sees it.

    ``nodes()`` are those of its topology, as in its status, ``shards()`` those of its file; ``replicas()`` is
    how many owners a user has. ``own`` makes its own summary, told whom a count of users skips. With
    ``trust`` nodes are asked by HTTPS. In the end ``await close()``.
    """

    def __init__(
        self,
        name: str,
        cluster: str,
        *,
        nodes: Callable[[], list[dict[str, Any]]],
        shards: Callable[[], Iterable["Shard"]],
        replicas: Callable[[], int],
        own: Callable[[tuple[str, ...]], Awaitable[bytes]],
        trust: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        self._name = name
        self._cluster = cluster
        self._nodes = nodes
        self._shards = shards
        self._replicas = replicas
        self._own = own
        self._loop = asyncio.get_running_loop()
        self._http = AdminHttp(
            trust,
            at_once=limits.ADMIN_ASKED_AT_ONCE,
            timeout_s=limits.ADMIN_PEER_MS / 1000,
            bytes_max=limits.ADMIN_SUMMARY_BYTES,
        )
        self._look: asyncio.Task[None] | None = None
        self._heard: dict[str, _Heard] = {}
        self._skipped: tuple[str, ...] = ()
        self._asker: Shard | None = None
        self._turn = 0
        self._token: str | None = None
        self._until_s = 0.0
        self.looks = 0
        """How often all were asked."""

    async def document(self, token: str | None) -> bytes:
        """What all nodes said, as JSON. ``token`` is the Authorization that the caller came with."""
        fresh = self._loop.time() < self._until_s and token == self._token
        while not fresh:
            if self._look is None:
                self._look = asyncio.create_task(self._ask_all(token))
                self._look.add_done_callback(self._looked)
            await asyncio.shield(self._look)
            fresh = token == self._token  # else it was somebody else's look
        return self._written()

    async def close(self) -> None:
        """Ask nobody any more."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.gather(self._look, return_exceptions=True)
        await self._http.close()

    def _looked(self, _look: "asyncio.Task[None]") -> None:
        self._look = None

    async def _ask_all(self, token: str | None) -> None:
        asked = self._whom()
        names = list(asked)
        # Each look begins with another node, so that all have their turn where a look ends before its end.
        self._turn = (self._turn + limits.ADMIN_ASKED_AT_ONCE) % len(names)
        places = asyncio.Semaphore(limits.ADMIN_ASKED_AT_ONCE)
        end_s = self._loop.time() + limits.ADMIN_LOOK_MS / 1000

        async def ask(before: _Heard) -> _Heard:
            async with places:
                in_time = self._loop.time() < end_s
                return await self._ask(before, token if in_time else None, in_time=in_time)

        async with asyncio.TaskGroup() as group:
            asking = {
                name: group.create_task(ask(asked[name]))
                for name in names[self._turn :] + names[: self._turn]
            }
        heard = {name: asking[name].result() for name in names}
        # A node that has left and is gone has ended as it should.
        self._heard = {name: one for name, one in heard.items() if not (one.leaving and one.silence)}
        self._skipped = self._to_skip()
        self._token = token
        self.looks += 1
        rest_s = max(limits.ADMIN_LOOK_REST_MS / 1000, len(names) / limits.ADMIN_ASKED_PER_S)
        self._until_s = self._loop.time() + rest_s

    def _whom(self) -> dict[str, _Heard]:
        """All nodes of the topology, those that left it and still answered at the last look, and this one."""
        asked = {node["name"]: _Heard(node, leaving=False) for node in self._nodes()}
        gone = {
            name: heard._replace(leaving=True) for name, heard in self._heard.items() if name not in asked
        }
        asked |= gone
        if self._name not in asked:
            asked[self._name] = _Heard(_NOWHERE | {"name": self._name}, leaving=True)
        return asked

    async def _ask(self, before: _Heard, token: str | None, *, in_time: bool) -> _Heard:
        name, admin, started_s = before.node["name"], before.admin, self._loop.time()
        silence = body = None
        try:
            if name == self._name:
                body = await self._own(self._skipped)
            elif not in_time:
                raise _no_time(name)
            else:
                admin = admin if before.leaving and admin else self._where(name)
                body = await self._summary_of(before.node, admin, token)
            found = _checked(body, name, self._cluster, admin)
        except NoAnswer as caught:
            silence, body, found = caught, None, {}
        now_s = self._loop.time()
        took_ms = round((now_s - started_s) * 1000, 1)
        cold = bool(found.get("warming_ms"))
        return _Heard(before.node, before.leaving, admin, now_s, took_ms, body, cold, silence)

    def _to_skip(self) -> tuple[str, ...]:
        """Whom a count passes over: who is silent, and who is cold where each user has another owner.

        As far as it fits into a request; what is counted without the rest is a lower bound.
        """
        nodes = [heard for heard in self._heard.values() if not heard.leaving]
        silent = [heard.node["name"] for heard in nodes if heard.silence]
        cold = [heard.node["name"] for heard in nodes if heard.cold]
        room = SKIPPED_LETTERS_MAX
        skipped: list[str] = []
        for name in silent + cold if len(silent) + len(cold) < self._replicas() else silent:
            room -= len(name) + len("&skipped=")
            if room >= 0:
                skipped.append(name)
        return tuple(skipped)

    def _where(self, name: str) -> Place:
        shards = {shard.name: shard for shard in self._shards()}
        self._asker = shards.get(self._name, self._asker)
        if name not in shards or self._asker is None:
            message = f"the file of {self._name} does not say where the admin port of {name} is"
            raise NoAnswer("unnamed", message, "compare the cluster.yaml of both")
        return admin_of(shards[name], self._asker)

    async def _summary_of(self, node: dict[str, Any], admin: Place, token: str | None) -> bytes:
        name: str = node["name"]
        authorization = token if token and admin.exposed else ""
        params = [("skipped", other) for other in self._skipped]
        try:
            answer = await self._http.get(admin, "/summary", params, authorization)
        except (aiohttp.ClientError, OSError, ConfigError) as error:
            raise _silent(name, node.get("service", name), admin, error) from None
        except TooLong:
            raise _stranger(name, admin) from None
        if answer.status != HTTPStatus.OK:
            raise _refused(name, admin, answer.status)
        return answer.body

    def _written(self) -> bytes:
        now_s = self._loop.time()
        head = {"from": self._name, "rest_ms": round(max(0.0, self._until_s - now_s) * 1000)}
        rows = b",\n".join(_row(heard, now_s) for heard in self._heard.values())
        return json.dumps(head)[:-1].encode() + b', "nodes": [\n' + rows + b"\n]}\n"


def _row(heard: _Heard, now_s: float) -> bytes:
    silence = heard.silence
    row = heard.node | {
        "admin": str(heard.admin) if heard.admin is not None else heard.node["admin"],
        "leaving": heard.leaving,
        "age_ms": round((now_s - heard.at_s) * 1000),
        "took_ms": heard.took_ms,
        "problem": silence.problem if silence else None,
        "message": silence.message if silence else None,
        "advice": silence.advice if silence else None,
    }
    return (
        json.dumps(row, ensure_ascii=False)[:-1].encode()
        + b', "summary": '
        + (heard.summary or b"null")
        + b"}"
    )


def _checked(body: bytes, name: str, cluster: str, admin: Place | None) -> dict[str, Any]:
    """The summary that it is, if it is one, and of the node that was meant."""
    try:
        found: dict[str, Any] = json.loads(body.decode("utf-8"), parse_constant=_no_number)
        told = (found["node"], found["cluster"])
    except (ValueError, RecursionError, KeyError, TypeError):
        raise _stranger(name, admin) from None
    if told != (name, cluster):
        advice = "compare `admin` of both in cluster.yaml: two nodes want one port"
        who = f"node {told[0]} of cluster {told[1]}"[:100]
        raise NoAnswer("other", f"at {admin}, meant to be {name}, answers {who}", advice)
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _stranger(name: str, admin: Place | None) -> NoAnswer:
    advice = f"see what listens there, on the machine of {name}: `ss -ltnp`"
    return NoAnswer("other", f"what answers at {admin} is no node of ours", advice)


def _refused(name: str, admin: Place, status: int) -> NoAnswer:
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        advice = f"give this page a token of its `admin.token_file` or `{VARIABLE}`"
        return NoAnswer("token", f"{name} at {admin} wants a token", advice)
    if status == HTTPStatus.NOT_FOUND:
        advice = "upgrade it; until then ask it with `pulsering status`"
        return NoAnswer("old", f"{name} at {admin} is older than the console", advice)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        advice = f"wait, or see on its machine who is connected: `ss -tn sport = :{admin.address.port}`"
        return NoAnswer("full", f"{name} has all the admin connections that it may have", advice)
    return NoAnswer("other", f"{name} at {admin} answers with status {status}", f"read the log of {name}")


def _silent(name: str, service: str, admin: Place, error: BaseException) -> NoAnswer:
    look = f"`systemctl status pulsering@{service}`"
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionRefusedError):
        advice = f"is it running? {look} on its machine; if not, its log says why; start it"
        if service != name:
            advice += f"; `systemctl reload pulsering@{service}` starts a core that was drained"
        return NoAnswer("refused", f"nothing listens at {admin}", advice)
    if isinstance(error, TimeoutError):
        message = f"{admin} does not answer within {limits.ADMIN_PEER_MS / 1000:g} s"
        return NoAnswer(
            "timeout", message, f"it hangs, or the network does: `pulsering status`, then there {look}"
        )
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        advice = "check the name in cluster.yaml, and the resolver of this machine"
        return NoAnswer("name", f"this machine does not know {admin.address.host}", advice)
    if isinstance(error, ConfigError | ssl.SSLError | aiohttp.ClientConnectorCertificateError):
        advice = (
            f"this node trusts whom `{TLS_VARIABLES['tls_ca']}` in its environment names, or this machine;"
            " name who certifies your nodes, and restart it when all are ready"
        )
        return NoAnswer("trust", f"{admin} cannot be asked: {reason_of(error)}", advice)
    message = f"{admin} cannot be asked: {reason_of(error)}"
    return NoAnswer("lost", message, f"does it serve? `pulsering status`; on its machine {look}")


def _no_time(name: str) -> NoAnswer:
    message = f"{name} was not asked: too many others did not answer"
    return NoAnswer("not_asked", message, "wait for its turn; look at the others first")
