"""The WebSocket ``/watch``: a page says whom it watches, and is told each state, then each change.

A page sends, as JSON text, first ``{"token": …}``, then as often as it likes ``{"add": [ids]}`` and
``{"remove": [ids]}``. It gets ``{"pulse_ms": …, "ttl_ms": …}`` first, then a ``{"id", "status", "cause"}``
for each change, with a ``reason`` if the status is unknown, and ``{}``, a pulse, every so often: a page that
hears nothing for three of them knows that the way is broken, and shows nobody as online any more.

Three tasks a socket: one listens, one pushes, one pulses; the first to end ends all three. Sending waits
while the page does not read, and while the pusher waits the client of Pulsering keeps the latest state of
each user and no more: a page that sleeps in a background tab costs what it watches, however much happens
meanwhile.

Invariant: nothing of a socket is left when it has ended, whoever ended it and how.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import Any, Final, Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect

from examples.api_server.contract import WATCHED_MAX, ids_of
from examples.api_server.problems import Problem
from pulsering import Change, PresenceError, Status

__all__ = ["PULSE_S", "Watching", "serve_watch"]

PULSE_S: Final = 5.0
"""Cheap enough for every page; thrice this is how long a page trusts a silent way."""

TOKEN_S: Final = 5.0
"""Until a page has said who it is."""

_BAD_MESSAGE, _NOT_KNOWN, _TRY_LATER, _TOO_LATE = 4400, 4401, 1013, 4408


class Refused(Exception):
    """Ends a socket with this code; the reason is for whoever wrote the page."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Watching(Protocol):
    """What is used of ``presence.watch()``."""

    def add(self, ids: Iterable[str]) -> None: ...  # noqa: D102
    def remove(self, ids: Iterable[str]) -> None: ...  # noqa: D102
    def __aiter__(self) -> AsyncIterator[Change]: ...
    async def aclose(self) -> None: ...  # noqa: D102


async def serve_watch(
    websocket: WebSocket,
    user_of: Callable[[str], str | None],
    watch_nobody: Callable[[], Watching],
    ttl_ms: int,
) -> None:
    """One page, until it goes, misbehaves, or this process ends."""
    await websocket.accept()
    try:
        await _greet(websocket, user_of)
        await websocket.send_text(_text({"pulse_ms": round(PULSE_S * 1000), "ttl_ms": ttl_ms}))
        watch = watch_nobody()
        try:
            await _first_of(_listen(websocket, watch), _push(websocket, watch), _pulse(websocket))
        finally:
            await watch.aclose()
    except WebSocketDisconnect:
        return
    except Refused as refused:
        await _end(websocket, refused.code, refused.reason)
    except PresenceError as error:
        # The page comes back after a while, and asks again from the start.
        await _end(websocket, _TRY_LATER, str(error))
        if not error.retryable:
            raise


async def _greet(websocket: WebSocket, user_of: Callable[[str], str | None]) -> None:
    """A browser cannot send headers here, and a token in the URL would be in every log on the way."""
    try:
        async with asyncio.timeout(TOKEN_S):
            message = await _message(websocket)
    except TimeoutError:
        raise Refused(_TOO_LATE, f"no token within {TOKEN_S:g} s") from None
    token = message.get("token")
    if not isinstance(token, str) or user_of(token) is None:
        raise Refused(_NOT_KNOWN, "who is this? The token of POST /session comes first")


async def _listen(websocket: WebSocket, watch: Watching) -> None:
    watched: set[str] = set()
    while True:
        message = await _message(websocket)
        try:
            added = ids_of(message["add"], WATCHED_MAX) if "add" in message else []
            removed = ids_of(message["remove"], WATCHED_MAX) if "remove" in message else []
        except Problem as problem:
            raise Refused(_BAD_MESSAGE, problem.detail) from None
        if set(message) - {"add", "remove"}:
            raise Refused(_BAD_MESSAGE, 'a message is {"add": [ids]} or {"remove": [ids]}')
        watched = (watched | set(added)) - set(removed)
        if len(watched) > WATCHED_MAX:
            raise Refused(_BAD_MESSAGE, f"at most {WATCHED_MAX} users are watched by one page")
        if added:
            watch.add(added)
        if removed:
            watch.remove(removed)


async def _push(websocket: WebSocket, watch: Watching) -> None:
    async for change in watch:
        await websocket.send_text(_text(told(change)))


async def _pulse(websocket: WebSocket) -> None:
    while True:
        await asyncio.sleep(PULSE_S)
        await websocket.send_text("{}")


async def _first_of(*ways: Coroutine[Any, Any, None]) -> None:
    """Run all until the first ends; the others are ended with it, and have ended when this returns."""
    tasks = [asyncio.create_task(way) for way in ways]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def _message(websocket: WebSocket) -> dict[str, Any]:
    event = await websocket.receive()
    if event["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(event["code"], event.get("reason"))
    try:
        message = json.loads(event.get("text") or "")
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict) or not message:
        raise Refused(_BAD_MESSAGE, "a message is text: a JSON object that says what is wanted")
    return message


async def _end(websocket: WebSocket, code: int, reason: str) -> None:
    """Say why, if anybody still listens; a close frame has room for 123 bytes."""
    try:
        await websocket.close(code, reason.encode()[:120].decode("utf-8", "ignore"))
    except (RuntimeError, WebSocketDisconnect, OSError):
        return


def told(change: Change) -> dict[str, str]:
    """A change as a page gets it."""
    entry = {"id": str(change.id), "status": change.status.name.lower(), "cause": change.cause.name.lower()}
    if change.status is Status.UNKNOWN:
        entry["reason"] = change.reason.name.lower()
    return entry


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))
