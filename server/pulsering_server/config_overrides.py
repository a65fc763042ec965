"""Settings from outside the file: ``PULSERING_LIMITS__MEMORY=8GiB`` and ``--set limits.memory=8GiB``.

The command line comes before the environment, that before the file, and the file before the default. Only
keys of sections (``limits``, ``admin``) can be set so, as they are of one node. All others every node and
client must agree on, so to set them for one process would split the cluster: that is an error, not ignored.
Two underscores stand between section and key. Names with one are left to others: Kubernetes, for one,
sets ``PULSERING_PORT`` for a service of this name. A variable that is set to nothing is not set.

Pure: the environment is passed in. Values are read as the file's are, and checked with it.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from pulsering_server.config_document import Document, plain_of
from pulsering_server.config_errors import Position, Problem
from pulsering_server.config_keys import keys

__all__ = ["COMMAND_LINE", "ENVIRONMENT", "NONE", "Override", "Overrides", "overrides_of", "variable_of"]

ENVIRONMENT: Final = "environment"
COMMAND_LINE: Final = "command line"
PREFIX: Final = "PULSERING_"

_NOT_OURS: Final = frozenset({"version"})
"""``PULSERING_VERSION`` is what images are labelled with."""


class Override(NamedTuple):
    """One setting: where it belongs, what was written for it, and by whom."""

    path: tuple[str, ...]
    text: str
    source: str
    line: str
    """As it was written, to be shown under an error."""


class Overrides(NamedTuple):
    """All of them, and those that cannot be."""

    settings: tuple[Override, ...] = ()
    problems: tuple[Problem, ...] = ()

    def apply(self, document: Document) -> None:
        """Put the settings into a file's values in place of its own."""
        for number, setting in enumerate(self.settings):
            column = len(setting.line) - len(setting.text) + 1
            position = Position(number, column, setting.source)
            document.override(setting.path, plain_of(setting.text), position, setting.line)
        document.problems += self.problems

    def as_environment(self) -> dict[str, str]:
        """Return the variables that say the same to a process."""
        return {variable_of(setting.path): setting.text for setting in self.settings}


NONE: Final = Overrides()


def overrides_of(environment: Mapping[str, str], settings: Iterable[str] = ()) -> Overrides:
    """Return what the environment says and, above it, the ``KEY=VALUE`` of a command line."""
    found: dict[tuple[str, ...], Override] = {}
    problems: list[Problem] = []
    for name, text in sorted(environment.items()):
        path, why = _of_variable(name) if text else (None, "")
        line = f"{name}={text}"
        if path:
            found[path] = Override(path, text, ENVIRONMENT, line)
        elif why:
            problems.append(Problem(why, Position(0, 1, ENVIRONMENT), line))
    for setting in settings:
        name, equals, text = setting.partition("=")
        line = f"--set {setting}"
        path, why = _of_name(name.strip()) if equals else (None, "expected KEY=VALUE")
        if path:
            found[path] = Override(path, text, COMMAND_LINE, line)
        else:
            problems.append(Problem(why, Position(0, len("--set ") + 1, COMMAND_LINE), line))
    return Overrides(tuple(found.values()), tuple(problems))


def variable_of(path: tuple[str, ...]) -> str:
    """Return the environment variable of a key, which is in a section."""
    return PREFIX + "__".join(path).upper()


def _settable() -> dict[str, tuple[str, ...]]:
    """The keys that can be set, by the name a person gives them."""
    return {key.name: key.path for key in keys() if len(key.path) == 2 and key.section is None}


def _of_variable(name: str) -> tuple[tuple[str, ...] | None, str]:
    """The path that a variable sets, or why it sets none; neither for what is not meant for us."""
    if not name.startswith(PREFIX):
        return None, ""
    variables = {variable_of(path): path for path in _settable().values()}
    if name in variables:
        return variables[name], ""
    key = name.removeprefix(PREFIX).lower()
    if key not in _NOT_OURS and _of_every_node(key):
        return None, _AGREED.format(name=name, key=key)
    single = {variable.replace("__", "_"): variable for variable in variables}
    if name in single:
        return None, f"{name}: two underscores between section and key (did you mean {single[name]}?)"
    if "__" not in name:
        return None, ""
    close = difflib.get_close_matches(name, variables, n=1)
    hint = f" (did you mean {close[0]}?)" if close else f"; there are {', '.join(variables)}"
    return None, f"{name}: no setting of ours{hint}"


def _of_name(name: str) -> tuple[tuple[str, ...] | None, str]:
    settable = _settable()
    if name in settable:
        return settable[name], ""
    if _of_every_node(name.partition("[")[0].partition(".")[0]):
        return None, _AGREED.format(name=name, key=name)
    close = difflib.get_close_matches(name, settable, n=1)
    hint = f" (did you mean '{close[0]}'?)" if close else f"; there are {', '.join(settable)}"
    return None, f"{name}: no key that can be set here{hint}"


_AGREED: Final = "{name}: '{key}' must be the same for every node and client, so only the file can say it"


def _of_every_node(name: str) -> bool:
    return any(key.path == (name,) and (key.section is None or key.is_list) for key in keys())
