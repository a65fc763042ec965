"""What can go wrong, as a tree by who is at fault.

::

    PresenceError
    ├── ConfigError (ValueError)            the caller: a URL or an option is not usable
    ├── ClientClosed (RuntimeError)         the caller: used before opening, after closing, in another loop
    ├── Unauthorized (PermissionError)      the caller: no token, one that is not known, or not for this
    ├── WatchOverflow (BufferError)         the caller: a watch was read too slowly, and is over
    ├── CallTimeout (TimeoutError)          nobody yet known: the call's own deadline passed
    ├── UnknownPresence (LookupError)       nobody: the cluster cannot say, and a bool was asked for
    ├── Overloaded                          us or the peer: a limit was reached; nothing was lost, try later
    │   ├── ClientOverloaded                this client already holds as much as it may
    │   └── NodeBusy                        a node refused; ``retry_after`` says when
    ├── NodeUnavailable (ConnectionError)   the peer, or the way to it
    │   ├── NoNodeReachable                 not one node of the cluster answered
    │   └── NodeDraining                    the node is leaving and said so
    ├── NotServed (NotImplementedError)     the peer: a node of a version that does not know the operation
    └── ProtocolError                       the peer: bytes that the protocol does not allow
        ├── FrameError                      a frame or body that cannot be read
        ├── VersionMismatch                 no protocol version in common
        └── ClusterMismatch                 a node of another cluster

Every error carries ``node`` (name or address, or None), ``op`` (or None) and ``retryable``. Each subclasses
the builtin whose handlers would expect it, and none takes a builtin's name.
"""

from typing import Any, ClassVar

__all__ = [
    "CallTimeout",
    "ClientClosed",
    "ClientOverloaded",
    "ClusterMismatch",
    "ConfigError",
    "FrameError",
    "NoNodeReachable",
    "NodeBusy",
    "NodeDraining",
    "NodeUnavailable",
    "NotServed",
    "Overloaded",
    "PresenceError",
    "ProtocolError",
    "Unauthorized",
    "UnknownPresence",
    "VersionMismatch",
    "WatchOverflow",
]


class PresenceError(Exception):
    """Base of everything this library raises on its own.

    ``node`` is the node's name or address and ``op`` the operation, where there is one; ``retryable`` says
    whether the same call may succeed later. Every operation is idempotent, so a retry is always safe.
    """

    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, node: str | None = None, op: str | None = None) -> None:
        super().__init__(message)
        self.node = node
        self.op = op


class ConfigError(PresenceError, ValueError):
    """A URL or an option is not usable; the message names it and what is accepted."""


class ClientClosed(PresenceError, RuntimeError):
    """The client is not open here: not yet entered, closed, forked, or bound to another event loop."""


class Unauthorized(PresenceError, PermissionError):
    """The node knows no such token, or its role may not do this. The message never has the token.

    With an ``op`` other than HELLO, that operation was refused, and repeating it is no use.
    """


class WatchOverflow(PresenceError, BufferError):
    """A watch was read too slowly, and is over. ``waiting`` users had changes that were not read.

    Begin a new watch: it starts with the state of each user.
    """

    retryable = True

    def __init__(self, message: str, *, waiting: int) -> None:
        super().__init__(message, op="WATCH")
        self.waiting = waiting


class CallTimeout(PresenceError, TimeoutError):
    """The call's deadline passed. ``elapsed`` is in seconds; ``attempts`` lists (node, what happened)."""

    retryable = True

    def __init__(
        self,
        message: str,
        *,
        node: str | None = None,
        op: str | None = None,
        elapsed: float = 0.0,
        attempts: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message, node=node, op=op)
        self.elapsed = elapsed
        self.attempts = attempts


class UnknownPresence(PresenceError, LookupError):
    """The cluster cannot know whether the user is online. ``reason`` is a ``pulsering.Reason``.

    ``retry_after`` is in seconds, None where no node said when it will know.
    """

    retryable = True

    def __init__(
        self,
        message: str,
        *,
        reason: Any = None,
        retry_after: float | None = None,
        node: str | None = None,
        op: str | None = None,
    ) -> None:
        super().__init__(message, node=node, op=op)
        self.reason = reason
        self.retry_after = retry_after


class Overloaded(PresenceError):
    """A limit was reached; the request was refused whole and may be repeated later."""

    retryable = True


class ClientOverloaded(Overloaded):
    """This client already holds as many unanswered keys as it may: slow down, or add a client."""


class NodeBusy(Overloaded):
    """A node refused the request. ``retry_after`` is in seconds."""

    def __init__(
        self, message: str, *, node: str | None = None, op: str | None = None, retry_after: float = 0.0
    ) -> None:
        super().__init__(message, node=node, op=op)
        self.retry_after = retry_after


class NodeUnavailable(PresenceError, ConnectionError):
    """A node cannot be reached, or the connection to it ended before it answered."""

    retryable = True


class NoNodeReachable(NodeUnavailable):
    """Not one node of the cluster answered. ``attempts`` lists (address, what happened)."""

    def __init__(
        self, message: str, *, op: str | None = None, attempts: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(message, op=op)
        self.attempts = attempts


class NodeDraining(NodeUnavailable):
    """The node is leaving; its slots are answered by their other owners."""


class NotServed(PresenceError, NotImplementedError):
    """The node is of an older version, which does not know the operation."""


class ProtocolError(PresenceError):
    """The peer sent what the protocol does not allow; the connection is dropped."""


class FrameError(ProtocolError):
    """A frame or its body cannot be read. ``code`` is the wire's error code for it."""

    def __init__(
        self, message: str, *, code: int = 1, node: str | None = None, op: str | None = None
    ) -> None:
        super().__init__(message, node=node, op=op)
        self.code = code


class VersionMismatch(ProtocolError):
    """No protocol version in common; ``ours`` and ``theirs`` are (lowest, highest)."""

    def __init__(
        self, message: str, *, ours: tuple[int, int], theirs: tuple[int, int], node: str | None = None
    ) -> None:
        super().__init__(message, node=node, op="HELLO")
        self.ours = ours
        self.theirs = theirs


class ClusterMismatch(ProtocolError):
    """The node belongs to another cluster than the one asked for."""
