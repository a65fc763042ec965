"""What one process of this server is told, and how it uses the cluster.

Everything comes from the environment, as uvicorn starts any number of processes from one factory. Invariant:
a ``Settings`` that exists can be used; a secret is never printed.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pulsering.options import Options

__all__ = ["LEAVE_GRACE_S", "POOL", "SECRET", "URL", "Settings"]

URL: Final = "PULSERING_URL"
SECRET: Final = "EXAMPLE_SECRET"
FRIENDS: Final = "EXAMPLE_FRIENDS"

POOL: Final[Options] = {
    # The sizing rule: connections that a node accepts / processes like this one. `pulsering size
    # --api-servers 1000` prints it: 10,000 / 1,000 = 10 is the most that could never fill a node. One
    # connection carries all calls of this process and a second one only grows when 512 requests wait, so the
    # default of 2 is plenty: a pool is for clients that wait for one answer before the next question, which
    # this one does not.
    "min_connections": 1,
    "max_connections": 2,
    # A device waits for this answer. What takes longer than a quarter of a second is answered 503, and the
    # device's next heartbeat says the same anyway.
    "timeout": 0.25,
    # Heartbeats that come within two milliseconds travel in one frame to each node, which no device notices:
    # at ten thousand a second that is twenty in a frame, and a tenth of the CPU that one frame each would
    # take.
    "linger": 0.002,
    # Operators see it in `pulsering conns`.
    "agent": "example-api-server",
}

LEAVE_GRACE_S: Final = 1.0
"""A page that is loaded anew says goodbye just as one that is closed; within this time it is back.

For users of one device each, as here. With several, make it a heartbeat interval and a little:
docs/devices.md.
"""


@dataclass(frozen=True)
class Settings:
    """``url`` of the cluster, the ``secret`` that signs tokens, and the ``friends`` whom everybody has."""

    url: str = "presence://127.0.0.1:7400"
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    friends: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """From ``PULSERING_URL``, ``EXAMPLE_SECRET`` and ``EXAMPLE_FRIENDS`` (ids with commas between them).

        Several processes need one secret, or each refuses the tokens of the others.
        """
        secret = environment.get(SECRET, "").encode()
        return cls(
            url=environment.get(URL) or cls.url,
            secret=secret or secrets.token_bytes(32),
            friends=tuple(filter(None, environment.get(FRIENDS, "").split(","))),
        )
