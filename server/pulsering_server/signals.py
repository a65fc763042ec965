"""SIGTERM and SIGINT as two events: told once, told again. SIGHUP as a third: look at the configuration."""

import asyncio
import signal
from typing import Final

__all__ = ["Signals"]

_NUMBERS: Final = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """``first`` is set by the first signal to end, ``second`` by the next; ``reload`` by each SIGHUP."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self.reload = asyncio.Event()
        self._loop = loop
        for number in _NUMBERS:
            loop.add_signal_handler(number, self._told)
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)

    def _told(self) -> None:
        (self.second if self.first.is_set() else self.first).set()

    def close(self) -> None:
        """Give the signals back."""
        for number in (*_NUMBERS, signal.SIGHUP):
            self._loop.remove_signal_handler(number)
