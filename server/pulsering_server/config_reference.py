"""The tables of docs/configuration.md, made from the schema: every key, its type, default and what it is for.

``python -m pulsering_server.config_reference docs/configuration.md`` replaces what stands between
``<!-- generated: NAME -->`` and ``<!-- end -->``, and nothing else. A test does the same and compares, so the
page cannot fall behind.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pulsering_server.config_example import allowed_values, plain
from pulsering_server.config_keys import Key, keys
from pulsering_server.config_overrides import variable_of
from pulsering_server.config_schema import ClusterFile

__all__ = ["main", "referenced"]

_BLOCK: Final = re.compile(r"(<!-- generated: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

_KINDS: Final = {
    "duration": ("duration", "`ms` `s` `m` `h` `d`"),
    "size": ("size", "`B` `KiB` `MiB` `GiB` `TiB`"),
    "integer": ("whole number", "-"),
    "number": ("number", "-"),
    "boolean": ("true or false", "-"),
    "string": ("text", "-"),
}


def referenced(text: str) -> str:
    """Return the page with its tables made anew; ``ValueError`` for one that has none, or not all."""
    wanted = {match[1] for match in re.findall(r"(<!-- generated: (\S+) -->)", text)}
    tables = _tables()
    if wanted != tables.keys():
        raise ValueError(f"the page has {sorted(wanted)}, the schema {sorted(tables)}")
    return _BLOCK.sub(lambda match: f"{match[1]}\n{tables[match[2]]}\n{match[4]}", text)


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code."""
    if len(arguments) != 1:
        print("usage: python -m pulsering_server.config_reference docs/configuration.md", file=sys.stderr)
        return 2
    page = Path(arguments[0])
    page.write_text(referenced(page.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


def _tables() -> dict[str, str]:
    """A table for the top, and one for each section."""
    sections = {"top": ClusterFile} | {key.path[-1]: key.section for key in keys() if key.section is not None}
    tables = {}
    for name, model in sections.items():
        rows = [_row(key, name) for key in keys() if key.model is model]
        head = "| key | type | unit | values | default | what it is for | a change takes |"
        tables[name] = "\n".join((head, "|---|---|---|---|---|---|---|", *rows, ""))
    return tables


def _row(key: Key, section: str) -> str:
    kind, unit = _kind(key)
    default = key.facts.get("default", "")
    shown = "required" if key.required else "-" if default == "" else f"`{plain(default)}`"
    name = f"`{key.path[-1]}`"
    if section not in ("top", "nodes"):
        name += f"<br>`{variable_of(key.path)}`"
    takes = f"{key.change}; moves users" if key.moves else key.change or ("see below" if key.section else "-")
    cells = (name, kind, unit, allowed_values(key) or "-", shown, key.description, takes)
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _kind(key: Key) -> tuple[str, str]:
    if key.section is not None:
        return ("list" if key.is_list else "keys"), "-"
    choices = [choice for choice in key.facts.get("anyOf", [key.facts]) if choice.get("type") != "null"]
    kinds = [_KINDS[str(choice.get("x-kind", choice.get("type", "integer")))] for choice in choices]
    return " or ".join(kind for kind, _ in kinds), kinds[0][1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
