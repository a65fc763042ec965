"""One key of etcd: read, watched, and written if nobody else has written it since.

etcd's own JSON gateway, over the HTTP client that the admin port brings anyway: three requests (range, txn,
watch) are all there is to it, while the client packages bring gRPC, a native library with threads of its own
in a process that has one loop. Any of the URL's hosts will do; one that fails is passed over.

A watch only says that something happened; the key is then read. So no event can be lost, compacted away or
come in the wrong order, and a watch that has said nothing for ``SILENCE_S`` is begun anew, in case the other
end has died without a word. Invariant: what is told is what the key held at some moment after the question.
"""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import aiohttp

from pulsering_server.config_document import TEXT_BYTES_MAX

if TYPE_CHECKING:
    from pulsering_server.etcd_url import EtcdUrl

__all__ = ["EtcdFailed", "EtcdKey", "Value"]

REQUEST_S: Final = 3.0
SILENCE_S: Final = 30.0
CALM_S: Final = 0.1
"""Between two readings, however often the key changes or a watch is ended."""


class EtcdFailed(Exception):
    """No host answered, or one said no; the message says what to look at."""


class Value(NamedTuple):
    """What the key held; ``revision`` is 0 and ``text`` empty if there is no such key."""

    text: str
    revision: int


class EtcdKey:
    """``async with EtcdKey(url) as key``; every method raises ``EtcdFailed``."""

    def __init__(self, url: "EtcdUrl", *, silence_s: float = SILENCE_S) -> None:
        self._url = url
        self._silence_s = silence_s
        self._first = 0
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._context() if self._url.tls else True, force_close=True),
            timeout=aiohttp.ClientTimeout(total=REQUEST_S),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def _context(self) -> ssl.SSLContext:
        url = self._url
        try:
            context = ssl.create_default_context(cafile=url.ca or None)
            if url.cert:
                context.load_cert_chain(url.cert, url.cert_key or None)
        except OSError as error:
            raise EtcdFailed(f"etcd: {url.ca or url.cert}: {error}") from None
        return context

    async def get(self) -> Value:
        """What it holds."""
        found = await self._ask("range", {"key": _encoded(self._url.key)})
        for pair in found.get("kvs", []):
            data = base64.b64decode(pair.get("value", ""))
            if len(data) > TEXT_BYTES_MAX:
                raise EtcdFailed(f"etcd: {self._url.key} holds {len(data)} bytes: is this a configuration?")
            return Value(data.decode("utf-8", "replace"), int(pair["mod_revision"]))
        return Value("", 0)

    async def put_if(self, text: str, revision: int) -> bool:
        """Write it if it still is as it was at ``revision`` (0: not there); whether it was."""
        key = _encoded(self._url.key)
        done = await self._ask(
            "txn",
            {
                "compare": [{"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}],
                "success": [{"request_put": {"key": key, "value": _encoded(text)}}],
            },
        )
        return bool(done.get("succeeded", False))

    async def readings(self) -> AsyncGenerator[Value, None]:
        """What it holds: now, whenever it may have changed, and every ``SILENCE_S``; never ends."""
        while True:
            async with self._watching() as events:
                yield await self.get()  # after the watch has begun, so that nothing falls between
                try:
                    async with asyncio.timeout(self._silence_s):
                        await anext(events, None)
                except TimeoutError:
                    pass
            await asyncio.sleep(CALM_S)

    @asynccontextmanager
    async def _watching(self) -> AsyncIterator[AsyncIterator[None]]:
        body = {"create_request": {"key": _encoded(self._url.key)}}
        timeout = aiohttp.ClientTimeout(total=None, connect=REQUEST_S, sock_read=self._silence_s)
        async with self._post("watch", body, timeout) as response:
            events = self._events(response)
            async with asyncio.timeout(REQUEST_S):
                await anext(events, None)  # it has begun
            yield events

    async def _events(self, response: aiohttp.ClientResponse) -> AsyncIterator[None]:
        """One a message of a watch; they are a line each, of any length."""
        async for chunk in response.content.iter_any():
            for _ in range(chunk.count(b"\n")):
                yield None

    async def _ask(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self._post(f"kv/{what}", body, None) as response:
            text = await response.text()
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise EtcdFailed(f"etcd: no JSON from {response.url.host}: is it etcd 3.4 or newer?")
        return found

    @asynccontextmanager
    async def _post(
        self, path: str, body: dict[str, Any], timeout: aiohttp.ClientTimeout | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer of the first host that gives one."""
        problems = []
        hosts = self._url.hosts
        for turn in range(len(hosts)):
            host = hosts[(self._first + turn) % len(hosts)]
            where = f"{'https' if self._url.tls else 'http'}://{host}/v3/{path}"
            options: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
            try:
                response = await self._session.post(where, json=body, allow_redirects=False, **options)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                problems.append(f"{host}: {str(error) or 'no answer'}")
                continue
            async with response:
                if response.status != 200:
                    problems.append(f"{host}: {response.status} {(await response.text())[:200]}")
                    continue
                self._first = (self._first + turn) % len(hosts)
                try:
                    yield response
                except (aiohttp.ClientError, TimeoutError) as error:
                    self._first = (self._first + 1) % len(hosts)
                    raise EtcdFailed(f"etcd: {host}: {str(error) or 'no answer'}") from None
                return
        raise EtcdFailed(f"etcd: {'; '.join(problems)}")


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")
