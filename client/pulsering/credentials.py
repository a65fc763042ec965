"""Who a client is to a node: the token that it shows, and its side of TLS.

Both may be files, and files are followed: a token or a certificate that was replaced is used from the next
connection on, so that neither takes a restart of the service to renew. A file that has become unusable
changes nothing. Names of hosts are always checked, and no option turns that off: who really needs to can hand
over an ``SSLContext`` of their own. Invariant: a token appears in no error, log or ``repr``.
"""

import contextlib
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pulsering import limits
from pulsering.errors import ConfigError

__all__ = ["TOKEN_VARIABLE", "TlsFiles", "TokenSource", "explain"]

TOKEN_VARIABLE: Final = "PULSERING_TOKEN"

_Stamp = tuple[int, int, int]


class TokenSource:
    """The token of an option, of a file (its first word), or of the environment; empty if there is none."""

    def __init__(self, token: str | None, file: str | None, environment: Mapping[str, str]) -> None:
        if token is not None and file is not None:
            raise ConfigError("options token and token_file: one of them")
        self._file = None if file is None else Path(file)
        if self._file is not None:
            self._last = _first_word(self._file)
        elif token is not None:
            self._last = _checked(token, "option token")
        else:
            self._last = _checked(environment.get(TOKEN_VARIABLE, "").strip(), TOKEN_VARIABLE, needed=False)

    def current(self) -> str:
        """The token as it is now; the last good one while its file is unusable."""
        if self._file is not None:
            with contextlib.suppress(ConfigError):
                self._last = _first_word(self._file)
        return self._last


class TlsFiles:
    """A context for TLS made of files, and made anew when they change. ``ConfigError`` if it cannot be made.

    ``ca`` is trusted in place of the system's authorities; ``certificate`` and ``key`` are for nodes that ask
    who the client is.
    """

    def __init__(self, ca: str | None, certificate: str | None, key: str | None) -> None:
        self._ca, self._certificate, self._key = ca, certificate, key
        self._files = [file for file in (ca, certificate, key) if file is not None]
        self._stamps = self._look()
        self._context = self._make()

    def current(self) -> ssl.SSLContext:
        """The context for the next connection."""
        stamps = self._look()
        if stamps != self._stamps:
            with contextlib.suppress(ConfigError):
                self._context, self._stamps = self._make(), stamps
        return self._context

    def _look(self) -> list[_Stamp | None]:
        return [_stamp_of(file) for file in self._files]

    def _make(self) -> ssl.SSLContext:
        for name, file in (("ca", self._ca), ("certificate", self._certificate), ("key", self._key)):
            if file is not None:
                _check_readable(f"option tls_{name}: {file}", file)
        try:
            context = ssl.create_default_context(cafile=self._ca)
        except ssl.SSLError as error:
            raise ConfigError(f"option tls_ca: {self._ca}: no certificates in PEM ({error.reason})") from None
        if self._certificate is not None:
            try:
                context.load_cert_chain(self._certificate, self._key, password=_no_password)
            except (ssl.SSLError, ValueError) as error:
                raise ConfigError(_why_no_pair(self._certificate, self._key, error)) from None
        return context


def explain(error: BaseException) -> str:
    """What an error of TLS means, and what to do; empty for any other error."""
    if not isinstance(error, ssl.SSLError):
        return ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the node's certificate is not accepted: {error.verify_message}"
            " (option tls_ca names the authority; the host in the URL must be a name in the certificate)"
        )
    reason = (error.reason or str(error)).upper()
    if "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER_FAILURE" in reason:
        return "the node does not speak TLS here: presence:// instead of presences://"
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return "the node wants a certificate of the client: options tls_certificate and tls_key"
    if "UNKNOWN_CA" in reason or "BAD_CERTIFICATE" in reason or "CERTIFICATE_EXPIRED" in reason:
        return f"the node does not accept the client's certificate ({reason.lower().replace('_', ' ')})"
    return f"TLS failed: {reason.lower().replace('_', ' ')}"


def _first_word(file: Path) -> str:
    what = f"option token_file: {file}"
    _check_readable(what, file)
    with file.open("rb") as stream:
        words = stream.read(limits.TOKEN_FILE_BYTES).split(maxsplit=1)
    return _checked(words[0].decode("ascii", "replace") if words else "", what)


def _checked(token: str, what: str, *, needed: bool = True) -> str:
    """The token, if it can be one; what is wrong with it is said without it."""
    if not token and needed:
        raise ConfigError(f"{what}: no token in it")
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ConfigError(f"{what}: a token is letters, digits and signs of ASCII, without spaces")
    if len(token) > limits.TOKEN_LETTERS_MAX:
        raise ConfigError(f"{what}: a token has at most {limits.TOKEN_LETTERS_MAX} letters")
    return token


def _check_readable(what: str, file: str | Path) -> None:
    try:
        with Path(file).open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{what}: cannot be read: {error.strerror or error}") from None


def _stamp_of(file: str) -> _Stamp | None:
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _no_password() -> str:
    """Called for an encrypted key; without this, OpenSSL would ask on the terminal and wait."""
    raise ValueError("it is encrypted, and there is nobody to ask for its password")


def _why_no_pair(certificate: str, key: str | None, error: Exception) -> str:
    if isinstance(error, ValueError) and not isinstance(error, ssl.SSLError):
        return f"option tls_key: {key or certificate}: {error}"
    reason = getattr(error, "reason", "") or ""
    if "MISMATCH" in reason:
        return f"option tls_key: {key} is not the key of {certificate}"
    missing = "" if key is not None else " (the key in a file of its own: option tls_key)"
    return f"option tls_certificate: {certificate}: no certificate and key in PEM{missing}"
