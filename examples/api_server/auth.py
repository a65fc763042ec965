"""A STUB of what you already have: who is this user? Replace it by your own sessions.

Whoever asks for a name gets it, and a token that says so: the name and an HMAC of it. It never ends and
cannot be taken back. What matters is how the rest of the server uses it: the user of a heartbeat is whoever
the token says, and no request has a field for it. So a user can only ever beat, or leave, for itself.

A token in a header, not a cookie: no other site can make a browser send it, and each tab can be a user of its
own.
"""

import hmac
from hashlib import sha256

__all__ = ["token_for", "user_of"]

_LETTERS = 32
"""128 bits of the HMAC: nobody guesses that."""


def token_for(user: str, secret: bytes) -> str:
    """What this user shows from now on: ``ada.0123…``."""
    return f"{user}.{_signature(user, secret)}"


def user_of(token: str, secret: bytes) -> str | None:
    """Who shows this token; None if we did not sign it."""
    user, _, signature = token.rpartition(".")
    signed = hmac.compare_digest(signature.encode(), _signature(user, secret).encode())
    return user if user and signed else None


def _signature(user: str, secret: bytes) -> str:
    return hmac.digest(secret, b"example user\0" + user.encode(), sha256).hex()[:_LETTERS]
