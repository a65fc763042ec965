"""The configuration that counts: every value as a file would have it, and where it comes from.

``effective`` is the whole of it, defaults included, and itself a valid file; a key that has no value and no
default is left out. ``Setting.origin`` is one of ``command line``, ``environment``, ``file`` and ``default``,
the first that sets the key, and ``where`` the option, variable or line.
"""

from collections.abc import Iterator
from io import StringIO
from typing import Any, Final, NamedTuple

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from pulsering_server.config import Reading
from pulsering_server.config_document import Document, Path, render_path
from pulsering_server.config_keys import keys
from pulsering_server.config_overrides import COMMAND_LINE, variable_of
from pulsering_server.config_schema import ClusterFile

__all__ = ["Setting", "effective", "settings", "to_yaml"]

DEFAULT: Final = "default"
FILE: Final = "file"

_ORIGIN_COLUMN: Final = 40


class Setting(NamedTuple):
    """One value; None is a key without one."""

    path: Path
    value: Any
    origin: str
    where: str

    @property
    def name(self) -> str:
        """``limits.memory``, ``nodes[0].weight``."""
        return render_path(self.path)


def settings(reading: Reading) -> tuple[Setting, ...]:
    """Return every value, in the order of the schema; of nodes, each with all its keys."""
    return tuple(_settings(reading, reading.config, (), ClusterFile))


def effective(reading: Reading) -> dict[str, Any]:
    """Return the values as one document, as a file would have them."""
    root: dict[str, Any] = {}
    for setting in settings(reading):
        if setting.value is None:
            continue
        where: Any = root
        for step, following in zip(setting.path, setting.path[1:], strict=False):
            if isinstance(where, list):
                assert isinstance(step, int)
                where.extend({} for _ in range(step + 1 - len(where)))
                where = where[step]
            else:
                where = where.setdefault(step, [] if isinstance(following, int) else {})
        where[setting.path[-1]] = setting.value
    return root


def to_yaml(reading: Reading, *, origins: bool) -> str:
    """Return the values as a file; with ``origins``, each beside where it comes from."""
    where = {setting.path: _told(setting) for setting in settings(reading)} if origins else {}
    yaml = YAML()
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    text = StringIO()
    yaml.dump(_commented(effective(reading), (), where), text)
    return text.getvalue()


def _told(setting: Setting) -> str:
    return setting.origin if setting.origin == DEFAULT else setting.where


def _settings(reading: Reading, values: BaseModel, path: Path, model: type[BaseModel]) -> Iterator[Setting]:
    for key in keys():
        if key.model is not model:
            continue
        at, value = (*path, key.path[-1]), getattr(values, key.field)
        if key.section is None:
            yield Setting(at, key.show(value), *_origin(reading, at))
        elif key.is_list:
            for index, entry in enumerate(value):
                yield from _settings(reading, entry, (*at, index), key.section)
        else:
            yield from _settings(reading, value, at, key.section)


def _origin(reading: Reading, path: Path) -> tuple[str, str]:
    document: Document = reading.document
    position = document.values.get(path)
    if position is None:
        return DEFAULT, ""
    if not position.source:
        return FILE, f"{reading.file}:{position.line}"
    if position.source == COMMAND_LINE:
        return COMMAND_LINE, "--set"
    return position.source, variable_of(tuple(map(str, path)))


def _commented(value: Any, path: Path, where: dict[Path, str]) -> Any:
    """The same with comments, in the types that ruamel.yaml writes them of."""
    if isinstance(value, list):
        return CommentedSeq(_commented(entry, (*path, index), where) for index, entry in enumerate(value))
    if not isinstance(value, dict):
        return value
    made = CommentedMap()
    for name, entry in value.items():
        at = (*path, name)
        made[name] = _commented(entry, at, where)
        if at in where:
            made.yaml_add_eol_comment(where[at], name, column=_ORIGIN_COLUMN)
    return made
