"""YAML text to plain values, with the position of each key and value, and every structural problem.

Built from ruamel.yaml's event stream (YAML 1.2: ``on`` is text, ``012`` is twelve) rather than its loader,
for three reasons: a duplicate key does not hide what follows it; after a syntax error what was read before
it can still be checked; and nesting is counted here, so no input can exhaust the stack.

Anchors, aliases, tags and further documents are refused: each can make a file mean something that its reader
does not see.
"""

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.reader import ReaderError

from pulsering_server.config_errors import Position, Problem, look_alike

# A thousand nodes are 80 KB, and the parser is slow: 1 MiB is the most that still loads in seconds.
TEXT_BYTES_MAX: Final = 1 << 20
DEPTH_MAX: Final = 16
_NUMBER_WIDTH_MAX: Final = 40

Path = tuple[str | int, ...]
Plain = Any  # None | bool | int | float | str | tuple[Plain, ...] | dict[str, Plain]


@dataclass(slots=True)
class Document:
    """A parsed file: values, where each key and value stands, and what is wrong with its structure."""

    lines: list[str]
    root: Plain = None
    values: dict[Path, Position] = field(default_factory=dict)
    keys: dict[Path, Position] = field(default_factory=dict)
    last_lines: dict[Path, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    broken_at: int | None = None
    """The line of the syntax error that ended parsing; what is missing after it may be there."""
    outside: dict[Position, str] = field(default_factory=dict)
    """What was written for each value that does not come from the file."""

    def problem(self, message: str, position: Position, *, warning: bool = False) -> Problem:
        """Return a problem that shows the source line it is about."""
        in_file = not position.source and 1 <= position.line <= len(self.lines)
        line = self.lines[position.line - 1] if in_file else self.outside.get(position, "")
        return Problem(message, position, line, warning=warning)

    def override(self, path: Path, value: "Plain", position: Position, line: str) -> None:
        """Put a value from outside the file in place of its own, unless there is no mapping to put it in."""
        where = self.root
        for step in path[:-1]:
            if not isinstance(where, dict):
                return
            if where.get(str(step)) is None:
                where[str(step)] = {}
            where = where[str(step)]
        if isinstance(where, dict):
            where[str(path[-1])] = value
            self.values[path] = self.keys[path] = position
            self.outside[position] = line

    def nearest(self, path: Path) -> Position:
        """Return where the value at ``path`` stands, or the closest thing around it."""
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, Position(1, 1))


@dataclass(slots=True)
class _Open:
    """A mapping or list whose end has not come yet. Below a duplicate key ``path`` is None."""

    path: Path | None
    mapping: dict[str, Plain] | None
    items: list[Plain]
    key: str | None = None
    duplicate: bool = False


class _Stop(Exception):
    """The rest of the file cannot be read."""

    def __init__(self, message: str, position: Position) -> None:
        self.message = message
        self.position = position


def read_document(text: str) -> Document:
    """Parse ``text``; never raises: problems are in the result."""
    document = Document(re.split(r"\r\n|\r|\n", text))
    try:
        _Builder(document).run(_events(text))
    except _Stop as stop:
        document.problems.append(document.problem(stop.message, stop.position))
        document.broken_at = stop.position.line
    except MarkedYAMLError as error:
        problems = list(_explain(error, document.lines))
        document.problems += [document.problem(message, position) for message, position in problems]
        document.broken_at = problems[0][1].line
    except ReaderError as error:
        before = text[: error.position] if isinstance(error.position, int) else ""
        position = Position(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
        document.problems.append(document.problem("a control character, which YAML does not allow", position))
        document.broken_at = position.line
    except Exception as error:
        # A parser that trips over odd text (with an IndexError, say) found it invalid.
        document.problems.append(Problem(f"not valid YAML: {type(error).__name__}: {error}"))
        document.broken_at = 0
    return document


def _events(text: str) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield from YAML(typ="safe", pure=True).parse(text)


class _Builder:
    """Folds events into plain values, with the open collections on a stack of its own."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._open: list[_Open] = []
        self._documents = 0
        self._resolve = YAML(typ="safe", pure=True).resolver.resolve

    def run(self, events: Iterator[Any]) -> None:
        try:
            for event in events:
                self._take(event)
        finally:
            while self._open:
                self._close()

    def _take(self, event: Any) -> None:
        kind = type(event).__name__
        if kind == "DocumentStartEvent":
            self._documents += 1
            if self._documents > 1:
                raise _Stop("a second YAML document: a configuration is one document", _start(event))
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            self._close()
        elif kind in ("ScalarEvent", "MappingStartEvent", "SequenceStartEvent", "AliasEvent"):
            self._refuse_indirection(event, kind)
            container = self._open[-1] if self._open else None
            if container and container.mapping is not None and container.key is None:
                self._key(container, event, kind)
            else:
                self._value(container, event, kind)

    def _refuse_indirection(self, event: Any, kind: str) -> None:
        if kind == "AliasEvent" or event.anchor is not None:
            raise _Stop("anchors and aliases (& and *) are not supported: write the value out", _start(event))
        if event.tag not in (None, "!"):
            raise _Stop("tags (!) are not supported: a value's type follows from its key", _start(event))

    def _key(self, container: _Open, event: Any, kind: str) -> None:
        if kind != "ScalarEvent":
            raise _Stop(
                "a key must be one word, not a list or mapping (a placeholder left over?)", _start(event)
            )
        container.key = key = str(event.value)
        assert container.mapping is not None
        container.duplicate = key in container.mapping
        if container.path is None:
            return
        path, position = (*container.path, key), _start(event)
        if container.duplicate:
            first = self._document.keys[path].line
            where = render_path(path)
            message = f"{where}: duplicate key (first on line {first}); keep one"
            self._document.problems.append(self._document.problem(message, position))
        else:
            self._document.keys[path] = position

    def _value(self, container: _Open | None, event: Any, kind: str) -> None:
        path: Path | None = ()
        if container is not None:
            if container.path is None or container.duplicate:
                path = None
            else:
                path = (*container.path, len(container.items) if container.key is None else container.key)
        if path is not None:
            self._locate(path, event, kind)
        if kind == "ScalarEvent":
            self._attach(container, self._scalar(event))
            return
        if len(self._open) >= DEPTH_MAX:
            raise _Stop(f"nested deeper than {DEPTH_MAX} levels", _start(event))
        self._open.append(_Open(path, {} if kind == "MappingStartEvent" else None, []))

    def _locate(self, path: Path, event: Any, kind: str) -> None:
        position = _start(event)
        if kind == "ScalarEvent":
            self._document.last_lines[path] = event.end_mark.line + 1
            if not event.value and event.implicit[0]:
                # The parser finds a value left out at the next token, which may be on another line.
                position = self._document.keys.get(path, position)
        self._document.values[path] = position

    def _close(self) -> None:
        closed = self._open.pop()
        value = tuple(closed.items) if closed.mapping is None else closed.mapping
        self._attach(self._open[-1] if self._open else None, value)

    def _attach(self, container: _Open | None, value: Plain) -> None:
        if container is None:
            self._document.root = value
        elif container.mapping is None:
            container.items.append(value)
        elif container.key is not None:
            if not container.duplicate:
                container.mapping[container.key] = value
            container.key, container.duplicate = None, False

    def _scalar(self, event: Any) -> Plain:
        text = str(event.value)
        return _plain(text, str(self._resolve(ScalarNode, text, event.implicit)))


def plain_of(text: str) -> Plain:
    """Return what ``text`` would mean as a value of a file, outside quotes."""
    return _plain(text, str(YAML(typ="safe", pure=True).resolver.resolve(ScalarNode, text, (True, False))))


def _plain(text: str, tag: str) -> Plain:
    kind = tag.rpartition(":")[2]
    try:
        if kind == "int" and len(text) <= _NUMBER_WIDTH_MAX:
            return _integer(text)
        if kind == "float" and len(text) <= _NUMBER_WIDTH_MAX:
            return float(text.replace("_", ""))
    except ValueError:
        return text
    if kind == "bool":
        return text.lower() == "true"
    return None if kind == "null" else text


def render_path(path: Path) -> str:
    """Return a path as an operator would say it: ``nodes[0].weight``."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            shown = step if len(step) <= 60 else step[:57] + "..."
            text += f".{shown}" if text else shown
    return text


def _integer(text: str) -> int:
    digits = text.replace("_", "").lower()
    prefix = digits.lstrip("+-")[:2]
    return int(digits, {"0x": 16, "0o": 8, "0b": 2}.get(prefix, 10))


def _start(event: Any) -> Position:
    return _position(event.start_mark)


def _position(mark: Any) -> Position:
    return Position(mark.line + 1, mark.column + 1)


def _explain(error: MarkedYAMLError, lines: list[str]) -> Iterator[tuple[str, Position]]:
    """Yield the parser's complaint in an operator's words, and where to look; at least one."""
    what = str(error.problem or error.context or "unreadable")
    at = _position(error.problem_mark or error.context_mark)
    opened = _position(error.context_mark or error.problem_mark)
    line = lines[at.line - 1] if at.line <= len(lines) else ""
    if r"'\t'" in what:
        tabbed = [(n, re.match(r" *\t", text)) for n, text in enumerate(lines, 1)]
        yield from ((_TAB, Position(n, match.end())) for n, match in tabbed if match)
        yield from () if any(match for _, match in tabbed) else ((_TAB, at),)
    elif "stream end" in what or "end of stream" in what:
        yield (
            f"the file ends inside what line {opened.line} opens: truncated, or a bracket or quote is open",
            at,
        )
    elif "could not find expected ':'" in what:
        opening = lines[opened.line - 1].lstrip()
        if opening.startswith(("<<<<<<<", "=======", ">>>>>>>")):
            yield "a merge conflict left over", opened
        else:
            truncated = "" if any(lines[opened.line :]) else " (is the file truncated?)"
            yield f"a line without ': ': expected 'key: value'{truncated}{look_alike(opening)}", opened
    elif re.match(r"[^#]*:\s*\[[0-9A-Fa-f:.]+\]:", line):
        yield 'an IPv6 address needs quotes here, as in "[::1]:7400"', at
    elif "mapping values are not allowed" in what:
        yield "a ':' where a value cannot have one: check the indentation, or put the value in quotes", at
    elif match := re.search(r"expected <block end>, but found '([]},])'", what):
        yield f"a '{match[1]}' too many", at
    elif re.match(r"[+-][A-Za-z]", line) and "expected" in what:
        yield f"a '{line[0]}' before a key: a patch left over?", at
    elif "expected <block end>" in what or "expected '<document start>'" in what:
        yield "does not line up with the lines before it: check the indentation", at
    elif match := re.search(r"found character '(.)' that cannot start", what):
        yield f"a value cannot start with '{match[1]}': put it in quotes", at
    elif match := re.match(r"expected ',' or '([]}])', but got", what):
        yield f"a ',' or '{match[1]}' is missing before this", at
    else:
        yield f"not valid YAML: {what}", at


_TAB: Final = "a tab in the indentation: YAML wants spaces"
