"""What the schema finds wrong with a file, in the words of its author and not of the schema library.

Every message says what was found, what is expected and, where it can be told, what was probably meant:
another key, the same text as a number, a letter that only looks like the one on the keyboard."""

import difflib
import re
from collections.abc import Iterator
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from pulsering import limits
from pulsering_server.config_document import Document, Path, render_path
from pulsering_server.config_errors import Problem, look_alike
from pulsering_server.config_keys import key_at, keys, section_at
from pulsering_server.config_schema import ClusterFile

__all__ = ["kind_of", "schema_problems"]

# Words of neighbouring systems that no spelling distance leads from.
_OTHER_NAMES: Final = {
    "addr": "address",
    "ca": "client_ca",
    "cert": "certificate",
    "host": "address",
    "id": "name",
    "interval": "heartbeat",
    "port": "address",
    "rack": "zone",
    "timeout": "ttl",
}
_MULTIPLES: Final = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}


def schema_problems(document: Document, error: ValidationError) -> Iterator[Problem]:
    """Yield what the schema found, less what only follows from something else that is told."""
    if {"apiVersion", "kind"} <= document.root.keys():
        message = "a Kubernetes manifest, not a configuration: what is wanted is the text in its 'data'"
        yield document.problem(message, document.keys[("apiVersion",)])
        return
    misspelt = {
        (*path[:-1], _similar_key(str(path[-1]), section_at(path[:-1])))
        for path in (tuple(item["loc"]) for item in error.errors() if item["type"] == "extra_forbidden")
    }
    for item in error.errors(include_url=False):
        path, kind = tuple(item["loc"]), item["type"]
        if kind == "too_short" and item["input"]:
            continue  # the entries that failed on their own have been left out of the count
        position = document.nearest(path)
        last_line = max(position.line, document.last_lines.get(path, 0))
        from_file = not position.source
        cut_off = document.broken_at is not None and from_file and last_line >= document.broken_at
        if document.broken_at is not None and (kind == "missing" or cut_off):
            continue  # what a syntax error cut off is not missing, what it garbled not wrong
        if path in misspelt and kind == "missing":
            continue
        if kind == "extra_forbidden":
            position = document.keys.get(path, position)
        message = _message(kind, item.get("ctx", {}), item["input"], item["msg"], path)
        yield document.problem(f"{render_path(path)}: {message}", position)


def kind_of(value: object) -> str:
    """Return what a value is, as one would say it; text in quotes, and not too much of it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:37] + "...")
    if isinstance(value, dict):
        return "keys"
    return "a list" if isinstance(value, tuple) else f"the number {value}"


def _message(kind: str, facts: dict[str, Any], value: object, fallback: str, path: Path) -> str:
    match kind:
        case "extra_forbidden":
            return "unknown key" + _hint(str(path[-1]), section_at(path[:-1]))
        case "missing":
            key = key_at(path)
            return "required, but missing" + (f" ({key.purpose})" if key and key.purpose else "")
        case "string_type":
            text = str(value).lower() if isinstance(value, bool) else str(value)
            quotes = f"; in quotes it is text: '{text}'" if isinstance(value, int | float) else ""
            return f"expected text, found {kind_of(value)}{quotes}"
        case "int_type" | "int_from_float" if path[-1] == "weight" and isinstance(value, float):
            return f"expected a whole number, found {kind_of(value)} (relative: for 0.5 and 1, give 1 and 2)"
        case "int_type" | "int_from_float":
            return f"expected a whole number, found {kind_of(value)}{_as_number(value)}"
        case "bool_type":
            return f"expected true or false, found {kind_of(value)}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"expected keys such as {_some_keys(path)}, found {kind_of(value)}{_of_a_node(path)}"
        case "tuple_type":
            return f"expected a list, one '- name: …' a node, found {kind_of(value)}"
        case "greater_than_equal":
            return f"{value} is too small: must be at least {facts['ge']}"
        case "less_than_equal":
            return f"{value} is too large: must be at most {facts['le']}"
        case "literal_error" if path == ("version",):
            return _version(value)
        case "literal_error":
            return f"expected {facts['expected']}, found {kind_of(value)}"
        case "too_short":
            return "an empty list: a cluster needs at least one node"
        case "too_long":
            return f"{facts['actual_length']} nodes: must be at most {facts['max_length']}"
        case "string_too_short":
            return "empty: leave the key out instead"
        case "string_pattern_mismatch":
            letters = "a-z, 0-9 and '-'" if path == ("cluster",) else "letters, digits, '.', '_' and '-'"
            name = f"{kind_of(value)} is not a name: 1 to {limits.NAME_BYTES_MAX} of {letters}"
            return name + look_alike(str(value))
    return fallback


def _version(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value > 1:
        return f"{value} is of a later pulsering: this one reads version 1"
    return f"expected 1, found {kind_of(value)}{_as_number(value)}"


def _as_number(value: object) -> str:
    """Return the number that a text was probably meant for, as a hint."""
    if not isinstance(value, str):
        return ""
    match = re.fullmatch(r"[vV]?([0-9]{1,15}(?:[ ,_'][0-9]{3})*) ?([kKmMgG]?)", value)
    if match is None:
        return ""
    number = int(re.sub(r"[ ,_']", "", match[1])) * _MULTIPLES[match[2].lower()]
    return f" (without quotes: {number})" if str(number) == value else f" (did you mean {number}?)"


def _of_a_node(path: Path) -> str:
    """Return where a key of the same name takes a value instead of keys."""
    found = any(key.path[0] == "nodes" and key.path[-1] == path[-1] for key in keys())
    return f" (each of 'nodes' has its own '{path[-1]}')" if found else ""


def _some_keys(path: Path) -> str:
    return " and ".join(f"'{key}:'" for key in _names(section_at(path))[:2])


def _names(model: type[BaseModel]) -> list[str]:
    return [info.alias or name for name, info in model.model_fields.items()]


def _hint(name: str, model: type[BaseModel]) -> str:
    """Return the key that was probably meant, or the section that a known key belongs in."""
    if name == "<<":
        return ": merge keys are not supported, write the values out"
    if meant := _similar_key(name, model):
        return f" (did you mean '{meant}'?){look_alike(name)}"
    for key in keys():
        if key.path[-1] == name and key.model is not model:
            place = "at the top" if key.model is ClusterFile else f"in '{key.path[0]}'"
            return f" (it belongs {place})"
    return f"; known here: {', '.join(_names(model))}{look_alike(name)}"


def _similar_key(name: str, model: type[BaseModel]) -> str | None:
    known = _names(model)
    if _OTHER_NAMES.get(name.lower()) in known:
        return _OTHER_NAMES[name.lower()]
    return next(iter(difflib.get_close_matches(name.lower()[:100], known, n=1)), None)
