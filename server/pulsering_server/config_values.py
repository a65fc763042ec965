"""The kinds of value that ``cluster.yaml`` has beside numbers and names: durations, sizes, addresses, seeds.

Each is read by a function whose message is shown to the file's author word for word, and says of itself what
an editor needs to know. ``Quantity`` also writes what it reads: a number of ms or bytes as the file has it.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from pulsering_server.units import (
    DURATION_UNITS,
    SIZE_UNITS,
    format_duration_ms,
    format_size,
    parse_duration_ms,
    parse_size,
)

__all__ = [
    "ADDRESS_SCHEMA",
    "ADMIN_SCHEMA",
    "PORT_MAX",
    "SEED_SCHEMA",
    "TLS_VERSION_SCHEMA",
    "Address",
    "Quantity",
    "before",
    "parse_address",
    "parse_admin",
    "parse_seed",
    "parse_tls_version",
]

PORT_MAX: Final = 65535
ADMIN_HOST: Final = "127.0.0.1"
"""Where the admin port of a node is when the file gives a number alone: for this machine only."""

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
    if "," in value:
        raise ValueError("one address a node: list each node by itself, as '- name: …' and 'address: …'")
    if "/" in value:
        raise ValueError("expected host:port with nothing after it, such as 10.0.0.1:7400")
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


def before(parse: Callable[[object], Any]) -> Callable[[object], Any]:
    """Return a validator whose message is that of ``parse``, word for word."""

    def validate(value: object) -> Any:
        try:
            return parse(value)
        except ValueError as error:
            raise PydanticCustomError("pulsering", "{why}", {"why": str(error)}) from None

    return validate


@dataclass(frozen=True, slots=True)
class Quantity:
    """Marks a whole number that the file writes with a unit: a duration in ms, or a size in bytes."""

    kind: Literal["duration", "size"]
    low: int
    high: int

    def parse(self, value: object) -> int:
        """Return the number; ``UnitError`` says what is wrong."""
        return (parse_duration_ms if self.kind == "duration" else parse_size)(value, self.low, self.high)

    def format(self, value: int) -> str:
        """Return the text that the file has for it."""
        return format_duration_ms(value) if self.kind == "duration" else format_size(value)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(before(self.parse), handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        units = DURATION_UNITS if self.kind == "duration" else SIZE_UNITS
        return {
            "type": "string",
            "pattern": rf"^[0-9]{{1,15}}(\.[0-9]{{1,9}})? ?({'|'.join(units)})$",
            "x-kind": self.kind,
            "x-range": f"{self.format(self.low)} to {self.format(self.high)}",
        }


def parse_seed(value: object) -> int:
    """Return the seed of a number or its hexadecimal text; ``ValueError`` says what is accepted."""
    if isinstance(value, str) and re.fullmatch(r"(0[xX])?[0-9A-Fa-f]{1,16}", value):
        return int(value, 16)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64:
        return value
    what = "must be a number from 0 to 2^64-1, or its hexadecimal text such as '0x9f3c21aa'"
    if isinstance(value, int) and value >= 1 << 64:
        raise ValueError(f"larger than 2^64-1: {what}")
    raise ValueError(what)


def parse_tls_version(value: object) -> str:
    """Return the version as text; YAML makes a number of it unless it is in quotes."""
    if not isinstance(value, bool) and str(value) in ("1.2", "1.3"):
        return str(value)
    raise ValueError("must be 1.2 or 1.3: what is older is broken")


ADDRESS_SCHEMA: Final = WithJsonSchema({"type": "string", "examples": ["10.0.0.1:7400", "[::1]:7400"]})
ADMIN_SCHEMA: Final = WithJsonSchema(
    {
        "anyOf": [{"type": "integer", "minimum": 0, "maximum": PORT_MAX}, {"type": "string"}],
        "x-range": f"0 (any free port) to {PORT_MAX}, host:port, or off",
    }
)
SEED_SCHEMA: Final = WithJsonSchema(
    {
        "anyOf": [
            {"type": "integer", "minimum": 0, "maximum": (1 << 64) - 1},
            {"type": "string", "pattern": "^(0[xX])?[0-9A-Fa-f]{1,16}$"},
        ],
        "x-range": "0 to 2^64-1, or hexadecimal text such as '0x9f3c21aa'",
    }
)
TLS_VERSION_SCHEMA: Final = WithJsonSchema(
    {
        "anyOf": [{"type": "number", "enum": [1.2, 1.3]}, {"type": "string", "enum": ["1.2", "1.3"]}],
        "x-range": "1.2 or 1.3",
    }
)
