"""For tests of code that uses Pulsering: a real node in the test's own process, and its clock in your hand.

``MemoryCluster`` is the node of ``memory://`` on a clock that stands still until it is moved, so *offline
after twenty seconds* is one line and no waiting. It can be stopped and restarted, to see what your service
makes of errors and of *unknown*. Needs the server extra. With pytest, the fixture ``presence_memory`` is one,
and ``presence_url`` is a real node behind a real socket.
"""

import threading
from collections.abc import Callable
from typing import Protocol

from pulsering import limits
from pulsering._plugins import TESTING_GROUP, load_plugin
from pulsering.options import Duration, seconds_of

__all__ = ["Clock", "MemoryCluster"]


class Clock:
    """Time that passes only when it is told to. Safe to move from any thread."""

    def __init__(self) -> None:
        self._now_ms = 1_000_000_000
        self._lock = threading.Lock()

    def now_ms(self) -> int:
        """Milliseconds since nothing in particular."""
        return self._now_ms

    def advance(self, duration: Duration) -> None:
        """Let time pass: seconds, or text like ``"250ms"``, never backwards."""
        seconds = seconds_of("duration", duration, none_allowed=False)
        assert seconds is not None
        with self._lock:
            self._now_ms += round(seconds * 1000)


class _Node(Protocol):
    @property
    def url(self) -> str: ...
    def stop(self) -> None: ...
    def start(self) -> None: ...
    def restart(self) -> None: ...
    def stand_still(self, let_pass: Callable[[int], None]) -> None: ...


class MemoryCluster:
    """A cluster of one node in this process; ``clock.advance(21)`` lets its time pass.

    ::

        cluster = MemoryCluster()
        async with PresenceClient.from_url(cluster.url) as presence:
            await presence.heartbeat(42)
            cluster.clock.advance(21)
            assert not await presence.is_online(42)

    It is there as long as this object or one of its clients. Any number of clients, blocking or not, may use
    it at once. Deadlines of calls are real time, not the clock's. Raises ``ConfigError`` without the server
    extra, or for a ``ttl`` or ``last_seen`` (for how long it remembers) that no cluster may have.
    """

    def __init__(self, *, ttl: Duration = limits.TTL_MS / 1000, last_seen: Duration | None = None) -> None:
        self.clock = Clock()
        seconds = seconds_of("ttl", ttl, none_allowed=False)
        assert seconds is not None
        make = load_plugin(TESTING_GROUP, "memory", "pulsering.testing")
        kept = seconds_of("last_seen", last_seen) or 0
        self._node: _Node = make(
            ttl_ms=round(seconds * 1000),
            last_seen_ms=round(kept * 1000),
            now_ms=self.clock.now_ms,
            steps=True,
        )
        self.url = self._node.url
        """For ``PresenceClient.from_url``, options appended as to any URL."""

    def stop(self) -> None:
        """Break all connections and refuse new ones, as a node that is down; calls fail."""
        self._node.stop()

    def start(self) -> None:
        """Be reachable again after ``stop``, with what was known before."""
        self._node.start()

    def restart(self) -> None:
        """Forget everything, as a node that was replaced: *unknown* for one ttl instead of *offline*.

        Connections break, so calls fail for some milliseconds.
        """
        self._node.restart()

    def go_cold(self) -> None:
        """Stand still for a quarter of the ttl, as a node that got no processor: the clock moves that far.

        Who is online stays online; everybody else is *unknown* for one ttl, as their heartbeats may have been
        missed.
        """
        self._node.stand_still(lambda ms: self.clock.advance(ms / 1000))
