"""Where a topology is published: ``etcd://host:port,host:port/key``, read from text or refused with a reason.

Apart from the client of etcd, so that a configuration is checked without an HTTP client being loaded.
"""

import re
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from pydantic import WithJsonSchema

__all__ = ["ETCD_SCHEMA", "EtcdUrl", "checked_etcd_url", "parse_etcd_url"]

_SCHEMES: Final = ("etcd", "etcds")
_PORT: Final = 2379
_EXAMPLE: Final = "such as etcd://10.0.0.1:2379,10.0.0.2:2379/pulsering/prod"


class EtcdUrl(NamedTuple):
    """``etcd://host:port,host:port/key``; ``etcds`` for TLS, with files ``?ca=…&cert=…&cert_key=…``."""

    hosts: tuple[str, ...]
    key: str
    tls: bool = False
    ca: str = ""
    cert: str = ""
    cert_key: str = ""


def parse_etcd_url(text: object) -> EtcdUrl:
    """Read a URL; ``ValueError`` says what is wrong with it."""
    if not isinstance(text, str) or "://" not in text:
        raise ValueError(f"expected the URL of a key of etcd, {_EXAMPLE}")
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise ValueError(f"no URL ({error}): expected one {_EXAMPLE}") from None
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"scheme '{parts.scheme[:40]}': etcd, or etcds for TLS, {_EXAMPLE}")
    if "@" in parts.netloc:
        raise ValueError("no user and password here, as URLs end up in logs: etcds with cert and cert_key")
    hosts = tuple(_host_of(host) for host in parts.netloc.split(","))
    key = unquote(parts.path.removeprefix("/"))
    if not key or parts.fragment:
        raise ValueError(f"no key: expected one after the hosts, {_EXAMPLE}")
    options = dict(pair.partition("=")[::2] for pair in parts.query.split("&") if pair)
    unknown = options.keys() - {"ca", "cert", "cert_key"}
    if unknown or not all(options.values()):
        name = min(unknown or options)[:40]
        raise ValueError(f"option '{name}': there are ca, cert and cert_key, each a file")
    if options and parts.scheme != "etcds":
        raise ValueError("ca, cert and cert_key are for etcds://")
    files = {name: unquote(value) for name, value in options.items()}
    return EtcdUrl(hosts, key, parts.scheme == "etcds", **files)


def _host_of(text: str) -> str:
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?", text):
        raise ValueError(f"bad host '{text[:60]}': expected host:port, {_EXAMPLE}")
    return text if re.search(r":[0-9]{1,5}$", text) and not text.endswith("]") else f"{text}:{_PORT}"


def checked_etcd_url(value: object) -> str:
    """Return the URL as it is, if it is one."""
    parse_etcd_url(value)
    return str(value)


ETCD_SCHEMA: Final = WithJsonSchema({"type": "string", "pattern": "^etcds?://[^/@]+/.+"})
