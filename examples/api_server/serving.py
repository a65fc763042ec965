"""How uvicorn is set up for this server, each setting with its reason, and a way to run it inside a loop.

On a command line the same is ``python -m examples.api_server``. Invariant: a socket that listens is bound
before anything is started, so a port that is taken is known first.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette

from examples.api_server.contract import WATCH_BYTES_MAX

__all__ = ["HOW", "NotStarted", "listen", "serving", "url_of"]

BACKLOG: Final = 2048
"""Connections that wait to be accepted: all devices come back at once after a restart."""

SEND_BUFFER_BYTES: Final = 64 << 10
"""SO_SNDBUF: a page that does not read would else have 4 MB of old changes waiting for it in the kernel."""

HOW: Final[dict[str, Any]] = {
    "backlog": BACKLOG,
    "loop": "uvloop",
    "http": "httptools",
    # The implementation that makes a sender wait for a slow reader, since uvicorn 0.52.1. Without that, what
    # a page does not read would pile up here instead of being coalesced by the client of Pulsering.
    "ws": "websockets-sansio",
    "ws_max_size": WATCH_BYTES_MAX,
    # A change is fifty bytes: compression would save nothing and hold some hundred kilobytes a page.
    "ws_per_message_deflate": False,
    # Longer than devices are silent between two heartbeats, or each of those pays for a connection of its
    # own.
    "timeout_keep_alive": 30,
    # WebSockets are told to come back (1012), and whoever does not answer in this time is cut off.
    "timeout_graceful_shutdown": 2,
    # A line for each heartbeat is what most of the CPU would go into.
    "access_log": False,
    "log_level": "warning",
    "server_header": False,
    "lifespan": "on",
}


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, so whoever connects now is served soon; port 0 is any that is free.

    OSError, with the address in it, if that is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)  # accepted ones inherit it
        bound.bind((host, port))
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise OSError(error.errno, f"{host}:{port}: {error.strerror}") from None
    return bound


def url_of(bound: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class NotStarted(RuntimeError):
    """The application ended before it served."""


class _Server(uvicorn.Server):
    """One that says when it is up, or has given up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.settled = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As ever, but what does not start ends its task and not the process around it."""
        try:
            await super().startup(sockets)
        except SystemExit:
            raise NotStarted("the API server did not start; why is in its log") from None
        finally:
            self.settled.set()


@asynccontextmanager
async def serving(app: Starlette, bound: socket.socket) -> AsyncIterator[asyncio.Task[None]]:
    """The application, on this socket, as long as the context; its task ends earlier on SIGINT and SIGTERM.

    ``NotStarted`` if no node of the cluster can be reached.
    """
    server = _Server(uvicorn.Config(app, **HOW))
    task = asyncio.create_task(server.serve([bound]), name="api server")
    try:
        await server.settled.wait()
        if not server.started:
            await task
        yield task
    finally:
        server.should_exit = True
        await asyncio.wait((task,))
        bound.close()
