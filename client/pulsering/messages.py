"""Bodies: what the msgpack value inside each frame means, both ways.

Data-plane bodies (heartbeat, leave, get and their replies) are short arrays of fixed shape, read here by
a cursor that accepts every msgpack encoding of an unsigned integer, ``bin`` or ``ext`` and nothing else,
so that no hostile body can make Python objects. The replies that a client reads all day are put to the
kernel first: it reads one whole, or leaves it to the cursor, which decides. Control-plane bodies are small
maps, decoded by msgpack and then checked field by field; unknown fields are ignored, so that they can be
added. Every reader returns a typed value or raises ``FrameError``.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast

import msgpack

from pulsering import kernel, limits
from pulsering._cursor import KEY_BYTES as KEY_BYTES
from pulsering._cursor import KEYS_EXT, Cursor, bad
from pulsering.errors import FrameError

EMPTY_BODY: Final = b"\x90"
"""Body of PING, and of TOPOLOGY when no epoch is asked for: an empty array."""

U32_MAX: Final = 0xFFFFFFFF
U64_MAX: Final = 0xFFFFFFFFFFFFFFFF

_made = tuple.__new__
"""Makes a named tuple of a tuple, at a third of the price."""


class KeysRequest(NamedTuple):
    """HEARTBEAT, LEAVE, GET or WATCH.

    ``argument`` is the grace in ms for LEAVE, WANT_AGES or 0 for GET, WATCH or STOP_WATCH for WATCH.
    """

    epoch: int
    argument: int
    keys: memoryview

    @property
    def key_count(self) -> int:
        """How many keys."""
        return len(self.keys) // KEY_BYTES


class WriteReply(NamedTuple):
    """Answer to HEARTBEAT and LEAVE: keys by outcome; the four counts sum up to the request's keys."""

    epoch: int
    accepted: int
    stale: int
    refused: int
    moved: int


class GetReply(NamedTuple):
    """Answer to GET: ``states`` holds 2 bits a key, ``ages`` one byte a key or nothing.

    ``warming_ms`` is how long the node will still say unknown for users it does not hold; 0 when warm.
    """

    epoch: int
    warming_ms: int
    key_count: int
    states: bytes
    ages: bytes


class WatchReply(NamedTuple):
    """Answer to WATCH: the state of each key now, 2 bits a key; no keys where a watch was stopped."""

    epoch: int
    warming_ms: int
    key_count: int
    states: bytes


class WatchPush(NamedTuple):
    """What a node sends of its own accord to who watches: states that have changed. No keys: a pulse.

    ``states`` holds 2 bits a key, ``causes`` a byte a key: a ``Cause``, or a number of a later version.
    """

    epoch: int
    warming_ms: int
    keys: memoryview
    states: bytes
    causes: bytes


class CountReply(NamedTuple):
    """Answer to COUNT: users online whose first owner not skipped is this node."""

    epoch: int
    warming_ms: int
    online: int


class ErrorReply(NamedTuple):
    """An ERROR frame, or the reason in a GOAWAY: ``after_ms`` is when to retry, or when the node stops."""

    code: int
    message: str
    after_ms: int


class Hello(NamedTuple):
    """What a client says first. An empty ``cluster`` accepts any; epoch and topology hash 0 mean none yet.

    ``token`` says who it is to a node that asks; no text that is made of a HELLO shows it.
    """

    version_min: int
    version_max: int
    cluster: str
    epoch: int
    topology_hash: int
    agent: str
    token: str = ""

    def __repr__(self) -> str:
        return f"Hello({self.cluster!r}, {self.agent!r}, {'a token' if self.token else 'no token'})"


class Welcome(NamedTuple):
    """What a node answers to HELLO. ``boot_id`` differs after each start of the node.

    ``former_epoch`` is that of the topology before, while users may be held under it; else 0.
    """

    version: int
    cluster: str
    node: str
    boot_id: int
    epoch: int
    topology_hash: int
    warming_ms: int
    frame_bytes_max: int
    keys_per_frame: int
    in_flight: int
    agent: str
    former_epoch: int = 0
    last_seen_s: int = 0
    """For how long the node remembers when users were last seen; 0: it does not, and must not be asked."""


class Vitals(NamedTuple):
    """Answer to PING: what an operator asks a node first. ``users`` counts those online here, in any role.

    A node that is ``removed`` is no part of its own topology; ``needed_ms`` is how long clients may still ask
    a node for users held under the topology before.
    """

    epoch: int
    users: int
    uptime_ms: int
    warming_ms: int
    draining: bool
    agent: str
    removed: bool = False
    needed_ms: int = 0


WANT_AGES: Final = 1
"""GET argument: send the ticks since the last heartbeat as well."""

STOP_WATCH: Final = 0
WATCH: Final = 1
"""WATCH argument: push changes of these keys from now on, or no more."""


# --- Data plane ---------------------------------------------------------------------------------------------


def encode_keys_request(epoch: int, argument: int, keys: bytes | memoryview) -> bytes:
    """Body of a HEARTBEAT, LEAVE, GET or WATCH request."""
    return _before_keys(epoch, argument, len(keys)) + keys


@lru_cache(maxsize=256)
def _before_keys(epoch: int, argument: int, size: int) -> bytes:
    """What comes before so many bytes of keys; batches tend to be of one size."""
    body = _pack([epoch, argument, msgpack.ExtType(KEYS_EXT, bytes(size))])
    return body[: len(body) - size]


def decode_keys_request(body: bytes) -> KeysRequest:
    """Read a HEARTBEAT, LEAVE, GET or WATCH body; ``keys`` is a view into it."""
    cursor = Cursor(body)
    cursor.array(3)
    epoch = cursor.uint(U32_MAX, "epoch")
    argument = cursor.uint(U32_MAX, "argument")
    keys = cursor.keys()
    cursor.end()
    return KeysRequest(epoch, argument, keys)


def encode_write_reply(reply: WriteReply) -> bytes:
    """Body of the reply to HEARTBEAT or LEAVE."""
    return _pack(list(reply))


def decode_write_reply(body: bytes, count: int) -> WriteReply:
    """Read the reply to a HEARTBEAT or LEAVE of ``count`` keys."""
    fields = kernel.read_write_reply(body, count)
    return _made(WriteReply, fields) if fields is not None else read_write_reply(body, count)


def read_write_reply(body: bytes, count: int) -> WriteReply:
    """``decode_write_reply``, value by value."""
    cursor = Cursor(body)
    cursor.array(5)
    epoch = cursor.uint(U32_MAX, "epoch")
    outcomes = [cursor.uint(count, what) for what in WriteReply._fields[1:]]
    cursor.end()
    if sum(outcomes) != count:
        bad(f"outcomes of {sum(outcomes)} keys for a request of {count}")
    return WriteReply(epoch, *outcomes)


def encode_get_reply(epoch: int, warming_ms: int, count: int, states: bytes, ages: bytes = b"") -> bytes:
    """Body of the reply to GET."""
    return _pack([epoch, warming_ms, count, states, ages])


def decode_get_reply(body: bytes, count: int, *, want_ages: bool) -> GetReply:
    """Read the reply to a GET of ``count`` keys; its lengths must be exactly those of the request."""
    fields = kernel.read_get_reply(body, count, want_ages)
    return _made(GetReply, fields) if fields is not None else read_get_reply(body, count, want_ages=want_ages)


def read_get_reply(body: bytes, count: int, *, want_ages: bool) -> GetReply:
    """``decode_get_reply``, value by value."""
    cursor = Cursor(body)
    cursor.array(5)
    epoch = cursor.uint(U32_MAX, "epoch")
    warming_ms = cursor.uint(U32_MAX, "warming_ms")
    found = cursor.uint(U32_MAX, "count")
    states = cursor.bin("states")
    ages = cursor.bin("ages")
    cursor.end()
    if found != count or len(states) != (count + 3) // 4 or len(ages) != (count if want_ages else 0):
        bad(f"an answer for {found} keys ({len(states)} + {len(ages)} bytes) to a request of {count}")
    return GetReply(epoch, warming_ms, found, states, ages)


def encode_watch_reply(epoch: int, warming_ms: int, count: int, states: bytes) -> bytes:
    """Body of the reply to WATCH."""
    return _pack([epoch, warming_ms, count, states])


def decode_watch_reply(body: bytes, count: int) -> WatchReply:
    """Read the reply to a WATCH of ``count`` keys; 0 for one that stops."""
    cursor = Cursor(body)
    cursor.array(4)
    epoch = cursor.uint(U32_MAX, "epoch")
    warming_ms = cursor.uint(U32_MAX, "warming_ms")
    found = cursor.uint(U32_MAX, "count")
    states = cursor.bin("states")
    cursor.end()
    if found != count or len(states) != (count + 3) // 4:
        bad(f"an answer for {found} keys ({len(states)} bytes) to a watch of {count}")
    return WatchReply(epoch, warming_ms, found, states)


def encode_watch_push(epoch: int, warming_ms: int, keys: bytes, states: bytes, causes: bytes) -> bytes:
    """Body of a WATCH frame that a node sends of its own accord."""
    return _pack([epoch, warming_ms, msgpack.ExtType(KEYS_EXT, keys), states, causes])


def decode_watch_push(body: bytes) -> WatchPush:
    """Read what a node pushed; ``keys`` is a view into it."""
    cursor = Cursor(body)
    cursor.array(5)
    epoch = cursor.uint(U32_MAX, "epoch")
    warming_ms = cursor.uint(U32_MAX, "warming_ms")
    keys = cursor.keys()
    states = cursor.bin("states")
    causes = cursor.bin("causes")
    cursor.end()
    count = len(keys) // KEY_BYTES
    if len(states) != (count + 3) // 4 or len(causes) != count:
        bad(f"a push of {count} keys with {len(states)} + {len(causes)} bytes")
    return WatchPush(epoch, warming_ms, keys, states, causes)


def watch_pulse_ms(ttl_ms: int) -> int:
    """How often a node lets those who watch hear from it, at least: a quarter of the ttl, within bounds."""
    return min(limits.WATCH_PULSE_MS_MAX, max(limits.WATCH_PULSE_MS_MIN, ttl_ms // 4))


# --- Control plane ------------------------------------------------------------------------------------------


def decode_empty(body: bytes) -> None:
    """Read PING: an array; what may be in it is for later versions."""
    if body != EMPTY_BODY and not isinstance(_unpack(body), list):
        bad("an array expected")


def encode_count_request(epoch: int, skipped: tuple[str, ...]) -> bytes:
    """Body of COUNT: ``skipped`` names the owners to be passed over because they do not answer."""
    return _pack([epoch, list(skipped)])


def decode_count_request(body: bytes) -> tuple[int, tuple[str, ...]]:
    """Read COUNT: (epoch, names of owners to pass over)."""
    value = _unpack_array(body, 2)
    epoch, skipped = value
    if not _is_uint(epoch, U32_MAX):
        bad("epoch is not an unsigned integer of 32 bits")
    if not isinstance(skipped, list) or not all(_is_name(name) for name in skipped):
        bad("skipped is not an array of names")
    return epoch, tuple(skipped)


def encode_count_reply(reply: CountReply) -> bytes:
    """Body of the reply to COUNT."""
    return _pack(list(reply))


def decode_count_reply(body: bytes) -> CountReply:
    """Read the reply to COUNT."""
    cursor = Cursor(body)
    cursor.array(3)
    reply = CountReply(
        cursor.uint(U32_MAX, "epoch"), cursor.uint(U32_MAX, "warming_ms"), cursor.uint(U64_MAX, "online")
    )
    cursor.end()
    return reply


def encode_error(code: int, message: str, after_ms: int = 0) -> bytes:
    """Body of ERROR and GOAWAY; the message is cut to its limit."""
    text = message.encode("utf-8", "replace")[: limits.ERROR_MESSAGE_BYTES_MAX].decode("utf-8", "ignore")
    return _pack([code, text, after_ms])


def decode_error(body: bytes) -> ErrorReply:
    """Read ERROR or GOAWAY."""
    code, message, after_ms = _unpack_array(body, 3)
    if not (_is_uint(code, U32_MAX) and isinstance(message, str) and _is_uint(after_ms, U32_MAX)):
        bad("an error is [code, message, after_ms]")
    return ErrorReply(code, message[: limits.ERROR_MESSAGE_BYTES_MAX], after_ms)


def encode_map(message: Hello | Welcome | Vitals) -> bytes:
    """Body of HELLO, of its reply, or of the reply to PING."""
    fields = message._asdict()
    if fields.get("token") == "":  # most clients have none, and a node of before knows of none
        del fields["token"]
    return _pack(fields)


def decode_hello(body: bytes) -> Hello:
    """Read HELLO."""
    fields = decode_map(body)
    hello = Hello(
        version_min=uint_field(fields, "version_min", 255),
        version_max=uint_field(fields, "version_max", 255),
        cluster=text_field(fields, "cluster"),
        epoch=uint_field(fields, "epoch", U32_MAX),
        topology_hash=uint_field(fields, "topology_hash", U64_MAX),
        agent=text_field(fields, "agent"),
        token=text_field({"token": "", **fields}, "token", limits.TOKEN_LETTERS_MAX),
    )
    if hello.version_min > hello.version_max:
        bad("version_min is above version_max")
    return hello


def decode_welcome(body: bytes) -> Welcome:
    """Read the reply to HELLO."""
    fields = decode_map(body)
    return Welcome(
        version=uint_field(fields, "version", 255),
        cluster=text_field(fields, "cluster"),
        node=text_field(fields, "node"),
        boot_id=uint_field(fields, "boot_id", U64_MAX),
        epoch=uint_field(fields, "epoch", U32_MAX),
        topology_hash=uint_field(fields, "topology_hash", U64_MAX),
        warming_ms=uint_field(fields, "warming_ms", U32_MAX),
        frame_bytes_max=uint_field(fields, "frame_bytes_max", limits.FRAME_BYTES_MAX),
        keys_per_frame=uint_field(fields, "keys_per_frame", limits.KEYS_PER_FRAME_MAX),
        in_flight=uint_field(fields, "in_flight", U32_MAX),
        agent=text_field(fields, "agent"),
        former_epoch=uint_field({"former_epoch": 0, **fields}, "former_epoch", U32_MAX),
        last_seen_s=uint_field({"last_seen_s": 0, **fields}, "last_seen_s", U32_MAX),
    )


def decode_vitals(body: bytes) -> Vitals:
    """Read the reply to PING."""
    fields = decode_map(body)
    draining, removed = fields.get("draining"), fields.get("removed", False)
    if not isinstance(draining, bool) or not isinstance(removed, bool):
        bad("draining or removed is not a bool")
    return Vitals(
        epoch=uint_field(fields, "epoch", U32_MAX),
        users=uint_field(fields, "users", U64_MAX),
        uptime_ms=uint_field(fields, "uptime_ms", U64_MAX),
        warming_ms=uint_field(fields, "warming_ms", U32_MAX),
        draining=draining,
        agent=text_field(fields, "agent"),
        removed=removed,
        needed_ms=uint_field({"needed_ms": 0, **fields}, "needed_ms", U32_MAX),
    )


def encode_topology_request(epoch: int | None = None) -> bytes:
    """Body of TOPOLOGY: the epoch that is asked for, if not the one that the node follows."""
    return EMPTY_BODY if epoch is None else _pack([epoch])


def decode_topology_request(body: bytes) -> int | None:
    """Read TOPOLOGY: an epoch, or None; what else may be in it is for later versions."""
    value = [] if body == EMPTY_BODY else _unpack(body)
    if not isinstance(value, list):
        bad("an array expected")
    if value and not _is_uint(value[0], U32_MAX):
        bad("epoch is not an unsigned integer of 32 bits")
    return value[0] if value else None


def encode_topology(fields: Mapping[str, Any]) -> bytes:
    """Body of the reply to TOPOLOGY, from ``Topology.to_wire()``."""
    return _pack(dict(fields))


def decode_map(body: bytes) -> dict[str, Any]:
    """Read a map with text keys; ``Topology.from_wire`` and the readers above check its fields."""
    value = _unpack(body)
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        bad("a map with text keys expected")
    return value


def uint_field(fields: Mapping[str, Any], name: str, maximum: int) -> int:
    """The unsigned integer ``fields[name]``, at most ``maximum``."""
    value: Any = fields.get(name)
    if not _is_uint(value, maximum):
        bad(f"{name} is not an unsigned integer up to {maximum}")
    return int(value)


def text_field(fields: Mapping[str, Any], name: str, maximum: int = limits.NAME_BYTES_MAX) -> str:
    """The short text ``fields[name]``."""
    value = fields.get(name)
    if not _is_name(value, maximum):
        bad(f"{name} is not a text of at most {maximum} bytes")
    return str(value)


def _is_uint(value: object, maximum: int) -> bool:
    return type(value) is int and 0 <= value <= maximum


def _is_name(value: object, maximum: int = limits.NAME_BYTES_MAX) -> bool:
    return isinstance(value, str) and len(value.encode("utf-8", "replace")) <= maximum


def _pack(value: object) -> bytes:
    return cast("bytes", msgpack.packb(value))


def _unpack(body: bytes) -> Any:
    # msgpack raises five unrelated exception types; each means that the peer broke the protocol.
    try:
        return msgpack.unpackb(body, max_array_len=limits.NODES_MAX, max_map_len=64, strict_map_key=True)
    except Exception as error:
        raise FrameError(f"body: not readable as msgpack ({type(error).__name__})") from error


def _unpack_array(body: bytes, length: int) -> list[Any]:
    value = _unpack(body)
    if not isinstance(value, list) or len(value) != length:
        bad(f"an array of {length} expected")
    return value
