"""One question to one node, as far as a connection knows it.

Whoever asks keeps it until the outcome and may say what else belongs to it in a class of its own: a call adds
where its keys are (``_calls.Send``). So a frame is one object from the call that wants it sent to its reply.
It knows no socket and no clock. Invariant: it is told exactly one outcome, or was abandoned.
"""

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from pulsering._connection import Connection
    from pulsering.errors import PresenceError
    from pulsering.wire import Op

__all__ = ["Outcome", "Request"]

Outcome: TypeAlias = "Callable[[Any, Any, PresenceError | None], None]"
"""Called once with (the request, decoded reply, None) or (the request, None, error)."""


class Request:
    """``abandon`` it when its answer no longer matters."""

    count = 0
    """Keys that the reply must speak of."""
    want_ages = False
    want_last_seen = False
    id = 0
    sent_at = 0.0
    """Loop time at which it went to the socket."""
    connection: "Connection | None" = None

    def __init__(self, op: "Op", body: bytes, sender_ms: int, on_outcome: Outcome) -> None:
        self.op = op
        self.body = body
        """Emptied once it is sent: only the rest is needed until the outcome is there."""
        self.sender_ms = sender_ms
        self.on_outcome: Outcome | None = on_outcome

    def abandon(self) -> None:
        """Forget it if it has not left; else leave a tombstone that swallows its reply."""
        self.on_outcome = None
        if self.connection is not None:
            self.connection.forget(self)

    def settle(self, reply: Any, error: "PresenceError | None") -> None:
        """Tell the outcome, unless nobody waits for it."""
        on_outcome, self.on_outcome = self.on_outcome, None
        if on_outcome is not None:
            on_outcome(self, reply, error)
