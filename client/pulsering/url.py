"""``presence://host:port,host:port/cluster?option=value``: where a cluster is, in one string.

A URL names seeds, the nodes that are asked first for the topology; any one that answers is enough. The path,
if there is one, is the cluster's name, checked in the handshake. The query holds the client's options by
their names. Invariant: a URL is understood whole or refused with a ``ConfigError`` that names the part and
what it accepts.
"""

from typing import Final, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pulsering import limits
from pulsering._plugins import TRANSPORTS_GROUP, is_plugged_in
from pulsering.errors import ConfigError

__all__ = ["DEFAULT_PORT", "TCP_SCHEMES", "Address", "ServiceUrl", "parse_url"]

DEFAULT_PORT: Final = 7400
TCP_SCHEMES: Final = ("presence", "presences")
_EXAMPLE: Final = "presence://h1:7400,h2:7400/cluster?timeout=250ms"


class Address(NamedTuple):
    """Where a node listens: a name or a literal address (IPv6 without brackets), and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class ServiceUrl(NamedTuple):
    """A parsed URL. An empty ``cluster`` accepts any; ``options`` are still text.

    ``seeds`` are there for TCP only; what another scheme has between ``//`` and ``/`` is ``authority``.
    """

    seeds: tuple[Address, ...]
    cluster: str
    tls: bool
    options: dict[str, str]
    scheme: str = "presence"
    authority: str = ""


def parse_url(url: str) -> ServiceUrl:
    """Take a URL apart; ``ConfigError`` says which part is wrong and what it accepts."""
    if not isinstance(url, str):
        raise ConfigError(f"url: a str like {_EXAMPLE} is needed, not {type(url).__name__}")
    try:
        parts = urlsplit(url.strip())
    except ValueError as error:
        raise ConfigError(f"url: {error}: {url!r}; like {_EXAMPLE}") from None
    if parts.scheme not in TCP_SCHEMES and not is_plugged_in(TRANSPORTS_GROUP, parts.scheme):
        raise ConfigError(
            f"url scheme: presence://, presences:// (TLS) or memory:// (in this process) is needed, "
            f"not {url!r}; like {_EXAMPLE}"
        )
    if parts.fragment:
        raise ConfigError(f"url: a fragment (#{parts.fragment}) has no meaning here")
    if "@" in parts.netloc:
        raise ConfigError("url user: a user or password has no meaning here; leave out what comes before @")
    if parts.scheme not in TCP_SCHEMES:
        authority = unquote(parts.netloc)
        return ServiceUrl((), _cluster(parts.path), False, _options(parts), parts.scheme, authority)
    seeds = tuple(_address(text) for text in parts.netloc.split(","))
    repeated = {str(seed) for seed in seeds if seeds.count(seed) > 1}
    if repeated:
        raise ConfigError(f"url hosts: {', '.join(sorted(repeated))} is there twice")
    cluster, tls = _cluster(parts.path), parts.scheme == "presences"
    return ServiceUrl(seeds, cluster, tls, _options(parts), parts.scheme, parts.netloc)


def _address(text: str) -> Address:
    if not text:
        raise ConfigError(f"url hosts: a host is empty; like {_EXAMPLE}")
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ConfigError(f"url host {text!r}: an IPv6 address is written [::1] or [::1]:7400")
        port = rest[1:]
        colon = bool(rest)
    else:
        host, separator, port = text.partition(":")
        colon = bool(separator)
        if ":" in port:
            raise ConfigError(f"url host {text!r}: an IPv6 address needs brackets, like [::1]:7400")
    host = unquote(host)
    if not host or any(character.isspace() for character in host):
        raise ConfigError(f"url host {text!r}: a host name or address is needed before the port")
    if not colon:
        return Address(host, DEFAULT_PORT)
    if not (port.isascii() and port.isdigit()) or len(port) > 5 or not 1 <= int(port) <= 65535:
        raise ConfigError(f"url port of {text!r}: a number in 1..65535 is needed, not {port!r}")
    return Address(host, int(port))


def _cluster(path: str) -> str:
    cluster = unquote(path.removeprefix("/").removesuffix("/"))
    if "/" in cluster:
        raise ConfigError(f"url path: one cluster name is needed, not {path!r}")
    if len(cluster.encode("utf-8", "replace")) > limits.NAME_BYTES_MAX:
        raise ConfigError(f"url path: a cluster name has at most {limits.NAME_BYTES_MAX} bytes")
    return cluster


def _options(parts: SplitResult) -> dict[str, str]:
    options: dict[str, str] = {}
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ConfigError(f"url query: name=value&name=value is needed, not {parts.query!r}") from None
    for name, value in pairs:
        if name in options:
            raise ConfigError(f"url option {name}: given twice")
        options[name] = value
    return options
