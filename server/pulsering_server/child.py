"""Node processes as somebody's children: started as an operator would, known to serve, never left behind.

A child is ``python -m pulsering_server serve``. Invariant: when the process that started it is gone, however
it went, so is the child (on Linux; elsewhere only after an orderly end).
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Final

from pulsering_server.service_manager import VARIABLES

__all__ = ["parse_ready", "read_ready", "send_signal", "spawn"]

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None


async def spawn(
    config_path: Path,
    name: str,
    *options: str,
    stderr: IO[bytes] | None = None,
    service: Mapping[str, str] | None = None,
) -> Process:
    """Start ``pulsering serve`` for a node or core; its log goes to ``stderr``, or to ours.

    ``service`` are variables that tell it whom to tell how it is (``service_manager``). What our own manager
    left in our environment is not for it.
    """
    ours = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pulsering_server", "serve"),
        *("--config", str(config_path), "--node", name, *options),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=stderr,
        env=ours | dict(service or {}),
        preexec_fn=_dying_with(os.getpid()) if _LIBC is not None else None,
        start_new_session=True,  # Ctrl-C is for whoever owns the children
    )


async def read_ready(process: Process) -> dict[str, str]:
    """Wait until a child serves: the facts of its ready line; ValueError if it says anything else or ends."""
    assert process.stdout is not None
    line = await process.stdout.readline()
    return parse_ready(line.decode("utf-8", "replace"))


def parse_ready(line: str) -> dict[str, str]:
    """The facts of a ready line: ``node``, ``address``, ``cluster``, ``epoch``; ValueError for another."""
    word, *facts = line.split()[:16] or [""]
    if word != "ready" or not all("=" in fact for fact in facts):
        raise ValueError(f"not a ready line: {line[:200]!r}")
    return dict(fact.split("=", 1) for fact in facts)


def send_signal(process: Process, number: int) -> None:
    """Send a child a signal; nothing if it has ended."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)


def _dying_with(parent: int) -> Callable[[], None]:
    libc = _LIBC
    assert libc is not None

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os.kill(os.getpid(), signal.SIGKILL)

    return ask
