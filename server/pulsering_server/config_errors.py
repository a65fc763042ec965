"""What is wrong with a configuration file, in the form an operator reads it.

::

    ConfigErrors (ValueError)   every problem of one file at once, in the order of its lines
      .problems                 tuple of Problem: where, what, and the line it stands on

Rendered the way compilers do, so that editors and terminals make the position a link::

    cluster.yaml:8:5: error: nodes[0].weigth: unknown key (did you mean 'weight'?)
        weigth: 3
        ^

Output is bounded and printable whatever the file holds: long lines are cut around the caret, control
characters become spaces or escapes, and after ``PROBLEMS_SHOWN_MAX`` the rest is counted.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

# Nobody repairs more than this in one sitting; a file of garbage must not flood a terminal or a log.
PROBLEMS_SHOWN_MAX: Final = 50
SOURCE_WIDTH_MAX: Final = 100
MESSAGE_WIDTH_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a file. Both numbers count from 1, as editors do.

    ``source`` is what it is in when not in the file: the environment, or a command line. Its lines are then
    numbered as they come, and the numbers not shown.
    """

    line: int
    column: int
    source: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: the message, its position (None: the file as a whole) and the source line.

    A ``warning`` is something that may be meant so, and stops nothing.
    """

    message: str
    position: Position | None = None
    source: str = ""
    warning: bool = False

    def where(self, file: str) -> str:
        """Return ``file:line:column``, or what else set the value, or the file alone."""
        if self.position is None:
            return file
        return self.position.source or f"{file}:{self.position.line}:{self.position.column}"

    def render(self, file: str) -> str:
        """Return one line, or three with the source line and a caret under the column."""
        kind = "warning" if self.warning else "error"
        message = printable(self.message)
        if len(message) > MESSAGE_WIDTH_MAX:
            message = message[: MESSAGE_WIDTH_MAX - 3] + "..."
        head = f"{self.where(file)}: {kind}: {message}"
        if self.position is None or not self.source.strip():
            return head
        column = min(self.position.column - 1, len(self.source))
        start = max(0, column - SOURCE_WIDTH_MAX // 2) if len(self.source) > SOURCE_WIDTH_MAX else 0
        excerpt = "".join(
            c if c.isprintable() else " " for c in self.source[start : start + SOURCE_WIDTH_MAX]
        )
        return f"{head}\n    {excerpt.rstrip()}\n    {' ' * (column - start)}^"


class ConfigErrors(ValueError):
    """A configuration file that cannot be used. ``str()`` of it is what the operator should see."""

    def __init__(self, file: str, problems: Iterable[Problem]) -> None:
        """Keep the problems in file order; those about the file as a whole come first."""
        self.file = file
        self.problems = in_file_order(problems)
        super().__init__(file, self.problems)

    def __str__(self) -> str:
        """Return every problem with its source line and caret."""
        return render(self.file, self.problems)


def render(file: str, problems: Sequence[Problem]) -> str:
    """Return what an operator should read of ``problems``: each with its line and caret, the rest counted."""
    shown = [problem.render(file) for problem in problems[:PROBLEMS_SHOWN_MAX]]
    if len(problems) > PROBLEMS_SHOWN_MAX:
        kind = "warning" if problems[-1].warning else "error"
        shown.append(f"{file}: {kind}: and {len(problems) - PROBLEMS_SHOWN_MAX} more")
    return "\n".join(shown)


def in_file_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return problems in the order of their lines; those about the file as a whole come first."""
    return tuple(sorted(problems, key=_in_file_order))


def look_alike(text: str) -> str:
    """Return what is odd about a letter that an eye takes for another: pasted from a chat, or a document."""
    odd = next((letter for letter in text if not letter.isascii()), None)
    if odd is None:
        return ""
    name = unicodedata.name(odd, "character unknown").lower()
    return f"; its '{odd}' is a {name}" if odd.isprintable() else f"; it has a {name}"


def printable(text: str) -> str:
    r"""Return ``text`` on one line with everything a terminal might act on escaped, as in ``\x1b``."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _in_file_order(problem: Problem) -> tuple[str, int, int]:
    at = problem.position
    return ("", 0, 0) if at is None else (at.source, at.line, at.column)
