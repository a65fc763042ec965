"""Who may do what on the data port: tokens, each with a role, from a file.

A line of the file is a role and a token, ``read 3f9c…``; ``#`` begins a comment. Several tokens of one role
are good at once, so that a new one can be handed out before the old one is taken out. Kept are digests only;
a token that is shown is compared with all of them, each in constant time, so no stopwatch tells a token, nor
whether a part of it is right. Pure but for ``read_auth``, which reads the file. Invariant: a token appears in
no log, error, ``repr`` or answer.
"""

import hmac
from collections.abc import Iterable
from enum import IntEnum
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from pulsering import limits
from pulsering.wire import DATA_OPS, Op

__all__ = ["MAKE_ONE", "Auth", "BadTokenFile", "Identity", "Role", "bytes_of", "may", "read_auth"]

MAKE_ONE: Final = "make one with: openssl rand -hex 32"
_WRITES: Final = frozenset({Op.HEARTBEAT, Op.LEAVE})
assert _WRITES < DATA_OPS


class Role(IntEnum):
    """What a token is good for; each may do what those before it may."""

    READ = 1
    """GET, COUNT, TOPOLOGY, PING."""
    WRITE = 2
    """HEARTBEAT and LEAVE as well."""
    ADMIN = 3
    """All that there is, and at the admin port as well."""


def may(role: Role, op: int) -> bool:
    """Whether a role is enough for an op of the data port."""
    return role >= Role.WRITE or op not in _WRITES


class Identity(NamedTuple):
    """Who a peer has turned out to be: its role, and the digest of its token."""

    role: Role
    digest: bytes


class BadTokenFile(ValueError):
    """A file of tokens cannot be used; ``line`` is where (0: as a whole). No message has a token in it."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message if not line else f"line {line}: {message}")
        self.line = line


class Auth:
    """The tokens that count; all else are refused."""

    def __init__(self, tokens: Iterable[tuple[Role, str]]) -> None:
        self._known = tuple((role, _digest(token)) for role, token in tokens)

    def __len__(self) -> int:
        return len(self._known)

    def __repr__(self) -> str:
        return f"<Auth of {len(self)} tokens>"

    def identify(self, token: str) -> Identity | None:
        """Who shows this token; None for one that is not known."""
        return self.still(_digest(token))

    def still(self, digest: bytes) -> Identity | None:
        """Who showed a token with this digest, by what counts now."""
        found = 0
        for role, known in self._known:
            found = max(found, role * hmac.compare_digest(known, digest))
        return Identity(Role(found), digest) if found else None


def read_auth(file: Path) -> Auth:
    """Read a file of tokens; ``BadTokenFile`` says what is wrong with it."""
    lines = bytes_of(file).split(b"\n")
    tokens = [entry for number, line in enumerate(lines, 1) if (entry := _entry(line, number))]
    if not tokens:
        raise BadTokenFile(f"no token in it: a line is a role and a token; {MAKE_ONE}")
    return Auth(tokens)


def bytes_of(file: Path) -> bytes:
    """What is in a file of tokens of whatever form; ``BadTokenFile`` if that cannot be known or be one."""
    try:
        with file.open("rb") as stream:
            data = stream.read(limits.TOKEN_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise BadTokenFile(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > limits.TOKEN_FILE_BYTES:
        raise BadTokenFile(f"more than {limits.TOKEN_FILE_BYTES} bytes: is this it?")
    return data


def _entry(line: bytes, number: int) -> tuple[Role, str] | None:
    words = line.split(b"#", 1)[0].split()
    if not words:
        return None
    roles = {role.name.lower().encode(): role for role in Role}
    if words[0] not in roles:
        raise BadTokenFile("a line is a role (read, write or admin) and a token", number)
    if len(words) != 2:
        raise BadTokenFile(f"one token after the role is needed, not {len(words) - 1}; {MAKE_ONE}", number)
    token = words[1].decode("ascii", "replace")
    if not token.isascii() or not token.isprintable():
        raise BadTokenFile(f"the token is not ASCII; {MAKE_ONE}", number)
    if not limits.TOKEN_LETTERS_MIN <= len(token) <= limits.TOKEN_LETTERS_MAX:
        raise BadTokenFile(
            f"a token of {len(token)} letters: {limits.TOKEN_LETTERS_MIN} to {limits.TOKEN_LETTERS_MAX} are"
            f" needed; {MAKE_ONE}",
            number,
        )
    return roles[words[0]], token


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogatepass")).digest()
