"""The log: structlog on stderr, JSON for machines, a console for people, and never a flood.

One event name a line, facts as fields. A name may appear ``LOG_LINES_PER_S`` times a second; what is beyond
is counted and said in one line. Texts from outside are escaped and cut before anything renders them, so no
peer can write a log line of its own or move a terminal's cursor.
"""

import logging
import sys
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final, TextIO

import structlog

from pulsering import limits

__all__ = ["RateLimit", "configure", "printable"]

TEXT_WIDTH_MAX: Final = 300
_OURS: Final = frozenset({"exception", "timestamp", "level"})
"""Fields that structlog itself fills."""

EventDict = MutableMapping[str, Any]


class RateLimit:
    """A structlog processor: at most ``lines`` of one event in any second of ``clock``.

    The first line of a name after some were suppressed carries their number; ``flush`` gives what is still
    untold. Event names are literals in this code, so there are few.
    """

    def __init__(
        self, lines: int = limits.LOG_LINES_PER_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lines = lines
        self._clock = clock
        self._seen: dict[str, tuple[float, int, int]] = {}

    def __call__(self, _logger: Any, _method: str, event_dict: EventDict) -> EventDict:
        """Pass the line on, or drop it."""
        name = str(event_dict.get("event"))
        now = self._clock()
        since, said, suppressed = self._seen.get(name, (now, 0, 0))
        if now - since >= 1.0:
            since, said = now, 0
        if said >= self._lines:
            self._seen[name] = (since, said, suppressed + 1)
            raise structlog.DropEvent
        if suppressed:
            event_dict["suppressed"] = suppressed
        self._seen[name] = (since, said + 1, 0)
        return event_dict

    def flush(self) -> dict[str, int]:
        """Lines suppressed of each event whose second is over, and untold so far."""
        now = self._clock()
        untold = {
            name: suppressed
            for name, (since, _, suppressed) in self._seen.items()
            if suppressed and now - since >= 1.0
        }
        for name in untold:
            self._seen[name] = (now, 0, 0)
        return untold


def printable(text: str) -> str:
    r"""``text`` on one line of bounded width, with what a terminal might act on escaped, as in ``\x1b``."""
    cut = text if len(text) <= TEXT_WIDTH_MAX else text[:TEXT_WIDTH_MAX] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)


def _escape(_logger: Any, _method: str, event_dict: EventDict) -> EventDict:
    for key, value in event_dict.items():
        if isinstance(value, str) and key not in _OURS:
            event_dict[key] = printable(value)
    return event_dict


def configure(node: str, *, stream: TextIO | None = None, level: int = logging.INFO) -> RateLimit:
    """Set up the process's log, every line with ``node``; ``flush`` the limiter it returns."""
    out = sys.stderr if stream is None else stream
    rate_limit = RateLimit()

    def name_node(_logger: Any, _method: str, event_dict: EventDict) -> EventDict:
        event_dict.setdefault("node", node)
        return event_dict

    render: list[Any] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    if out.isatty():
        render = [structlog.dev.ConsoleRenderer()]
    structlog.configure(
        processors=[
            rate_limit,
            name_node,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _escape,
            *render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    return rate_limit
