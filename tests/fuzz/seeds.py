"""Where fuzzing begins: real frames of every op, both ways, and streams of them, as the code makes them."""

from collections.abc import Iterator
from typing import Final

from support.node_driver import hello_body, pack

from pulsering import messages
from pulsering.topology import Node, Topology
from pulsering.wire import VERSION, Op, encode_frame

__all__ = ["SEEDS"]

_KEYS: Final = pack([0, 1, 2**63, 2**64 - 1, 42])
_TOPOLOGY: Final = Topology(
    "demo", 3, 20_000, 80, 2, 7, (Node("a", "h1", 7400), Node("b", "h2", 7400, 3, "z"))
)


def _requests() -> Iterator[tuple[int, bytes]]:
    for op in (Op.HEARTBEAT, Op.LEAVE, Op.GET):
        for size in (0, 8, 40):
            yield op, messages.encode_keys_request(1, 0, _KEYS[:size])
    yield Op.GET, messages.encode_keys_request(2**32 - 1, messages.WANT_AGES, _KEYS)
    yield Op.LEAVE, messages.encode_keys_request(1, 5000, _KEYS)
    yield Op.HELLO, hello_body(token="0123456789abcdef")
    yield Op.PING, messages.EMPTY_BODY
    yield Op.COUNT, messages.encode_count_request(1, ("b", "c"))
    yield Op.TOPOLOGY, messages.encode_topology_request(1)
    yield Op.WATCH, messages.encode_keys_request(1, messages.WATCH, _KEYS)
    yield Op.HEARTBEAT, messages.encode_keys_request(1, 0, _KEYS[8:])
    yield Op.WATCH, messages.encode_keys_request(1, messages.STOP_WATCH, _KEYS[:16])


def _replies() -> Iterator[tuple[int, bytes]]:
    yield Op.HEARTBEAT, messages.encode_write_reply(messages.WriteReply(1, 2, 1, 1, 1))
    yield Op.GET, messages.encode_get_reply(1, 0, 5, b"\x1b\x02")
    yield Op.GET, messages.encode_get_reply(2**32 - 1, 20_250, 5, b"\x55\x01", bytes([0, 1, 79, 80, 255]))
    yield (
        Op.HELLO,
        messages.encode_map(messages.Welcome(VERSION, "demo", "a", 9, 3, 8, 0, 1 << 20, 8192, 64, "x")),
    )
    yield Op.PING, messages.encode_map(messages.Vitals(3, 10, 1000, 0, False, "x"))
    yield Op.WATCH, messages.encode_watch_reply(3, 0, 5, b"\x1b\x02")
    yield Op.WATCH, messages.encode_watch_push(3, 250, _KEYS, b"\x1b\x02", bytes([0, 1, 2, 3, 3]))
    yield Op.COUNT, messages.encode_count_reply(messages.CountReply(3, 0, 2**40))
    yield Op.TOPOLOGY, messages.encode_topology(_TOPOLOGY.to_wire())
    yield Op.ERROR, messages.encode_error(18, "busy", 250)
    yield Op.GOAWAY, messages.encode_error(19, "leaving", 10_000)


def _streams(frames: list[bytes], modes: tuple[int, ...]) -> list[bytes]:
    whole = b"".join(frames)
    return [bytes([mode]) + part for mode in modes for part in (*frames, whole)]


SEEDS: Final[dict[str, list[bytes]]] = {
    "request": [
        *_streams([encode_frame(op, 7, 1000, body) for op, body in _requests()], (0, 4, 5, 14, 0x36)),
        b"\x00GET / HTTP/1.1\r\n",
        b"\x00\x16\x03\x01\x02\x00",
        b"\x00*1\r\n$4\r\nPING\r\n",
    ],
    "reply": _streams(
        [encode_frame(op, 7, 1000, body, reply=True) for op, body in _replies()], (5, 13, 0x3D)
    ),
}
"""By target."""
