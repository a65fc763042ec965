"""SIGTERM and SIGINT as two events: told once, told again."""

import asyncio
import signal
from typing import Final

__all__ = ["Signals"]

_NUMBERS: Final = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """``first`` is set by the first signal of either kind, ``second`` by the next."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self._loop = loop
        for number in _NUMBERS:
            loop.add_signal_handler(number, self._told)

    def _told(self) -> None:
        (self.second if self.first.is_set() else self.first).set()

    def close(self) -> None:
        """Give the signals back."""
        for number in _NUMBERS:
            self._loop.remove_signal_handler(number)
