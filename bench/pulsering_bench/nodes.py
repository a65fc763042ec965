"""The nodes of a demo as real processes, which can be killed and started again, and which never outlive
it.

Each runs ``python -m pulsering_server serve`` exactly as an operator would. Its log goes to a file, of
which the last lines are shown if it does not come up. Invariant: after ``close``, and also if this
process is killed outright, no child is left.
"""

import asyncio
import contextlib
import ctypes
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

READY_S: Final = 15.0
"""A node is up in well under a second; a machine that needs longer than this has another problem."""
STOP_S: Final = 3.0

_PR_SET_PDEATHSIG: Final = 1
_LOG_LINES: Final = 5


class NodeFailed(RuntimeError):
    """A node did not become ready; the message ends with the last lines of its log."""


class Nodes:
    """The processes of one ``cluster.yaml``, by node name."""

    def __init__(self, config: Path, names: tuple[str, ...]) -> None:
        """Start nothing yet; logs are written beside ``config``."""
        self.config = config
        self.names = names
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    async def __aenter__(self) -> Self:
        """Start all nodes at once and wait until each is ready."""
        try:
            await asyncio.gather(*(self.start(name) for name in self.names))
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop all nodes."""
        await self.close()

    async def start(self, name: str) -> None:
        """Start one node; returns when it listens."""
        log = self.config.with_name(f"node-{name}.log")
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "pulsering_server", "serve", "--config", str(self.config), "--node", name),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
                start_new_session=True,  # Ctrl-C is for the demo, which then stops its nodes itself
            )
        self._processes[name] = process
        assert process.stdout is not None
        line = b""
        with contextlib.suppress(TimeoutError):
            line = await asyncio.wait_for(process.stdout.readline(), READY_S)
        if not line.startswith(b"ready "):
            last = "\n".join(
                f"  {text}" for text in log.read_text("utf-8", "replace").splitlines()[-_LOG_LINES:]
            )
            raise NodeFailed(f"node {name} did not start\n{last}".rstrip())

    async def kill(self, name: str) -> None:
        """End one node as a power cut would: SIGKILL, nothing flushed, nobody told."""
        process = self._processes[name]
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    def exit_code(self, name: str) -> int | None:
        """Return how a node ended, or None while it runs."""
        return self._processes[name].returncode

    async def close(self) -> None:
        """Stop all nodes, those that do not listen the hard way."""
        running = [process for process in self._processes.values() if process.returncode is None]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        waits = [asyncio.ensure_future(process.wait()) for process in running]
        if waits:
            await asyncio.wait(waits, timeout=STOP_S)
        for process in running:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        await asyncio.gather(*waits)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
