"""The admin port: one node's metrics, health and status over HTTP, and two ways to steer it.

It runs in the event loop that serves data, so that *healthy* means that loop; what it costs there is kept
small, and nothing of it is on the way of a frame. aiohttp speaks HTTP, this bounds what a peer may cost: a
few connections at once, one request each, all of it within ``ADMIN_REQUEST_MS``, short lines and hardly a
body.

GET needs a token only beyond loopback, and never for the two probes and the console's files; POST always
does, so without one nobody steers. Where none is needed, the name that it is asked by counts, lest a page of
another site reads along in an operator's browser (``admin_hosts``). A node does not listen beyond loopback
without a token unless its configuration says so.
Invariant: whatever comes here, the data plane goes on.
"""

import asyncio
import ipaddress
import json
import logging
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

import structlog
from aiohttp import web
from prometheus_client import ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from pulsering import limits
from pulsering_server.admin_console import OPEN_PATHS, Console
from pulsering_server.admin_hosts import is_known_host, names_in
from pulsering_server.admin_recent import Recent
from pulsering_server.admin_status import SORTS, StatusPage, connections
from pulsering_server.admin_tls import TlsGate
from pulsering_server.admin_tokens import VARIABLE, Tokens
from pulsering_server.auth import Role
from pulsering_server.config_values import Address
from pulsering_server.logs import printable
from pulsering_server.metrics import NodeCollector

if TYPE_CHECKING:
    from pulsering_server.config import ClusterConfig
    from pulsering_server.config_watch import ConfigWatch
    from pulsering_server.door import Door
    from pulsering_server.listener import Listener

__all__ = ["Admin", "Exposed"]

LOOK_S: Final = 1.0
"""How often slow peers are looked for."""

STOP_S: Final = 1.0
"""For answers that are under way when the node ends."""

ROWS: Final = 100
ROWS_MAX: Final = 1000
"""Connections that are listed, by default and at most."""

_OPEN: Final = OPEN_PATHS | {"/-/healthy", "/-/ready"}
"""What needs no token: the console's own files, and the two probes."""

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_EOF: Final = b"# EOF\n"
"""How OpenMetrics ends."""
_FULL: Final = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

log = structlog.get_logger("pulsering_server.admin")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Exposed(ValueError):
    """It would listen beyond loopback without a token; the message says what to do."""


class Admin:
    """The admin port of the node behind ``listener``. ``await open(…)``, and in the end ``await close()``.

    ``drain`` is called when somebody asks the node to stop; ``watch`` reads the configuration again.
    """

    def __init__(
        self,
        listener: "Listener",
        config: "ClusterConfig",
        tokens: Tokens,
        *,
        drain: Callable[[], None],
        watch: "ConfigWatch | None" = None,
        door: "Door | None" = None,
    ) -> None:
        self._listener = listener
        self._core = listener.core
        self._config = config
        self._tokens = tokens
        self._drain = drain
        self._watch = watch
        self._recent = Recent(listener.core, listener.now_ms())
        self._page = StatusPage(listener, self._recent, config, watch)
        secure = door is not None and config.tls.admin
        self._console = Console(listener, self._page, config, watch, secure=secure)
        self._metrics = NodeCollector(listener)
        self._process = ProcessCollector(registry=None)
        self._loop = asyncio.get_running_loop()
        self._gate: TlsGate | None = None
        if door is not None and config.tls.admin:
            self._gate = TlsGate(self._loop, lambda: door.tls)
        self._server: asyncio.Server | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._since_s: dict[web.RequestHandler, float] = {}
        self._exposed = False
        self.address = Address("", 0)
        app = web.Application(middlewares=[self._guard], client_max_size=limits.ADMIN_BODY_BYTES)
        app.add_routes(
            [
                web.get("/metrics", self._get_metrics),
                web.get("/-/healthy", self._get_healthy),
                web.get("/-/ready", self._get_ready),
                web.get("/status", self._get_status),
                web.get("/connections", self._get_connections),
                web.post("/-/reload", self._post_reload),
                web.post("/-/drain", self._post_drain),
                *self._console.routes(),
            ]
        )
        self._paths = sorted({route.resource.canonical for route in app.router.routes() if route.resource})
        self._runner = web.AppRunner(
            app,
            handle_signals=False,
            access_log=None,
            logger=_http_log(),
            shutdown_timeout=STOP_S,
            lingering_time=STOP_S,
            max_line_size=limits.ADMIN_LINE_BYTES,
            max_field_size=limits.ADMIN_LINE_BYTES,
        )

    # -- the port --------------------------------------------------------------------------------------------

    async def open(self, where: Address) -> Address:
        """Listen there (port 0: any free one); ``OSError``, or ``Exposed`` if a token is missing."""
        infos = await self._loop.getaddrinfo(
            where.host, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, proto, _, name = infos[0]
        self._exposed = not ipaddress.ip_address(name[0]).is_loopback
        if self._exposed and not self._asks and not self._config.admin.insecure_no_token:
            raise Exposed(
                f"{where} is beyond loopback, and there is no token: set admin.token_file or {VARIABLE},"
                " or say admin.insecure_no_token: true"
            )
        sock = socket.socket(family, kind, proto)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setblocking(False)
            sock.bind(name)
            self.address = Address(*sock.getsockname()[:2])
            await self._runner.setup()
            self._server = await self._loop.create_server(
                self._accept, sock=sock, backlog=limits.ADMIN_CONNECTIONS
            )
        except BaseException:
            sock.close()
            await self._runner.cleanup()
            raise
        self._keeper = asyncio.create_task(self._keep())
        return self.address

    async def close(self) -> None:
        """Stop listening; answers that are under way have ``STOP_S``."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        await self._console.close()
        if self._gate is not None:
            self._gate.close()
        await self._runner.cleanup()

    def _accept(self) -> asyncio.Protocol:
        http = self._runner.server
        assert http is not None
        waiting = 0 if self._gate is None else len(self._gate)
        if len(http.connections) + waiting >= limits.ADMIN_CONNECTIONS:
            log.warning("admin.full", connections=limits.ADMIN_CONNECTIONS)
            return _Full()
        return http() if self._gate is None else self._gate.admit(http())

    async def _keep(self) -> None:
        """Cut off who takes too long, and note what the node did lately."""
        while True:
            await asyncio.sleep(LOOK_S)
            self._recent.note(self._listener.now_ms())
            http = self._runner.server
            assert http is not None
            now_s = self._loop.time()
            self._since_s = {peer: self._since_s.get(peer, now_s) for peer in http.connections}
            for peer, since_s in self._since_s.items():
                if now_s - since_s >= limits.ADMIN_REQUEST_MS / 1000 and peer.transport is not None:
                    log.warning("admin.slow", peer=_peer(peer.transport))
                    peer.transport.abort()

    # -- every request ---------------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let in who may, answer whatever happens, and end the connection."""
        try:
            response = self._refusal(request) or await handler(request)
        except web.HTTPNotFound:
            response = _text(HTTPStatus.NOT_FOUND, f"there are: {' '.join(self._paths)}")
        except web.HTTPException as error:
            response = _text(HTTPStatus(error.status), error.reason)
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except Exception:
            # A fault of ours may cost this answer, never the node.
            log.exception("admin.fault", path=request.path)
            response = _text(HTTPStatus.INTERNAL_SERVER_ERROR, "a defect of the node; its log says more")
        response.headers.update(_HEADERS)
        response.force_close()
        return response

    def _refusal(self, request: web.Request) -> web.Response | None:
        if (request.content_length or 0) > limits.ADMIN_BODY_BYTES:
            return _text(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "no request here needs a body")
        steers = request.method not in ("GET", "HEAD")
        if not steers and request.path in _OPEN:
            return None
        if not steers and (not self._exposed or not self._asks):
            return self._rebound(request)
        if not self._asks:
            message = f"nobody may do this: set admin.token_file or {VARIABLE}, and start the node again"
            return _text(HTTPStatus.FORBIDDEN, message)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._knows(token.strip(), steers=steers):
            return None
        log.warning("admin.refused", peer=_peer(request.transport), path=request.path, shown=bool(token))
        response = _text(HTTPStatus.UNAUTHORIZED, "needs the header 'Authorization: Bearer TOKEN'")
        response.headers["WWW-Authenticate"] = "Bearer"
        return response

    def _rebound(self, request: web.Request) -> web.Response | None:
        """Refuse whoever came by a name that anybody could have given this node."""
        field = request.headers.get("Host", "localhost")
        config = self._watch.config if self._watch is not None else self._config
        if is_known_host(field, names_in(config)):
            return None
        log.warning("admin.unknown_host", peer=_peer(request.transport), host=printable(field))
        return _text(
            HTTPStatus.MISDIRECTED_REQUEST,
            "not by this name: ask by an address, as localhost, or by a host that cluster.yaml gives a node",
        )

    @property
    def _asks(self) -> bool:
        """Whether there is any token that could be shown."""
        return bool(self._tokens) or self._core.auth is not None

    def _knows(self, token: str, *, steers: bool) -> bool:
        """Whether it is a token of this port, or one of the data port whose role is enough."""
        found = self._core.auth.identify(token) if self._core.auth is not None else None
        return self._tokens.opens(token) or (found is not None and (not steers or found.role is Role.ADMIN))

    # -- what is asked ---------------------------------------------------------------------------------------

    async def _get_metrics(self, request: web.Request) -> web.Response:
        # Listing a process's files takes milliseconds where there are thousands: beside the loop.
        process = await asyncio.to_thread(lambda: list(self._process.collect()))
        families = [*self._metrics.collect(), *process]
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        body, part = bytearray(), b""
        for family in families:
            part = encode(_One(family))
            body += part.removesuffix(_EOF)
            await asyncio.sleep(0)  # all of it would hold the loop for milliseconds
        if part.endswith(_EOF):
            body += _EOF
        return web.Response(body=bytes(body), headers={"Content-Type": content_type})

    async def _get_healthy(self, _request: web.Request) -> web.Response:
        return _text(HTTPStatus.OK, "healthy")

    async def _get_ready(self, request: web.Request) -> web.Response:
        now_ms = self._listener.now_ms()
        reason, warming_ms = self._core.unready(now_ms), self._core.warming_ms(now_ms)
        status = HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK
        if "json" in request.headers.get("Accept", ""):
            return _json({"ready": not reason, "reason": reason or None, "warming_ms": warming_ms}, status)
        left = f", {warming_ms / 1000:.1f} s left" if reason == "warming" else ""
        return _text(status, f"not ready: {reason}{left}" if reason else "ready")

    async def _get_status(self, _request: web.Request) -> web.Response:
        where = {"address": str(Address(*self._listener.address)), "admin": str(self.address)}
        return _json(where | self._page.document())

    async def _get_connections(self, request: web.Request) -> web.Response:
        sort, limit = request.query.get("sort", "sent"), request.query.get("limit", str(ROWS))
        if sort not in SORTS:
            return _text(HTTPStatus.BAD_REQUEST, f"sort must be one of: {', '.join(SORTS)}")
        if not (limit.isascii() and limit.isdigit() and len(limit) <= 4 and 1 <= int(limit) <= ROWS_MAX):
            return _text(HTTPStatus.BAD_REQUEST, f"limit must be from 1 to {ROWS_MAX}")
        return _json(await connections(self._listener, sort, int(limit)))

    async def _post_reload(self, request: web.Request) -> web.Response:
        if self._watch is None:
            return _text(HTTPStatus.NOT_FOUND, "this node was started without a configuration file")
        log.info("admin.reload", peer=_peer(request.transport))
        loaded = await self._watch.reload()
        answer = {"loaded": loaded, "epoch": self._core.topology.epoch, "problems": self._watch.problems}
        return _json(answer, HTTPStatus.OK if loaded else HTTPStatus.CONFLICT)

    async def _post_drain(self, request: web.Request) -> web.Response:
        log.info("admin.drain", peer=_peer(request.transport))
        self._drain()
        return _json({"draining": True, "drain_ms": limits.DRAIN_MS}, HTTPStatus.ACCEPTED)


class _One:
    """What an encoder takes for a registry: one family, collected already."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> list[Metric]:
        return [self._family]


class _Full(asyncio.Protocol):
    """A connection too many: told so, and closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.Transport", transport)
        stream.write(_FULL)
        stream.close()


class _ToLog(logging.Handler):
    """What aiohttp logs for itself, as lines of ours, which are bounded in number and escaped."""

    def emit(self, record: logging.LogRecord) -> None:
        log.warning("admin.http", message=record.getMessage())


def _http_log() -> logging.Logger:
    logger = logging.Logger("pulsering_server.admin.http", logging.WARNING)
    logger.addHandler(_ToLog())
    return logger


def _peer(transport: asyncio.BaseTransport | None) -> str:
    name: Any = transport.get_extra_info("peername") if transport is not None else None
    return str(Address(*name[:2])) if isinstance(name, tuple) and len(name) >= 2 else "unknown"


def _text(status: HTTPStatus, words: str) -> web.Response:
    return web.Response(status=status, text=f"{words}\n")


def _json(document: Any, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    return web.json_response(document, status=status, dumps=_dumps)


def _dumps(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
