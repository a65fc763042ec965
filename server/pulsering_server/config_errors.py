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

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

# Nobody repairs more than this in one sitting; a file of garbage must not flood a terminal or a log.
PROBLEMS_SHOWN_MAX: Final = 50
SOURCE_WIDTH_MAX: Final = 100
MESSAGE_WIDTH_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a file. Both numbers count from 1, as editors do."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: the message, its position (None: the file as a whole) and the source line."""

    message: str
    position: Position | None = None
    source: str = ""

    def render(self, file: str) -> str:
        """Return one line, or three with the source line and a caret under the column."""
        message = printable(self.message)
        if len(message) > MESSAGE_WIDTH_MAX:
            message = message[: MESSAGE_WIDTH_MAX - 3] + "..."
        if self.position is None:
            return f"{file}: error: {message}"
        head = f"{file}:{self.position.line}:{self.position.column}: error: {message}"
        if not self.source.strip():
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
        self.problems = tuple(sorted(problems, key=_in_file_order))
        super().__init__(file, self.problems)

    def __str__(self) -> str:
        """Return every problem with its source line and caret."""
        shown = [problem.render(self.file) for problem in self.problems[:PROBLEMS_SHOWN_MAX]]
        if len(self.problems) > PROBLEMS_SHOWN_MAX:
            shown.append(f"{self.file}: error: and {len(self.problems) - PROBLEMS_SHOWN_MAX} more")
        return "\n".join(shown)


def printable(text: str) -> str:
    r"""Return ``text`` on one line with everything a terminal might act on escaped, as in ``\x1b``."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _in_file_order(problem: Problem) -> tuple[int, int]:
    return (problem.position.line, problem.position.column) if problem.position else (0, 0)
