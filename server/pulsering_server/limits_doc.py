"""``docs/limits.md``, made from ``pulsering.limits``: each bound, its number and reason, and who may set it.

``python -m pulsering_server.limits_doc > docs/limits.md`` writes it; a test holds it to that. The source is
read rather than the module, as what stands below a constant (its reason) and above a group of them (its name)
is in the source alone. So is which key of ``cluster.yaml`` or option of the client starts from it.
"""

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Final, NamedTuple

from pulsering import limits, options
from pulsering_server import config_schema
from pulsering_server.config_keys import keys
from pulsering_server.units import format_duration_ms, format_size

__all__ = ["Limit", "all_limits", "reference"]

_INTRODUCTION: Final = """\
# Limits

Every bound of the protocol, the node and the client, each with why that number: nothing that a peer sends,
and nothing that a person asks for, goes without one. They stand in `pulsering.limits`, and this page is
generated from it: `python -m pulsering_server.limits_doc > docs/limits.md`.

*Set by* names what takes another value for one node ([configuration.md](configuration.md)) or one client
([client.md](client.md)); it is the default, or the most, of that. All others are the same everywhere: a
change of them is a change of the code. What each protects from whom is in [security.md](security.md), how a
node behaves when it comes to them in [node.md](node.md).
"""
_HEAD: Final = "| limit | value | set by | why |\n|---|---:|---|---|\n"
_GROUP: Final = re.compile(r"# --- (.+?) -+$")


class Limit(NamedTuple):
    """One constant of ``pulsering.limits``: the group it stands in, its value, and the reason below it."""

    group: str
    name: str
    value: int | float
    why: str

    @property
    def shown(self) -> str:
        """The value with its unit, which is the end of its name."""
        if isinstance(self.value, int) and "_MS" in self.name:
            return format_duration_ms(self.value)
        if isinstance(self.value, int) and "_BYTES" in self.name:
            return format_size(self.value)
        return f"{self.value:,g}" if isinstance(self.value, float) else f"{self.value:,}"


def all_limits() -> Iterator[Limit]:
    """Every limit, in the order of the source."""
    source = inspect.getsource(limits)
    groups = {
        number: match[1]
        for number, line in enumerate(source.splitlines(), 1)
        if (match := _GROUP.match(line)) is not None
    }
    body = ast.parse(source).body
    for statement, following in pairwise(body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            assert isinstance(following, ast.Expr)
            assert isinstance(following.value, ast.Constant)
            name = statement.target.id
            group = groups[max(number for number in groups if number < statement.lineno)]
            why = " ".join(str(following.value.value).split())
            yield Limit(group, name, getattr(limits, name), why)


def reference() -> str:
    """The document."""
    setters = _setters()
    text, group = _INTRODUCTION, ""
    for limit in all_limits():
        if limit.group != group:
            group = limit.group
            text += f"\n## {group}\n\n{_HEAD}"
        text += f"| `{limit.name}` | {limit.shown} | {setters.get(limit.name, '')} | {_marked(limit.why)} |\n"
    return text


def _setters() -> dict[str, str]:
    """Which key or option has a constant as its default, as text."""
    found: dict[str, list[str]] = {}
    names = {key.field: key.name for key in keys()}
    for field, default in _defaults(config_schema):
        if field in names:
            found.setdefault(default, []).append(f"`{names[field]}`")
    known = {field.name for field in dataclasses.fields(options.ClientOptions)}
    for field, default in _defaults(options):
        if field in known:
            found.setdefault(default, []).append(f"`{field}=`")
    return {name: ", ".join(dict.fromkeys(texts)) for name, texts in found.items()}


def _defaults(module: object) -> Iterator[tuple[str, str]]:
    """Each field of a class in a module whose default is made of one limit: its name, and the limit's."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):  # type: ignore[arg-type]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            value = node.value
            if isinstance(value, ast.Call):
                value = value.args[0] if value.args else value
            for inner in ast.walk(value):
                name = inner.attr if isinstance(inner, ast.Attribute) else getattr(inner, "id", "")
                if name.isupper() and hasattr(limits, name):
                    yield node.target.id, name


def _marked(why: str) -> str:
    """Names of other limits as code, and nothing that ends a cell."""
    return re.sub(r"\b[A-Z]{2,}(?:_[A-Z]+)+\b", r"`\g<0>`", why).replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
