"""How the tour talks to its helpers: a line of JSON each way over their pipes, one question at a time.

A helper is a Python module run on some host: a load, a proxy. It says ``{}`` once it is ready, answers each
line of stdin with one of stdout, and ends when stdin does, so none outlives the tour. Invariant: whoever asks
gets the answer to that question, or ``HelperFailed`` with what the helper wrote last.
"""

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

__all__ = ["Helper", "HelperFailed", "answer_commands", "ended", "environment", "python"]

LINE_BYTES_MAX: Final = 1 << 24
START_S: Final = 30.0
ANSWER_S: Final = 60.0
LOG_BYTES: Final = 4096
TESTS: Final = Path(__file__).parents[1]


class HelperFailed(RuntimeError):
    """A helper ended, or did not answer; the message ends with its last words."""


def environment() -> dict[str, str]:
    """What a Python process needs to find this folder's modules."""
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def python(module: str, *arguments: str, bug: str = "") -> tuple[str, ...]:
    """What runs a module, with one of ``sim.planted`` if a bug is named."""
    planted = ("chaos.planted_run", bug) if bug else ()
    return (sys.executable, "-m", *planted, module, *arguments)


async def ended(process: Process, *, grace_s: float = 0) -> None:
    """Wait for a process's end, and kill it after ``grace_s``."""
    if process.stdin is not None:
        process.stdin.close()
    with contextlib.suppress(TimeoutError):
        if grace_s:
            await asyncio.wait_for(process.wait(), grace_s)
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.communicate()


class Helper:
    """A process that answers."""

    def __init__(self, name: str, process: Process, log_path: Path) -> None:
        self.name = name
        self._process = process
        self._log_path = log_path
        self._asking = asyncio.Lock()

    @classmethod
    async def start(cls, name: str, command: tuple[str, ...], log_path: Path) -> "Helper":
        """Start one and wait until it is ready."""
        with log_path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, stderr=log, env=environment(), limit=LINE_BYTES_MAX
            )
        helper = cls(name, process, log_path)
        try:
            await helper._hear(START_S)
        except BaseException:
            await ended(process)
            raise
        return helper

    async def ask(self, **command: Any) -> dict[str, Any]:
        """The answer to a command."""
        async with self._asking:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            return await self._hear(ANSWER_S)

    async def end(self) -> None:
        """Let it end, or see that it does."""
        await ended(self._process, grace_s=5)

    async def _hear(self, within_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), within_s)
            answer: dict[str, Any] = json.loads(line)
        except (TimeoutError, ValueError) as error:
            words = self._log_path.read_bytes()[-LOG_BYTES:].decode("utf-8", "replace")
            raise HelperFailed(f"{self.name} does not answer ({error!r})\n{words}") from error
        return answer


async def answer_commands(obey: Callable[..., Awaitable[dict[str, Any]]]) -> None:
    """The helper's side: call ``obey`` with the fields of each line until there are no more."""
    reader = asyncio.StreamReader(LINE_BYTES_MAX)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    with contextlib.suppress(BrokenPipeError):  # a tour that is gone reads no answers
        print("{}", flush=True)
        while line := await reader.readline():
            print(json.dumps(await obey(**json.loads(line))), flush=True)
