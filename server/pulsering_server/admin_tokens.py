"""Who may steer a node over HTTP: whoever knows a token, from a file or the environment.

The file has a token a line, any of which is good, so that a new one can be handed out before the old one is
taken back; it is read again whenever somebody shows a token. Kept are digests only, and they are compared in
constant time, so that no stopwatch tells a token. Invariant: a token appears in no log, error or answer.
"""

import contextlib
import hmac
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

from pulsering import limits

__all__ = ["VARIABLE", "BadTokens", "Tokens"]

VARIABLE: Final = "PULSERING_ADMIN_TOKEN"

_MAKE_ONE: Final = "make one with: openssl rand -hex 32"


class BadTokens(ValueError):
    """The tokens cannot be used; the message says why, and what to do."""


class Tokens:
    """The tokens of ``file`` and of ``VARIABLE`` in ``environment``; ``BadTokens`` if they cannot be used."""

    def __init__(self, file: Path | None, environment: Mapping[str, str]) -> None:
        self._file = file
        self._told = environment.get(VARIABLE, "").split()
        self._digests = self._read()

    def __bool__(self) -> bool:
        return bool(self._digests)

    def opens(self, token: str) -> bool:
        """Whether it is one of them. A file that has become unusable changes nothing."""
        with contextlib.suppress(BadTokens):
            self._digests = self._read()
        shown = _digest(token)
        good = False
        for digest in self._digests:
            good |= hmac.compare_digest(digest, shown)
        return good

    def _read(self) -> list[bytes]:
        tokens = [(token, VARIABLE) for token in self._told]
        if self._file is not None:
            where = f"admin.token_file {self._file}"
            written = _tokens_of(self._file, where)
            if not written:
                raise BadTokens(f"{where} has no token in it; {_MAKE_ONE}")
            tokens += ((token, where) for token in written)
        for token, where in tokens:
            if len(token) < limits.TOKEN_LETTERS_MIN:
                least = limits.TOKEN_LETTERS_MIN
                raise BadTokens(f"{where}: a token of {len(token)} letters, at least {least}; {_MAKE_ONE}")
        return [_digest(token) for token, _ in tokens]


def _tokens_of(file: Path, where: str) -> list[str]:
    try:
        with file.open("rb") as stream:
            data = stream.read(limits.TOKEN_FILE_BYTES + 1)
    except OSError as error:
        raise BadTokens(f"{where} cannot be read: {error.strerror or error}") from None
    if len(data) > limits.TOKEN_FILE_BYTES:
        raise BadTokens(f"{where} has more than {limits.TOKEN_FILE_BYTES} bytes: is this it?")
    try:
        return data.decode("ascii").split()
    except UnicodeDecodeError:
        raise BadTokens(f"{where} is not ASCII text; {_MAKE_ONE}") from None


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogateescape")).digest()
