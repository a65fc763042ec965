"""The web console: a page about the whole cluster, in static files, and the two documents it is fed with.

``/`` and what belongs to it are files of the package and say nothing about the cluster, so they need no
token: a browser cannot show one before there is a page to type it into. ``/summary`` is what a console shows
of this node, ``/cluster`` that of all nodes (``admin_cluster``). The page asks nobody but the node it came
from.

Invariant: the page runs no script and loads nothing from anywhere but this port, whatever the documents say.
"""

import asyncio
import json
import os
import ssl
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiohttp import web

from pulsering_server.admin_cluster import ClusterView
from pulsering_server.admin_status import connections
from pulsering_server.config_files import tls_names
from pulsering_server.trust import trust_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pulsering.credentials import TlsFiles
    from pulsering_server.admin_status import StatusPage
    from pulsering_server.certificates import TlsNames
    from pulsering_server.config import ClusterConfig
    from pulsering_server.config_cores import Shard
    from pulsering_server.config_watch import ConfigWatch
    from pulsering_server.listener import Listener

__all__ = ["OPEN_PATHS", "Console", "summary_of"]

TALKERS: Final = 5
TALKERS_S: Final = 5.0
"""How many connections a summary names, and for how long: to find them, all are looked at."""

EVENTS: Final = 20
PROBLEMS: Final = 5
PROBLEM_LETTERS: Final = 300
"""The last events, and the first problems of a refused configuration, each cut."""

_KINDS: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_FILES: Final = {"/": "index.html"} | {
    f"/console/{name}": name
    for name in ("console.css", "console.js", "model.js", "draw.js", "dom.js", "icon.svg")
}
OPEN_PATHS: Final = frozenset(_FILES)
"""What needs no token."""

_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}

_TAKEN: Final = (
    "node", "cluster", "agent", "boot_id", "uptime_ms", "ready", "draining", "removed", "needed_ms",
    "warming_ms", "cold", "overloaded", "epoch", "topology_hash", "ttl_ms", "replicas", "users", "rates",
    "unknown", "gets", "span_ms", "stalls",
)  # fmt: skip
"""Of the status, as it is."""

_COLUMNS: Final = ("ago_ms", "span_ms", "users", "heartbeats_per_s", "gets_per_s", "unknown_per_s")
_P99: Final = ("get", "heartbeat", "loop_lag")


class _File(NamedTuple):
    body: bytes
    kind: str


def summary_of(status: dict[str, Any], talkers: list[dict[str, Any]]) -> dict[str, Any]:
    """What a console shows of a node, from its status: a few kilobytes, the last minutes as columns."""
    table, open_now, config, history = (
        status[name] for name in ("table", "connections", "config", "history")
    )
    return {
        **{name: status[name] for name in _TAKEN},
        "p99_ms": {name: status["latency_ms"][name]["p99"] for name in _P99},
        "memory_bytes": table["memory_bytes"],
        "memory_max_bytes": table["memory_max_bytes"],
        "connections": open_now["open"],
        "connections_max": open_now["max"],
        "config_ok": config["last_reload_ok"],
        "topology_frozen": config["topology_frozen"],
        "tls_left_ms": min((left for left in status["tls"].values() if left is not None), default=None),
        "config_problems": [problem[:PROBLEM_LETTERS] for problem in config["problems"][:PROBLEMS]],
        "events": status["events"][-EVENTS:],
        "history": {
            **{name: [row[name] for row in history] for name in _COLUMNS},
            "p99_ms": {name: [row["latency_ms"][name]["p99"] for row in history] for name in _P99},
        },
        "talkers": talkers,
    }


class Console:
    """The console of the node behind ``listener``; ``page`` is its status. In the end ``await close()``.

    ``secure`` says that admin ports speak HTTPS.
    """

    def __init__(
        self,
        listener: "Listener",
        page: "StatusPage",
        config: "ClusterConfig",
        watch: "ConfigWatch | None" = None,
        *,
        secure: bool = False,
    ) -> None:
        self._listener = listener
        self._core = listener.core
        self._page = page
        self._config = config
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self._talkers: list[dict[str, Any]] = []
        self._talkers_until_s = 0.0
        self._trust: TlsFiles | None = None
        self._shown: TlsNames | None = None
        folder = files("pulsering_server") / "console"
        self._files = {
            path: _File((folder / name).read_bytes(), _KINDS[name.rpartition(".")[2]])
            for path, name in _FILES.items()
        }
        self.view = ClusterView(
            self._core.name,
            self._core.topology.cluster,
            nodes=self._page.nodes,
            shards=self._shards,
            replicas=lambda: self._core.topology.replicas,
            own=self._summary,
            trust=self._context if secure else None,
        )

    def routes(self) -> list[web.RouteDef]:
        """What it answers."""
        return [
            web.get("/", self._get_file),
            web.get("/console/{name}", self._get_file),
            web.get("/cluster", self._get_cluster),
            web.get("/summary", self._get_summary),
        ]

    def _now(self) -> "ClusterConfig":
        return self._watch.config if self._watch is not None else self._config

    def _context(self) -> ssl.SSLContext:
        """Whom to trust of the other nodes. Where they ask who comes, this one shows its own certificate."""
        names = tls_names(self._now().tls, self._watch.path.parent if self._watch is not None else Path())
        shown = names if names is not None and names.client_ca is not None else None
        if self._trust is None or shown != self._shown:
            certificate, key = (None, None) if shown is None else shown[:2]
            self._trust, self._shown = trust_of(os.environ, certificate, key), shown
        return self._trust.current()

    async def close(self) -> None:
        """Ask no other node any more."""
        await self.view.close()

    def _shards(self) -> "Iterable[Shard]":
        return self._now().shards

    async def _get_file(self, request: web.Request) -> web.Response:
        found = self._files.get(request.path)
        if found is None:
            raise web.HTTPNotFound
        return web.Response(body=found.body, content_type=found.kind, charset="utf-8", headers=_HEADERS)

    async def _get_cluster(self, request: web.Request) -> web.Response:
        body = await self.view.document(request.headers.get("Authorization"))
        return web.Response(body=body, content_type="application/json", charset="utf-8")

    async def _get_summary(self, request: web.Request) -> web.Response:
        body = await self._summary(tuple(request.query.getall("skipped", [])))
        return web.Response(body=body, content_type="application/json", charset="utf-8")

    async def _summary(self, skipped: tuple[str, ...]) -> bytes:
        now_s = self._loop.time()
        if now_s >= self._talkers_until_s:
            self._talkers_until_s = now_s + TALKERS_S
            self._talkers = (await connections(self._listener, "received", TALKERS))["connections"]
        summary = summary_of(self._page.document(), self._talkers)
        counted = self._core.count(skipped, self._listener.now_ms())
        summary |= {"users_first": counted.online, "skipped": sorted(skipped)}
        return json.dumps(summary, ensure_ascii=False, separators=(",", ":")).encode()
