"""A peer on a real socket that says exactly the bytes a test gives it, and never waits without a limit."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Self

from pulsering import messages
from pulsering.wire import VERSION, Frame, FrameReader, Op, encode_frame
from pulsering_server.clock import now_ms

PATIENCE_S = 15.0
"""How long any wait may take before the test fails; on a good day all take milliseconds."""


class RawPeer:
    """``async with RawPeer(host, port) as peer``; ``greet`` says HELLO."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        receive_buffer_bytes: int | None = None,
        clock_ms: Callable[[], int] = now_ms,
    ) -> None:
        self._clock_ms = clock_ms
        self._where = host, port
        self._receive_buffer_bytes = receive_buffer_bytes
        self._frames = FrameReader(1 << 20)
        self._request_id = 0

    async def __aenter__(self) -> Self:
        sock = socket.socket(socket.AF_INET6 if ":" in self._where[0] else socket.AF_INET)
        try:
            if self._receive_buffer_bytes is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer_bytes)
            sock.setblocking(False)
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.get_running_loop().sock_connect(sock, self._where)
            self.reader, self.writer = await asyncio.open_connection(sock=sock, limit=1 << 16)
        except BaseException:
            sock.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up."""
        self.writer.transport.abort()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def request(self, op: int, body: bytes = b"\x90") -> bytes:
        """A request frame with the next id."""
        self._request_id += 1
        return encode_frame(op, self._request_id, self._clock_ms(), body)

    async def say(self, data: bytes) -> None:
        """Send bytes; a peer that closed meanwhile is no error."""
        self.writer.write(data)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self.writer.drain()
        except ConnectionError:
            pass

    def half_close(self) -> None:
        """Say that nothing more will come."""
        with contextlib.suppress(OSError):
            self.writer.write_eof()

    async def frame(self) -> Frame:
        """The next frame."""
        async with asyncio.timeout(PATIENCE_S):
            while (frame := self._frames.next_frame()) is None:
                data = await self.reader.read(1 << 16)
                if not data:
                    raise EOFError("the node closed the connection")
                self._frames.feed(data)
        return frame

    async def rest(self) -> bytes:
        """Everything until the node closes; a reset ends it as well."""
        data = bytearray(self._frames.peek(self._frames.pending))
        async with asyncio.timeout(PATIENCE_S):
            try:
                while chunk := await self.reader.read(1 << 16):
                    data += chunk
            except ConnectionError:
                pass
        return bytes(data)

    async def ask(self, op: int, body: bytes = b"\x90") -> Frame:
        """Send one request; the next frame."""
        await self.say(self.request(op, body))
        return await self.frame()

    async def greet(self, agent: str = "raw peer") -> messages.Welcome:
        """HELLO."""
        hello = messages.Hello(VERSION, VERSION, "", 0, 0, agent)
        return messages.decode_welcome((await self.ask(Op.HELLO, messages.encode_map(hello))).body)

    async def error(self) -> messages.ErrorReply:
        """The next frame, which must be an ERROR."""
        frame = await self.frame()
        assert frame.op == Op.ERROR, frame
        return messages.decode_error(frame.body)
