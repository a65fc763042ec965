"""Who gets in: what a node's ports ask of peers, made of its configuration, and changed while they are open.

``Terms`` are what a configuration asks for: a TLS context, and the tokens that count. They are made whole or
not at all, away from the loop, as they read files. The ``Door`` of a running node puts them in force:
connections that come from then on meet them, those that are there stay if their token still counts.
Invariant: a node that listens beyond loopback has terms that keep strangers out, or a configuration that says
in so many words that it does not.
"""

import ipaddress
import socket
import ssl
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import structlog

from pulsering_server.auth import Auth, BadTokenFile, read_auth
from pulsering_server.config_errors import ConfigErrors, Problem
from pulsering_server.config_files import open_to_all, tls_names
from pulsering_server.ownership import Refused

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping
    from datetime import datetime

    from pulsering_server.config import ClusterConfig
    from pulsering_server.listener import Listener

__all__ = ["Door", "Terms", "is_exposed", "terms_of"]

log = structlog.get_logger("pulsering_server.door")


class Terms(NamedTuple):
    """What a configuration asks of peers; None: nothing."""

    tls: ssl.SSLContext | None = None
    auth: Auth | None = None
    ends: "Mapping[str, datetime]" = MappingProxyType({})
    """Until when the files of ``tls`` hold, by their keys."""


def terms_of(config: "ClusterConfig", file: Path) -> Terms:
    """Read the files that a checked configuration names; ``ConfigErrors`` if they changed for the worse."""
    names = tls_names(config.tls, file.parent)
    context = auth = None
    ends: dict[str, datetime] = {}
    try:
        if names is not None:
            from pulsering_server.certificates import BadPem, context_of, ends_of

            try:
                context, ends = context_of(names), ends_of(names)
            except BadPem as error:
                raise ConfigErrors(str(file), [Problem(f"tls.{error.key}: {error}")]) from None
        if config.auth.token_file is not None:
            auth = read_auth(file.parent / config.auth.token_file)
    except BadTokenFile as error:
        message = f"auth.token_file: {config.auth.token_file}: {error}"
        raise ConfigErrors(str(file), [Problem(message)]) from None
    return Terms(context, auth, ends)


async def is_exposed(loop: "asyncio.AbstractEventLoop", host: str) -> bool:
    """Whether others than this machine reach a port there; ``OSError`` for a name that is none."""
    infos = await loop.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return not ipaddress.ip_address(infos[0][4][0]).is_loopback


class Door:
    """The terms in force at the port of ``listener``; ``exposed`` if others than this machine reach it."""

    def __init__(self, listener: "Listener", *, exposed: bool) -> None:
        self._listener = listener
        self._exposed = exposed
        self.tls: ssl.SSLContext | None = None
        """What new connections meet, at the admin port as well if that speaks TLS."""

    def check(self, config: "ClusterConfig") -> None:
        """``Refused`` if a configuration would leave this port open to all without saying so."""
        if self._exposed and open_to_all(config) and not config.auth.insecure_no_token:
            raise Refused(
                f"node {self._listener.core.name} would listen beyond loopback and let in whoever reaches it:"
                " set auth.token_file or tls.client_ca, or say auth.insecure_no_token: true"
            )

    def follow(self, terms: Terms) -> None:
        """Put terms in force."""
        self.tls = self._listener.tls = terms.tls
        core = self._listener.core
        core.counters.note_tls_ends(terms.ends)
        mutual = terms.tls is not None and terms.tls.verify_mode is ssl.CERT_REQUIRED
        log.info(
            "door.terms",
            tls="mutual" if mutual else "off" if terms.tls is None else "on",
            tokens=0 if terms.auth is None else len(terms.auth),
        )
        if terms.auth is not None or core.auth is not None:
            core.auth = terms.auth
            self._listener.recheck()
