"""What ``cluster.yaml`` may say: one model a section, one field a key, its bounds and its default.

The models are frozen and refuse keys they do not know; bounds that the protocol shares come from
``pulsering.limits``. A model checks one value at a time; what holds between values is in ``config``. Field
names end in their unit where the file's own key leaves the unit to the value (``ttl: 20s`` is ``ttl_ms``).
"""

import ipaddress
import re
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

from pulsering.limits import (
    BUFFERS_BYTES,
    CONNECTIONS,
    FRAME_BYTES_MAX,
    HELLO_FRAME_BYTES_MAX,
    IN_FLIGHT_MAX,
    KEYS_PER_FRAME,
    KEYS_PER_FRAME_MAX,
    NAME_BYTES_MAX,
    NODES_MAX,
    OUTPUT_CLOSE_BYTES,
    OUTPUT_PAUSE_BYTES,
    REPLICAS_MAX,
    TICKS_PER_TTL,
    TICKS_PER_TTL_MAX,
    TICKS_PER_TTL_MIN,
    TTL_MS,
    TTL_MS_MAX,
    TTL_MS_MIN,
    WEIGHT_MAX,
)
from pulsering_server.units import UnitError, parse_duration_ms, parse_size

MEMORY_BYTES: Final = 1 << 30
"""The table of a node by default: about 100 million users, and no surprise on a small machine."""
MEMORY_BYTES_MIN: Final = 1 << 20
MEMORY_BYTES_MAX: Final = 1 << 44
FRAME_BYTES_MIN: Final = HELLO_FRAME_BYTES_MAX
USERS_MAX: Final = 1 << 40
BUFFERS_BYTES_MIN: Final = 1 << 20
BUFFERS_BYTES_MAX: Final = 1 << 40
PORT_MAX: Final = 65535
ADMIN_HOST: Final = "127.0.0.1"
"""Where the admin port of a node is when the file gives a number alone: for this machine only."""
CORES_MAX: Final = 256
"""More than any machine that is one failure domain should hold of a cluster."""

_HOST_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


class Address(NamedTuple):
    """Where clients reach a node. IPv6 hosts are kept without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return ``host:port`` as the file has it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(value: object, *, listening: bool = False) -> Address:
    """Return the host (lower case) and port of ``host:port``; ``ValueError`` says what is wrong.

    One that is only for ``listening`` may be any address of the machine, or port 0.
    """
    if not isinstance(value, str):
        raise ValueError("expected host:port, such as 10.0.0.1:7400")
    if "://" in value:
        raise ValueError("expected host:port without a scheme, such as 10.0.0.1:7400")
    if match := re.fullmatch(r"\[(.*)\](?::(.*))?", value):
        host, port = _ipv6(match[1], listening), match[2]
    elif value.count(":") > 1:
        raise ValueError('an IPv6 address needs brackets and quotes, as in "[::1]:7400"')
    else:
        host, _, port = value.partition(":")
        host = _ipv4_or_name(host, listening)
    if not port:
        raise ValueError(f"no port: expected host:port, as in {Address(host, 7400)}")
    if not re.fullmatch(r"[0-9]{1,9}", port):
        raise ValueError(f"bad port '{port[:40]}': must be a number from 1 to 65535")
    if int(port) == 0 and not listening:
        raise ValueError("port 0 has no meaning to clients; 'pulsering serve --port 0' takes any free port")
    if int(port) > PORT_MAX:
        raise ValueError(f"bad port {port}: must be from 1 to {PORT_MAX}")
    return Address(host, int(port))


def parse_admin(value: object) -> Address | None:
    """Return where ``admin`` of a node listens: a port on loopback, ``host:port``, or nowhere for ``off``."""
    if value == "off":
        return None
    if isinstance(value, str) and ":" in value:
        return parse_address(value, listening=True)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("expected a port such as 8400 (0: any free one), host:port, or off")
    if not 0 <= value <= PORT_MAX:
        raise ValueError(f"bad port {value}: must be from 0 (any free one) to {PORT_MAX}")
    return Address(ADMIN_HOST, value)


def _ipv6(text: str, listening: bool) -> str:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError(f"bad IPv6 address '{text[:60]}'") from None
    if address.is_unspecified and not listening:
        raise ValueError("[::] is no address that clients can reach; name one of this node's own")
    return str(address)


def _ipv4_or_name(text: str, listening: bool) -> str:
    if not text:
        raise ValueError("no host: expected host:port, such as 10.0.0.1:7400")
    if re.fullmatch(r"[0-9.]+", text):
        try:
            address = ipaddress.IPv4Address(text)
        except ValueError:
            raise ValueError(f"bad IPv4 address '{text[:60]}'") from None
        if address.is_unspecified and not listening:
            raise ValueError("0.0.0.0 is no address that clients can reach; name one of this node's own")
        return str(address)
    if len(text) > 253 or not all(
        _HOST_LABEL.fullmatch(label) for label in text.removesuffix(".").split(".")
    ):
        raise ValueError(f"bad host name '{text[:60]}'")
    return text.lower()


def _checked(parse: Callable[[object], Any]) -> BeforeValidator:
    """Return a validator whose message is that of ``parse``, word for word."""

    def validate(value: object) -> Any:
        try:
            return parse(value)
        except (UnitError, ValueError) as error:
            raise PydanticCustomError("pulsering", "{why}", {"why": str(error)}) from None

    return BeforeValidator(validate)


def _duration(low_ms: int, high_ms: int) -> BeforeValidator:
    return _checked(lambda value: parse_duration_ms(value, low_ms, high_ms))


def _size(low: int, high: int) -> BeforeValidator:
    return _checked(lambda value: parse_size(value, low, high))


def _parse_seed(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"(0[xX])?[0-9A-Fa-f]{1,16}", value):
        return int(value, 16)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64:
        return value
    raise ValueError("must be a number from 0 to 2^64-1, or its hexadecimal text such as '0x9f3c21aa'")


def _absent_is_empty(value: object) -> object:
    """Let a section whose keys are all commented out be what it looks like."""
    return {} if value is None else value


_TEXT_WITH_UNIT: Final = WithJsonSchema({"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?[A-Za-z]+$"})
_ADDRESS_SCHEMA: Final = WithJsonSchema({"type": "string", "examples": ["10.0.0.1:7400", "[::1]:7400"]})
_ADMIN_SCHEMA: Final = WithJsonSchema(
    {"type": ["integer", "string"], "examples": [8400, 0, "10.0.0.1:8400", "off"]}
)
_SEED_SCHEMA: Final = WithJsonSchema({"type": ["integer", "string"], "examples": [0, "0x9f3c21aa"]})

ClusterName = Annotated[str, StringConstraints(pattern=rf"^[a-z0-9-]{{1,{NAME_BYTES_MAX}}}$")]
NodeName = Annotated[str, StringConstraints(pattern=rf"^[A-Za-z0-9._-]{{1,{NAME_BYTES_MAX}}}$")]
Zone = Annotated[str, StringConstraints(pattern=rf"^[A-Za-z0-9._-]{{0,{NAME_BYTES_MAX}}}$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)


class LimitsConfig(_Section):
    """``limits``: what one node may use and accept, whatever its peers do."""

    memory_bytes: Annotated[int, _size(MEMORY_BYTES_MIN, MEMORY_BYTES_MAX), _TEXT_WITH_UNIT] = Field(
        MEMORY_BYTES, alias="memory", description="the table of users; beyond it new users are refused"
    )
    users: Annotated[int, Field(ge=1, le=USERS_MAX)] | None = Field(
        None, description="users a node holds at most; without it, what its memory holds"
    )
    connections: int = Field(CONNECTIONS, ge=1, le=1_000_000, description="open connections")
    frame_bytes: Annotated[int, _size(FRAME_BYTES_MIN, FRAME_BYTES_MAX), _TEXT_WITH_UNIT] = Field(
        FRAME_BYTES_MAX, alias="frame", description="one request or reply"
    )
    keys_per_frame: int = Field(
        KEYS_PER_FRAME, ge=1, le=KEYS_PER_FRAME_MAX, description="users in one request"
    )
    in_flight: int = Field(
        IN_FLIGHT_MAX, ge=1, le=IN_FLIGHT_MAX, description="unanswered requests a connection"
    )
    output_pause_bytes: Annotated[int, _size(1 << 12, 1 << 30), _TEXT_WITH_UNIT] = Field(
        OUTPUT_PAUSE_BYTES,
        alias="output_pause",
        description="replies a peer leaves unread before its requests wait",
    )
    output_close_bytes: Annotated[int, _size(1 << 12, 1 << 30), _TEXT_WITH_UNIT] = Field(
        OUTPUT_CLOSE_BYTES,
        alias="output_close",
        description="replies a peer leaves unread before it is disconnected",
    )
    buffers_bytes: Annotated[int, _size(BUFFERS_BYTES_MIN, BUFFERS_BYTES_MAX), _TEXT_WITH_UNIT] = Field(
        BUFFERS_BYTES,
        alias="buffers",
        description="what all connections together hold; beyond it the largest is disconnected",
    )


class AdminConfig(_Section):
    """``admin``: who may read and steer nodes over HTTP. Where they listen for it, ``nodes`` say."""

    token_file: Annotated[str, StringConstraints(min_length=1)] | None = Field(
        None, description="file whose first line is the token; relative to this file"
    )
    insecure_no_token: bool = Field(False, description="listen beyond loopback without a token")


class NodeConfig(_Section):
    """One entry of ``nodes``."""

    name: NodeName = Field(description="what `pulsering serve --node` picks; places users, so never rename")
    address: Annotated[Address, _checked(parse_address), _ADDRESS_SCHEMA] = Field(
        description="host:port that clients and this node's listener use"
    )
    cores: int = Field(
        1, ge=1, le=CORES_MAX, description="processes, each a node on a port of its own, from the address on"
    )
    weight: int = Field(
        1, ge=1, le=WEIGHT_MAX, description="share of the users of each core, relative to the others"
    )
    zone: Zone = Field("", description="replicas go to different zones where there are enough")
    admin: Annotated[Address | None, _checked(parse_admin), _ADMIN_SCHEMA] = Field(
        None, description="port or host:port of metrics, health and status over HTTP; each core has one"
    )


class ClusterFile(_Section):
    """The file as a whole."""

    version: Literal[1] = Field(description="of the format: 1")
    cluster: ClusterName = Field(description="name; a node refuses clients of another cluster")
    epoch: int = Field(ge=1, le=(1 << 32) - 1, description="raise by one with every change of the nodes")
    ttl_ms: Annotated[int, _duration(TTL_MS_MIN, TTL_MS_MAX), _TEXT_WITH_UNIT] = Field(
        TTL_MS, alias="ttl", description="a user is online this long after the last heartbeat"
    )
    ticks_per_ttl: int = Field(
        TICKS_PER_TTL,
        alias="ticks",
        ge=TICKS_PER_TTL_MIN,
        le=TICKS_PER_TTL_MAX,
        description="resolution: steps that a ttl is cut into",
    )
    replicas: int = Field(2, ge=1, le=REPLICAS_MAX, description="nodes that hold each user")
    hash_seed: Annotated[int, _checked(_parse_seed), _SEED_SCHEMA] = Field(
        0, description="places users on nodes; never change it, and keep it to yourself"
    )
    limits: Annotated[LimitsConfig, BeforeValidator(_absent_is_empty)] = Field(
        default_factory=LimitsConfig.model_construct, description="of each node, shared by its cores"
    )
    admin: Annotated[AdminConfig, BeforeValidator(_absent_is_empty)] = Field(
        default_factory=AdminConfig.model_construct, description="who may read and steer nodes over HTTP"
    )
    nodes: tuple[NodeConfig, ...] = Field(
        min_length=1, max_length=NODES_MAX, description="who is in it: a list of names and addresses"
    )
