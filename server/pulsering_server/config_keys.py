"""Every key of ``cluster.yaml`` as a value: walked from the schema, so that what lists them lists all of
them.

Editors (``json_schema``), ``config init``, ``show``, ``diff``, the environment and docs/configuration.md go
by this list. A *section* is a mapping with keys of its own (``limits``), ``nodes`` a list of them. Invariant:
a key that the schema gains is in every one of those without further ado."""

import types
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Final, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pulsering_server.config_document import Path
from pulsering_server.config_schema import ClusterFile
from pulsering_server.config_values import Address, Quantity

__all__ = ["Key", "json_schema", "key_at", "keys", "section_at"]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


class Key(NamedTuple):
    """One key. ``path`` is where it stands, a ``*`` for any entry of a list; ``field`` the model's name for
    it."""

    path: tuple[str, ...]
    field: str
    info: FieldInfo
    model: type[BaseModel]

    @property
    def name(self) -> str:
        """What a person calls it: ``limits.memory``, ``nodes[].weight``."""
        return ".".join(self.path).replace(".*", "[]")

    @property
    def section(self) -> type[BaseModel] | None:
        """The model of its own keys, if it has any."""
        return _section(self.info)

    @property
    def is_list(self) -> bool:
        """Whether it is a list of such sections."""
        return get_origin(self.info.annotation) is tuple

    @property
    def required(self) -> bool:
        """Whether a file must have it."""
        return self.info.is_required()

    @property
    def description(self) -> str:
        """What it is for, in full sentences."""
        return self.info.description or ""

    @property
    def purpose(self) -> str:
        """The first of those, as part of another sentence."""
        first = self.description.split(". ")[0].removesuffix(".")
        return first[:1].lower() + first[1:]

    @property
    def facts(self) -> dict[str, Any]:
        """What JSON Schema says of it."""
        found: dict[str, Any] = _properties(json_schema(), self.model)[self.path[-1]]
        return found

    @property
    def change(self) -> str:
        """What a change takes: reload, restart, restart of every node; of a section, nothing by itself."""
        return str(self.facts.get("x-change", ""))

    @property
    def moves(self) -> bool:
        """Whether a change can give users other owners."""
        return bool(self.facts.get("x-moves"))

    def show(self, value: object) -> Any:
        """Return a checked value as the file would have it; None stays None."""
        quantity = _quantity(self.info)
        if quantity is not None and isinstance(value, int):
            return quantity.format(value)
        return str(value) if isinstance(value, Address) else value

    def parse(self, text: object) -> int:
        """Return the number of a duration or size, unchecked until now; ``ValueError`` if it is none."""
        quantity = _quantity(self.info)
        assert quantity is not None, self.name
        return quantity.parse(text)


@cache
def keys() -> tuple[Key, ...]:
    """All of them, each section before its keys, in the order of the schema."""
    return tuple(_walk(ClusterFile, ()))


def key_at(path: Path) -> Key | None:
    """Return the key at a path of a file; None if the schema has none there."""
    general = tuple("*" if isinstance(step, int) else step for step in path)
    return _by_path().get(general)


def section_at(path: Path) -> type[BaseModel]:
    """Return the model of the mapping at ``path``, or of the closest around it."""
    for length in range(len(path), 0, -1):
        key = key_at(path[:length])
        if key is not None and key.section is not None:
            return key.section
    return ClusterFile


@cache
def json_schema() -> dict[str, Any]:
    """Return the schema for editors: defaults as a file writes them, and no titles that repeat the keys."""
    schema = {"$schema": DIALECT, **ClusterFile.model_json_schema()}
    schema["title"] = "cluster.yaml"
    for key in _walk(ClusterFile, ()):
        facts = _properties(schema, key.model)[key.path[-1]]
        facts.pop("title", None)
        default = key.show(key.info.default)
        if "default" in facts:
            facts["default"] = default
            if default is None:
                del facts["default"]
    return schema


@cache
def _by_path() -> dict[tuple[str, ...], Key]:
    return {key.path: key for key in keys()} | {(*key.path, "*"): key for key in keys() if key.is_list}


def _walk(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[Key]:
    for field, info in model.model_fields.items():
        key = Key((*path, info.alias or field), field, info, model)
        yield key
        if key.section is not None:
            yield from _walk(key.section, (*key.path, "*") if key.is_list else key.path)


def _section(info: FieldInfo) -> type[BaseModel] | None:
    for candidate in (info.annotation, *get_args(info.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _quantity(info: FieldInfo) -> Quantity | None:
    marks = list(info.metadata)
    if get_origin(info.annotation) in (Union, types.UnionType):
        for choice in get_args(info.annotation):
            if get_origin(choice) is Annotated:
                marks += choice.__metadata__
    return next((mark for mark in marks if isinstance(mark, Quantity)), None)


def _properties(schema: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    where = schema if model is ClusterFile else schema["$defs"][model.__name__]
    properties: dict[str, Any] = where["properties"]
    return properties
