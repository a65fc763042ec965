"""The documents as a test sees them: their blocks of code, and the commands in those.

A block is a fence with its language and, if it has one, its title: ``python title="hello.py"`` is a file of
that name, ``console title="first terminal"`` a terminal that stays open. A command is a line of a ``console``
block, or several where a line goes on (a backslash at its end, a loop until ``done``).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for path in [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]
    if path.name != "CHANGELOG.md"
)

_FENCE = re.compile(r"^( *)```(\w*)(.*)$")
_TITLE = re.compile(r'title="([^"]+)"')
_QUOTED = re.compile(r"'[^']*'|\"(?:[^\"$]|\$(?!\())*\"")
_COMMENT = re.compile(r"(?:^|\s)#\s.*")
_PROGRAM = re.compile(r"(?:^|\||&&|;|\$\(|\bdo\b)\s*(?:\w+=\S*\s+)*([.\w/-]+)", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: where it begins, and what stands between its fences."""

    document: Path
    line: int
    language: str
    title: str
    text: str

    @property
    def place(self) -> str:
        """``docs/client.md:12``."""
        return f"{self.document.relative_to(REPOSITORY)}:{self.line}"


def blocks_of(document: Path) -> Iterator[Block]:
    """Every fenced block of a document; ValueError for one that does not end."""
    lines = iter(enumerate(document.read_text("utf-8").splitlines(), 1))
    for number, line in lines:
        if fence := _FENCE.match(line):
            indent, language, rest = fence.groups()
            body = []
            for _, inner in lines:
                if inner == f"{indent}```":
                    break
                body.append(inner.removeprefix(indent))
            else:
                raise ValueError(f"{document}:{number}: a block without an end")
            title = match[1] if (match := _TITLE.search(rest)) else ""
            yield Block(document, number, language, title, "\n".join(body) + "\n")


def blocks(*languages: str) -> list[Block]:
    """Those of all documents that are in one of these languages; of all if none is given."""
    found = (block for document in DOCUMENTS for block in blocks_of(document))
    return [block for block in found if not languages or block.language in languages]


def commands(text: str) -> list[str]:
    """What is typed, command by command, without comments."""
    found: list[str] = []
    parts: list[str] = []
    for line in (_COMMENT.sub("", line).rstrip() for line in text.splitlines()):
        if not line:
            continue
        parts.append(line)
        in_loop = parts[0].startswith("for ") and line != "done"
        if not in_loop and not line.endswith("\\"):
            found.append("\n".join(parts))
            parts = []
    return found + ["\n".join(parts)] * bool(parts)


def programs(command: str) -> list[str]:
    """What a command starts, in order: the first word of each part of a pipe, a list or a substitution."""
    return _PROGRAM.findall(_QUOTED.sub("''", command))
