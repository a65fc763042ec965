"""Real servers as children of the bench: on one core, on a free port of loopback, gone when the bench is.

Each has a folder of its own for data and log, removed with it. A server is up when its port accepts a
connection. Invariant: after ``stop``, and also when this process is killed outright, no server is left, and
nothing on the machine was configured.
"""

import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Final

__all__ = ["HOST", "Server", "ServerFailed", "free_port"]

HOST: Final = "127.0.0.1"
READY_S: Final = 20.0
STOP_S: Final = 10.0
LOG_BYTES: Final = 2000
_PORTS: Final = range(20_000, 32_000)
_PR_SET_PDEATHSIG: Final = 1


class ServerFailed(RuntimeError):
    """A server did not come up; the message ends with its log."""


def free_port(host: str = HOST) -> int:
    """A port that was free a moment ago, below those of outgoing connections."""
    for port in random.sample(_PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise ServerFailed(f"no free port found on {host}")


class Server:
    """One process that listens: ``start`` it, use ``port`` and ``pid``, ``stop`` it.

    ``user`` is whom to run as when this is root, for servers that refuse to be root.
    """

    def __init__(self, title: str, core: int, user: str | None = None) -> None:
        self.title = title
        self.port = free_port()
        self.user = user if user is not None and os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="pulsering-bench-"))
        if self.user is not None:
            shutil.chown(self.folder, self.user)
        self._core = core
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process that was started; its children do part of the work in some servers."""
        assert self._process is not None
        return self._process.pid

    def run(self, arguments: Sequence[str]) -> str:
        """Run a command to its end, as the server's user; what it printed, or ``ServerFailed``."""
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            user=self.user,
            group=self.user,
            extra_groups=[] if self.user else None,
            timeout=60,
            check=False,
        )
        printed = done.stdout.decode("utf-8", "replace")
        if done.returncode:
            raise ServerFailed(f"{self.title}: {arguments[0]} failed ({done.returncode})\n{printed}")
        return printed

    def start(self, arguments: Sequence[str]) -> None:
        """Start it and wait until it accepts connections."""
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=self.user,
                group=self.user,
                extra_groups=[] if self.user else None,
                start_new_session=True,
                preexec_fn=_settle(self._core, os.getpid()),
            )
        until = monotonic() + READY_S
        while not self._accepts():
            if self._process.poll() is not None or monotonic() > until:
                log_text = self.log()
                self.stop()
                raise ServerFailed(f"{self.title} did not come up\n{log_text}")
            sleep(0.02)

    def log(self) -> str:
        """The end of what it printed."""
        return (self.folder / "log").read_bytes()[-LOG_BYTES:].decode("utf-8", "replace")

    def stop(self) -> None:
        """End it and remove its folder."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT)  # for PostgreSQL: do not wait for connections
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0


def _settle(core: int, parent: int) -> Callable[[], None]:
    libc = ctypes.CDLL(None)

    def settle() -> None:
        os.sched_setaffinity(0, {core})
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return settle
