"""The server itself: eight routes around one ``PresenceClient``, which lives as long as the process.

A request costs one call of the client and next to nothing else. Calls of all requests that run in the same
turn of the event loop travel in one frame to each node, so a thousand devices that beat in the same moment
are a few frames.

Invariant: *unknown* is handed on as unknown with its reason, and no answer at all is 503; neither becomes
*offline*.
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from importlib.resources import files
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from examples.api_server import contract
from examples.api_server.auth import token_for, user_of
from examples.api_server.openapi import document_of
from examples.api_server.problems import HANDLERS, Problem
from examples.api_server.settings import LEAVE_GRACE_S, POOL, Settings
from examples.api_server.watching import serve_watch
from pulsering import PresenceClient, Snapshot, Status

__all__ = ["ApiServer", "create", "make_app"]

BEATS_PER_TTL: Final = 2
"""One heartbeat may get lost and the user is still online."""

_PAGE: Final = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_PAGE_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class ApiServer:
    """The endpoints. ``presence`` is there while the application runs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.presence: PresenceClient
        folder = files("examples.api_server") / "page"
        self._files = {path: (folder / name).read_bytes() for path, (name, _) in _PAGE.items()}
        self._document = _compact(document_of())
        self._beaten = b""

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Hold one client, for this process and this event loop.

        If no node answers now, the process ends: whoever started it tries again, and nobody sends it requests
        before. Later on it goes on without the cluster, with 503.
        """
        async with PresenceClient.from_url(self.settings.url, **POOL) as presence:
            self.presence = presence
            self._beaten = _compact({"beat_again_ms": presence.topology.ttl_ms // BEATS_PER_TTL})
            yield

    def routes(self) -> list[BaseRoute]:
        """All there is."""
        return [
            Route("/session", self.post_session, methods=["POST"]),
            Route("/heartbeat", self.post_heartbeat, methods=["POST"]),
            Route("/leave", self.post_leave, methods=["POST"]),
            Route("/status", self.get_status),
            Route("/healthz", self.get_health),
            Route("/openapi.json", self.get_document),
            WebSocketRoute("/watch", self.watch),
            *(Route(path, self.get_page, include_in_schema=False) for path in _PAGE),
        ]

    # --- What devices say
    # ------------------------------------------------------------------------------------

    async def post_session(self, request: Request) -> Response:
        """Who somebody says to be, believed: the stub."""
        user = contract.name_of_body(_kind(request), await _body(request))
        friends = [friend for friend in self.settings.friends if friend != user]
        session = {"id": user, "token": token_for(user, self.settings.secret), "friends": friends}
        return _json(_compact(session), HTTPStatus.CREATED)

    async def post_heartbeat(self, request: Request) -> Response:
        """The user of the token is alive; the answer says when to say so again."""
        await self.presence.heartbeat(self._user(request))
        return _json(self._beaten)

    async def post_leave(self, request: Request) -> Response:
        """The user of the token is gone, unless another heartbeat comes at once."""
        kind, body = _kind(request), await _body(request)
        form = body or kind.startswith("application/x-www-form-urlencoded")
        user = self._known(contract.token_of_form(kind, body) if form else _bearer(request))
        await self.presence.leave(user, grace=LEAVE_GRACE_S)
        return Response(status_code=HTTPStatus.NO_CONTENT)

    # --- What they ask
    # ---------------------------------------------------------------------------------------

    async def get_status(self, request: Request) -> Response:
        """All users of a page in one question. Who may see whom is yours to say, here."""
        self._user(request)
        ids = contract.ids_of_query(request.query_params.multi_items())
        snapshot = await self.presence.get_many(ids, last_seen=True)
        return _json(_compact({"statuses": statuses_of(ids, snapshot)}))

    async def watch(self, websocket: WebSocket) -> None:
        """Changes, pushed: ``watching`` has what is said."""
        # All that a page watches may wait for it at once: a page that does not read is never cut off.
        watch = partial(self.presence.watch, (), buffer=contract.WATCHED_MAX)
        await serve_watch(websocket, self._user_of, watch, self.presence.topology.ttl_ms)

    async def get_health(self, _: Request) -> Response:
        """Whether this process works, which is not whether the cluster does.

        A cluster that is away makes every API server answer 503 for a while. Were they all restarted, or
        taken out of the load balancer for it, the rest of what they do would be gone too.
        """
        nodes = self.presence.stats()["nodes"].values()
        ready = sum(1 for node in nodes if node["ready"])
        return _json(_compact({"status": "ok", "nodes_connected": ready, "nodes": len(nodes)}))

    async def get_document(self, _: Request) -> Response:
        """What this server takes and gives, for machines."""
        return _json(self._document)

    async def get_page(self, request: Request) -> Response:
        """The page, in three files."""
        path = request.url.path
        return Response(self._files[path], headers=_PAGE_HEADERS, media_type=_PAGE[path][1])

    # --- Who they are
    # ----------------------------------------------------------------------------------------

    def _user(self, request: Request) -> str:
        return self._known(_bearer(request))

    def _user_of(self, token: str) -> str | None:
        return user_of(token, self.settings.secret)

    def _known(self, token: str) -> str:
        user = self._user_of(token)
        if user is None:
            detail = "who is this? Show the token of POST /session: Authorization: Bearer TOKEN"
            raise Problem(HTTPStatus.UNAUTHORIZED, detail, {"WWW-Authenticate": "Bearer"})
        return user


def statuses_of(ids: list[str], snapshot: Snapshot) -> list[dict[str, Any]]:
    """An entry for each id, in their order: with a ``reason`` if it is unknown, ``last_seen_s`` if known."""
    entries: list[dict[str, Any]] = []
    for user, status, reason, seen_s in zip(ids, snapshot, snapshot.reasons, snapshot.last_seen, strict=True):
        entry: dict[str, Any] = {"id": user, "status": status.name.lower()}
        if status is Status.UNKNOWN:
            entry["reason"] = reason.name.lower()
        if seen_s is not None:
            entry["last_seen_s"] = round(seen_s)
        entries.append(entry)
    return entries


def make_app(settings: Settings) -> Starlette:
    """An application with these settings; its client opens with it and closes with it."""
    server = ApiServer(settings)
    return Starlette(routes=server.routes(), exception_handlers=dict(HANDLERS), lifespan=server.lifespan)


def create() -> Starlette:
    """What uvicorn calls in each of its processes: settings from the environment."""
    return make_app(Settings.from_environment(os.environ))


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else ""


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "")


async def _body(request: Request) -> bytes:
    """All of a body that may only be small; a larger one is not even read."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > contract.BODY_BYTES_MAX:
            detail = f"a body of at most {contract.BODY_BYTES_MAX} bytes is needed"
            raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
    return bytes(body)


def _compact(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _json(body: bytes, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(body, status, {"Cache-Control": "no-store"}, "application/json")
