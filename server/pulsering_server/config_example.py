"""A complete ``cluster.yaml`` with a comment on every key: what ``pulsering config init`` writes.

Made from the schema, so a key cannot be without its explanation, and a default is never written down twice.
The ``cluster.yaml`` of this repository is one such file.
"""

import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from pulsering_server.config_document import plain_of
from pulsering_server.config_keys import Key, keys
from pulsering_server.config_schema import ClusterFile

__all__ = ["LOOPBACK", "SampleNode", "allowed_values", "example", "plain"]

_WIDTH: Final = 110

_HEAD: Final = """\
# A Pulsering cluster. Every node and every client reads this same file:
#
#   pulsering config validate                     everything that is wrong with it, and what may be
#   pulsering serve -c cluster.yaml --node a      start node a (one such command on each machine)
#   pulsering status                              ask all nodes how they are
#   pulsering config diff old.yaml new.yaml       what a change takes, before it is made
#
# Durations and sizes carry a unit: 250ms 20s 5m 1h, 64KiB 512MiB 8GiB. A key left out has its default.
# Help in an editor: pulsering config schema > cluster.schema.json, and as this file's first line
#   yaml-language-server: $schema=./cluster.schema.json
"""
_HEAD_LOOPBACK: Final = """\
# The nodes below live on one Linux machine: 127.0.0.1, .2 and .3 are all loopback, and count as three hosts.
"""


class SampleNode(NamedTuple):
    """A node to write into the file."""

    name: str
    address: str
    zone: str = ""


LOOPBACK: Final = tuple(
    SampleNode(name, f"127.0.0.{number}:7400", f"rack-{number}") for number, name in enumerate("abc", 1)
)


def example(cluster: str = "local", hash_seed: int = 0, nodes: Sequence[SampleNode] = LOOPBACK) -> str:
    """Return the text; that it is valid is for ``parse_config`` to say, as names and addresses are not
    ours."""
    values: dict[str, Any] = {"version": 1, "cluster": cluster, "epoch": 1}
    values["hash_seed"] = f"0x{hash_seed:016x}" if hash_seed else 0
    if len(nodes) == 1:
        values["replicas"] = 1
    head = _HEAD + (_HEAD_LOOPBACK if tuple(nodes) == LOOPBACK else "")
    blocks = ["".join(_block(key, values, nodes)) for key in keys() if key.model is ClusterFile]
    return "\n".join((head, *blocks))


def _block(key: Key, values: dict[str, Any], nodes: Sequence[SampleNode]) -> Iterator[str]:
    """Yield the lines of a key of the top."""
    name = key.path[-1]
    yield _comment(key, "")
    if key.section is None:
        yield _line(key, values.get(name), "")
        return
    yield f"{name}:\n"
    if not key.is_list:
        for inner in _keys_of(key.section):
            yield _comment(inner, "  ") + _line(inner, None, "  ")
        return
    for index, node in enumerate(nodes):
        yield from _entry(key.section, node._asdict(), explained=index == 0)


def _entry(model: type[BaseModel], values: dict[str, Any], *, explained: bool) -> Iterator[str]:
    """Yield the lines of one node; the first has every key, explained."""
    first = True
    for key in _keys_of(model):
        value = values.get(key.path[-1])
        if not explained and not value:
            continue
        lines = _line(key, value or None, "    ")
        if first:
            lines = f"  - {lines.lstrip()}"
        yield (_comment(key, "  " if first else "    ") if explained else "") + lines
        first = False


def _keys_of(model: type[BaseModel]) -> list[Key]:
    return [key for key in keys() if key.model is model]


def _comment(key: Key, indent: str) -> str:
    """What it is for, then a line with what it may be."""
    notes = []
    if key.section is None and key.change:
        notes += [allowed_values(key)] if allowed_values(key) else []
        default = key.facts.get("default", "")
        notes += [] if key.required or default == "" else [f"default {plain(default)}"]
        notes += [f"a change takes a {key.change}{' and moves users' if key.moves else ''}"]
    width = _WIDTH - len(indent) - 2
    lines = textwrap.wrap(key.description, width, break_on_hyphens=False)
    lines += textwrap.wrap("; ".join(notes), width - 2, initial_indent="  ", subsequent_indent="  ")
    return "".join(f"{indent}# {line}\n" for line in lines)


def _line(key: Key, value: Any, indent: str) -> str:
    """The key with its value or default; where it has neither, an example, as a comment."""
    if value is None:
        value = key.facts.get("default", "")
    if value == "":
        return f"{indent}# {key.path[-1]}: {plain(key.facts['examples'][0])}\n"
    return f"{indent}{key.path[-1]}: {plain(value)}\n"


def plain(value: Any) -> str:
    """Return a value as YAML; text in quotes where it would be something else without them."""
    if not isinstance(value, str):
        return json.dumps(value)
    safe = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/-]*", value) and plain_of(value) == value
    return value if safe else json.dumps(value, ensure_ascii=False)


def allowed_values(key: Key) -> str:
    """Return the range of a key's values, as one would say it; empty where any will do."""
    for facts in (key.facts, *key.facts.get("anyOf", ())):
        if "x-range" in facts:
            return str(facts["x-range"])
        if "minimum" in facts and "maximum" in facts:
            return f"{facts['minimum']} to {facts['maximum']}"
    return "true or false" if key.facts.get("type") == "boolean" else ""
