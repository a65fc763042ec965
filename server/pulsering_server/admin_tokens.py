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
from pulsering_server.auth import MAKE_ONE, BadTokenFile, Role, bytes_of

__all__ = ["VARIABLE", "BadTokens", "Tokens", "read_tokens"]

VARIABLE: Final = "PULSERING_ADMIN_TOKEN"


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
        where = VARIABLE
        try:
            for token in self._told:
                _check(token)
            tokens = list(self._told)
            if self._file is not None:
                where = f"admin.token_file: {self._file}"
                tokens += read_tokens(self._file)
        except BadTokenFile as error:
            raise BadTokens(f"{where}: {error}") from None
        return [_digest(token) for token in tokens]


def read_tokens(file: Path) -> list[str]:
    """The tokens of a file, one a line; ``BadTokenFile`` says what is wrong with it."""
    try:
        tokens = bytes_of(file).decode("ascii").split()
    except UnicodeDecodeError:
        raise BadTokenFile(f"not ASCII text; {MAKE_ONE}") from None
    if not tokens:
        raise BadTokenFile(f"no token in it: a line is a token; {MAKE_ONE}")
    if {role.name.lower() for role in Role} & {*tokens}:
        raise BadTokenFile("a line is a token, without a role: each of them may do everything here")
    for token in tokens:
        _check(token)
    return tokens


def _check(token: str) -> None:
    if len(token) < limits.TOKEN_LETTERS_MIN:
        least = limits.TOKEN_LETTERS_MIN
        raise BadTokenFile(f"a token of {len(token)} letters: at least {least} are needed; {MAKE_ONE}")


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogateescape")).digest()
