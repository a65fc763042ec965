"""What a client can be told, each option checked where it is given.

Durations are seconds as a number, or text with its unit (``"250ms"``, ``"2s"``, ``"1m"``). Where it is
allowed, None (in a URL the word ``none``) means no limit; 0 is an error, never a limit of nothing. Invariant:
a ``ClientOptions`` that exists is usable: everything after it takes its values as they are.
"""

import difflib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ssl import SSLContext
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypedDict

from pulsering import limits
from pulsering.credentials import TlsFiles, TokenSource
from pulsering.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

__all__ = ["ClientOptions", "Duration", "Options", "grace_ms_of", "seconds_of"]

Duration: TypeAlias = float | int | str

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)")


def seconds_of(name: str, value: Duration | None, *, none_allowed: bool = True) -> float | None:
    """A duration in seconds, above 0; ``ConfigError`` names the option and what it accepts."""
    accepted = 'seconds above 0, or text like "250ms"' + (", or None for no limit" if none_allowed else "")
    if value is None and none_allowed:
        return None
    seconds = math.nan
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match:
            seconds = float(match[1]) * _UNITS[match[2]]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ConfigError(f"option {name}: {accepted} is needed, not {value!r}")
    return seconds


def grace_ms_of(grace: Duration | None) -> int:
    """The grace of a leave in whole milliseconds, 0 for none; ``ConfigError`` beyond the longest ttl."""
    if grace is None or grace == 0:
        return 0
    seconds = seconds_of("grace", grace)
    assert seconds is not None
    if seconds * 1000 > limits.TTL_MS_MAX:
        raise ConfigError(f"option grace: at most {limits.TTL_MS_MAX / 1000:.0f} s, not {grace!r}")
    return max(1, round(seconds * 1000))


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """Everything a client can be told; each has a default that suits a backend service."""

    timeout: float | None = limits.CALL_TIMEOUT_MS / 1000
    """Seconds for a whole call, retries included. None: no limit."""

    connect_timeout: float | None = limits.CONNECT_TIMEOUT_MS / 1000
    """Seconds for name look-up, TCP, TLS and handshake of one connection. None: no limit but the system's."""

    attempts: int = limits.ATTEMPTS
    """How often a key is asked or sent at most after failures, the first time included. 1: no retry."""

    min_connections: int = 1
    """Connections held to each node."""

    max_connections: int = 2
    """Connections to each node under load. The cluster sees at most this times its clients."""

    linger: float = 0.0
    """Seconds that single-id calls wait for company before their frame goes; 0: one turn of the loop."""

    hedge: float | str | None = None
    """Seconds after which a read also asks the next owner of users whose owner is silent, at most once a call
    and within the retry budget; ``"p95"``: what 19 of 20 answers take. Looked at every 10 ms. None: never."""

    pending_keys_max: int = limits.PENDING_KEYS_MAX
    """Keys in unfinished calls before further calls are refused with ``ClientOverloaded``."""

    ssl: SSLContext | None = None
    """Context for ``presences://``; None: the system's trusted certificates, host names checked."""

    tls_ca: str | None = None
    """PEM file of the authorities whose certificates nodes must show. None: those that the system trusts."""

    tls_certificate: str | None = None
    """PEM file of the client's own certificate, for nodes that ask for one, with its key unless tls_key."""

    tls_key: str | None = None
    """PEM file of the key of tls_certificate."""

    token: str | None = field(default=None, repr=False)
    """What the client shows nodes that ask who it is. Never in a URL. None: $PULSERING_TOKEN, if set."""

    token_file: str | None = None
    """File whose first word is the token; read again for each connection, so it may be replaced any time."""

    agent: str = ""
    """Who is asking, shown on the node to its operators; at most 63 bytes. Empty: library and version."""

    telemetry: "bool | MeterProvider" = False
    """Metrics for OpenTelemetry: True for the global meter provider, or a provider. Needs the otel extra."""

    def __post_init__(self) -> None:
        for name in ("timeout", "connect_timeout"):
            object.__setattr__(self, name, seconds_of(name, getattr(self, name)))
        if self.hedge != "p95":
            object.__setattr__(self, "hedge", _hedge_of(self.hedge))
        if self.linger != 0:
            object.__setattr__(self, "linger", seconds_of("linger", self.linger, none_allowed=False))
        for name, low, high in (
            ("attempts", 1, 10),
            ("min_connections", 1, 64),
            ("max_connections", 1, 64),
            ("pending_keys_max", 1, 1 << 32),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ConfigError(f"option {name}: an int in {low}..{high} is needed, not {value!r}")
        if self.max_connections < self.min_connections:
            raise ConfigError(
                f"option max_connections: {self.max_connections} is below min_connections "
                f"({self.min_connections})"
            )
        if self.ssl is not None and not isinstance(self.ssl, SSLContext):
            raise ConfigError(
                f"option ssl: an ssl.SSLContext or None is needed, not {type(self.ssl).__name__}"
            )
        _check_telemetry(self.telemetry)
        self._check_credentials()
        agent: object = self.agent
        if not isinstance(agent, str) or len(agent.encode()) > limits.NAME_BYTES_MAX:
            raise ConfigError(
                f"option agent: a str of at most {limits.NAME_BYTES_MAX} bytes is needed, not {self.agent!r}"
            )

    def _check_credentials(self) -> None:
        """Keep what ``token_now`` and ``tls_now`` answer from."""
        for name in ("tls_ca", "tls_certificate", "tls_key", "token", "token_file"):
            value: object = getattr(self, name)
            if isinstance(value, os.PathLike) and name != "token":
                value = os.fspath(value)
                object.__setattr__(self, name, value)
            if value is not None and not (isinstance(value, str) and value):
                raise ConfigError(f"option {name}: a str or None is needed, not {type(value).__name__}")
        if self.tls_key is not None and self.tls_certificate is None:
            raise ConfigError("option tls_key: only together with tls_certificate, whose key it is")
        files = (self.tls_ca, self.tls_certificate, self.tls_key)
        if self.ssl is not None and any(files):
            raise ConfigError("option ssl: not together with tls_ca, tls_certificate or tls_key")
        object.__setattr__(self, "_token", TokenSource(self.token, self.token_file, os.environ))
        object.__setattr__(self, "_tls", TlsFiles(*files) if any(files) else None)

    def token_now(self) -> str:
        """The token to show with the next connection; empty for none."""
        source: TokenSource = self.__dict__["_token"]
        return source.current()

    def tls_now(self) -> SSLContext | None:
        """The context for the next connection by TLS; None where the defaults will do."""
        files: TlsFiles | None = self.__dict__["_tls"]
        return self.ssl if files is None else files.current()

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any], from_url: Mapping[str, str]) -> "ClientOptions":
        """Options from a URL's text and from keyword arguments, which win."""
        values: dict[str, Any] = {name: _from_text(name, text) for name, text in from_url.items()}
        values.update(given)
        known = {each.name for each in fields(cls)}
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
                raise ConfigError(f"option {name}: not known; {hint}")
        return cls(**values)


class Options(TypedDict, total=False):
    """The fields of ``ClientOptions`` as they may be given, so that type checkers know each by its name."""

    timeout: Duration | None
    connect_timeout: Duration | None
    attempts: int
    min_connections: int
    max_connections: int
    linger: Duration
    hedge: Duration | None
    pending_keys_max: int
    ssl: SSLContext | None
    tls_ca: "str | os.PathLike[str] | None"
    tls_certificate: "str | os.PathLike[str] | None"
    tls_key: "str | os.PathLike[str] | None"
    token: str | None
    token_file: "str | os.PathLike[str] | None"
    agent: str
    telemetry: "bool | MeterProvider"


def _check_telemetry(given: object) -> None:
    if given is False:
        return
    try:
        from opentelemetry.metrics import MeterProvider
    except ImportError:
        raise ConfigError(
            "option telemetry: it needs the 'otel' extra: pip install 'pulsering[otel]'"
        ) from None
    if given is not True and not isinstance(given, MeterProvider):
        raise ConfigError(f"option telemetry: True, False or a MeterProvider is needed, not {given!r}")


def _hedge_of(value: Duration | None) -> float | None:
    try:
        return seconds_of("hedge", value)
    except ConfigError as error:
        raise ConfigError(f'{error}; "p95" is accepted too') from None


def _from_text(name: str, text: str) -> Any:
    if name in ("attempts", "min_connections", "max_connections", "pending_keys_max"):
        return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else text
    if name == "ssl":
        raise ConfigError("option ssl: only as a keyword argument; a URL asks for TLS by presences://")
    if name == "token":
        raise ConfigError(
            "option token: never in a URL, as URLs end up in logs; as a keyword argument, token_file or"
            " $PULSERING_TOKEN"
        )
    if name in ("timeout", "connect_timeout", "hedge") and text.lower() == "none":
        return None
    if name == "telemetry" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if name == "linger" and text == "0":
        return 0.0
    return text
