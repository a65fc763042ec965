"""A document that is a session: terminals with a title, files with a name, and what the commands print.

``Session`` plays one from its first block to its last. A block of text below a console block is what the
commands of that block print; numbers, and how wide a table is for them, are not compared. The URL that a
document shows is replaced by the one that was really printed.

``python -m e2e.session`` plays docs/start.md in a fresh clone of this repository, ``make setup`` and all, as
a newcomer would; tests/e2e/test_docs_start.py without what the clone is for.
"""

import math
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from support.documents import REPOSITORY, Block, blocks_of, commands

START: Final = REPOSITORY / "docs" / "start.md"
PATIENCE_S: Final = 30.0
BUILD_S: Final = 900.0
"""For `make setup` on a slow machine with nothing in any cache."""
FRESH_S: Final = 15.0
"""For so long a new cluster is as the document shows it; after one ttl it says other things, and rightly."""

_URL: Final = re.compile(r"presence://[\w.:,]*[\w]")
_DONE: Final = re.compile(r"^::ended (\d+)\n", re.MULTILINE)


class Terminal:
    """A shell that stays open. Everything in it ends with it."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self._shell = subprocess.Popen(
            ["bash", "--norc"],
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._keyboard, self._screen = self._shell.stdin, self._shell.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._screen, selectors.EVENT_READ)

    def type(self, command: str, patience_s: float = PATIENCE_S) -> tuple[int, str]:
        """Run a command to its end: its exit code and what it printed."""
        shown, match = self.type_until(f"{command}\necho ::ended $?", _DONE, patience_s)
        return int(match[1]), shown[: match.start()]

    def type_until(
        self, command: str, wanted: re.Pattern[str], patience_s: float = PATIENCE_S
    ) -> tuple[str, re.Match[str]]:
        """Run a command until the screen has what is wanted: all it showed, and the match in it."""
        self._keyboard.write(f"{command}\n".encode())
        self._keyboard.flush()
        shown, until = b"", time.monotonic() + patience_s
        while (match := wanted.search(shown.decode("utf-8", "ignore"))) is None:
            if not self._selector.select(until - time.monotonic()):
                raise TimeoutError(
                    f"{command!r}: after {patience_s} s only {shown.decode('utf-8', 'replace')!r}"
                )
            read = os.read(self._screen.fileno(), 65536)
            if not read:
                raise EOFError(f"{command!r} ended the shell: {shown.decode('utf-8', 'replace')!r}")
            shown += read
        return shown.decode("utf-8", "ignore"), match

    def interrupt(self) -> int:
        """Ctrl-C; the exit code of what it ended."""
        os.killpg(self._shell.pid, signal.SIGINT)
        return self.type("(exit $?)")[0]

    def close(self) -> None:
        """End the shell and all that it started."""
        os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.wait()
        self._selector.close()
        self._keyboard.close()
        self._screen.close()


class Session:
    """``with Session(…) as session: session.play(document)``; AssertionError where something else happens."""

    def __init__(
        self,
        directory: Path,
        environment: dict[str, str],
        *,
        left_out: str = "^$",
        after: Callable[[str, Path], None] | None = None,
    ) -> None:
        """``left_out``: commands that are not typed. ``after`` is told of each that was, and where."""
        self._directory = directory
        self._environment = environment
        self._left_out = left_out
        self._after = after
        self._terminals: dict[str, Terminal] = {}
        self._url = ""
        self._shown = ""
        self._fresh_until = math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for terminal in self._terminals.values():
            terminal.close()

    def play(self, document: Path) -> int:
        """Do what it says; the number of commands that were typed."""
        typed = 0
        for block in blocks_of(document):
            if block.language == "console":
                self._shown = ""
                for command in commands(block.text):
                    if not re.search(self._left_out, command):
                        self._type(block, command)
                        typed += 1
            elif block.title:
                (self._directory / block.title).write_text(block.text, "utf-8")
            elif block.language == "text" and time.monotonic() < self._fresh_until:
                assert alike(self._shown) == alike(block.text), f"{block.place}\n{self._shown}"
        return typed

    def _type(self, block: Block, command: str) -> None:
        if block.title not in self._terminals:
            self._terminals[block.title] = Terminal(self._directory, self._environment)
        terminal = self._terminals[block.title]
        if self._url:
            command = _URL.sub(self._url, command)
        if command.startswith("pulsering dev"):
            self._shown, match = terminal.type_until(command, _URL)
            self._url = match[0]
            self._fresh_until = time.monotonic() + FRESH_S
        elif "--watch" in command:
            terminal.type_until(command, re.compile(r"\n"))
            code = terminal.interrupt()
            assert code == 0, f"{block.place}: {command}: exit code {code}"
        elif command.endswith("&"):
            terminal.type_until(command, re.compile(r"^ready node=", re.MULTILINE))
        else:
            code, shown = terminal.type(command, BUILD_S if command.startswith("make ") else PATIENCE_S)
            self._shown += shown
            # 1 is the answer of `get` and `status` for somebody unknown and a node that is down.
            worst = 1 if re.match("pulsering (get|status)", command) else 0
            assert code <= worst, f"{block.place}: {command}: exit code {code}\n{shown}"
        if self._after is not None:
            self._after(command, self._directory)


def alike(text: str) -> str:
    """What is the same each time: words, and that there is a number; not which, nor how wide a table is."""
    text = re.sub(r"\d+(ms|s|m)?\b", "#", text)
    return re.sub(r"─+", "─", " ".join(text.split()))


def main() -> int:
    """Play docs/start.md in a fresh clone; the exit code."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PULSERING_", "PYTHON"))
    }
    with tempfile.TemporaryDirectory(prefix="pulsering-newcomer-") as directory:
        clone = Path(directory, "pulsering")
        subprocess.run(["git", "clone", "--quiet", REPOSITORY, clone], check=True)

        def tell(command: str, _: Path) -> None:
            print(f"{time.monotonic() - began:6.1f} s  {command}", flush=True)

        began = time.monotonic()
        with Session(clone, environment, after=tell) as session:
            typed = session.play(clone / "docs" / "start.md")
    print(f"{typed} commands of docs/start.md did what it says, in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
