"""``load_config``: ``cluster.yaml`` into a ``ClusterConfig``, or every reason why not, at once.

Text becomes plain values with positions (``config_document``), values are held against the schema
(``config_schema``), and what must hold between values is checked here, on values rather than models, so that
one bad key does not hide a duplicate node. Whatever the file holds, the only exception is ``ConfigErrors``.
"""

import difflib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from pulsering import limits
from pulsering.topology import Node, Topology
from pulsering_server.config_admin import admin_problems
from pulsering_server.config_cores import (
    Shard,
    core_problems,
    cores_of,
    shards_of,
    share_of,
    share_problems,
)
from pulsering_server.config_document import TEXT_BYTES_MAX, Document, Path, read_document, render_path
from pulsering_server.config_errors import ConfigErrors, Position, Problem
from pulsering_server.config_schema import (
    Address,
    AdminConfig,
    ClusterFile,
    LimitsConfig,
    NodeConfig,
    parse_address,
)
from pulsering_server.units import format_size

__all__ = [
    "ClusterConfig",
    "ConfigErrors",
    "LimitsConfig",
    "NodeConfig",
    "Shard",
    "load_config",
    "parse_config",
]

# Around the keys of a full frame: header, body and ext headers, epoch.
_FRAME_OVERHEAD_BYTES: Final = 64

# Words of neighbouring systems that no spelling distance leads from.
_OTHER_NAMES: Final = {"host": "address", "port": "address", "id": "name", "rack": "zone", "timeout": "ttl"}


class ClusterConfig(ClusterFile):
    """A valid configuration. Frozen; equal when every setting is."""

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Every core of every node: what the topology calls nodes."""
        return tuple(itertools.chain.from_iterable(map(shards_of, self.nodes)))

    def shards_named(self, name: str) -> tuple[Shard, ...]:
        """Return all cores of the node of this name, or the core of this name; none if there is neither."""
        return tuple(shard for shard in self.shards if name in (shard.node.name, shard.name))

    def limits_of(self, shard: Shard) -> LimitsConfig:
        """Return the limits of one core: its share of those of its node."""
        return share_of(self.limits, shard.node.cores)

    def topology(self) -> Topology:
        """Return the part that nodes and clients must agree on."""
        return Topology(
            cluster=self.cluster,
            epoch=self.epoch,
            ttl_ms=self.ttl_ms,
            ticks_per_ttl=self.ticks_per_ttl,
            replicas=self.replicas,
            hash_seed=self.hash_seed,
            nodes=tuple(
                Node(shard.name, shard.address.host, shard.address.port, shard.node.weight, shard.node.zone)
                for shard in self.shards
            ),
        )


def load_config(path: str | os.PathLike[str]) -> ClusterConfig:
    """Read and check a configuration file; ``ConfigErrors`` lists everything that is wrong with it."""
    file = os.fspath(path)
    try:
        with FilePath(file).open("rb") as stream:
            data = stream.read(TEXT_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigErrors(file, [Problem(f"cannot be read: {reason}")]) from None
    if len(data) > TEXT_BYTES_MAX:
        problem = Problem(f"larger than {format_size(TEXT_BYTES_MAX)}: is this a configuration?")
        raise ConfigErrors(file, [problem])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig")
        position = Position(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
        raise ConfigErrors(file, [Problem("not UTF-8 text", position)]) from None
    return parse_config(text, file)


def parse_config(text: str, file: str = "cluster.yaml") -> ClusterConfig:
    """Check the text of a configuration; ``file`` is what its errors call it."""
    document = read_document(text)
    problems = document.problems
    config: ClusterConfig | None = None
    if document.root is None and not problems:
        problems.append(Problem("empty: a cluster needs version, cluster, epoch and nodes", Position(1, 1)))
    elif document.root is not None and not isinstance(document.root, dict):
        if document.broken_at is None:
            message = f"expected keys such as 'cluster:' and 'nodes:', found {_kind(document.root)}"
            problems.append(document.problem(message, document.nearest(())))
    elif document.root is not None:
        try:
            config = ClusterConfig.model_validate(document.root)
        except ValidationError as error:
            problems += _schema_problems(document, error)
        problems += _cross_problems(document)
    if config is None or problems:
        raise ConfigErrors(file, problems)
    return config


def _schema_problems(document: Document, error: ValidationError) -> Iterator[Problem]:
    misspelt = {
        (*path[:-1], _similar_key(str(path[-1]), _section(path[:-1])))
        for path in (tuple(item["loc"]) for item in error.errors() if item["type"] == "extra_forbidden")
    }
    for item in error.errors(include_url=False):
        path, kind = tuple(item["loc"]), item["type"]
        if kind == "too_short" and item["input"]:
            continue  # the entries that failed on their own have been left out of the count
        position = document.nearest(path)
        last_line = max(position.line, document.last_lines.get(path, 0))
        if document.broken_at is not None and (kind == "missing" or last_line >= document.broken_at):
            continue  # what a syntax error cut off is not missing, what it garbled not wrong
        if path in misspelt and kind == "missing":
            continue
        if kind == "extra_forbidden":
            position = document.keys.get(path, position)
        message = _message(kind, item.get("ctx", {}), item["input"], item["msg"], path)
        yield document.problem(f"{render_path(path)}: {message}", position)


def _message(kind: str, facts: dict[str, Any], value: object, fallback: str, path: Path) -> str:
    """Return one schema error in the words of the file's author, not of the schema library."""
    match kind:
        case "extra_forbidden":
            return "unknown key" + _hint(str(path[-1]), _section(path[:-1]))
        case "missing":
            return (
                f"required, but missing ({_description(path)})"
                if _description(path)
                else "required, but missing"
            )
        case "string_type":
            quotes = f"; in quotes it is text: '{value}'" if isinstance(value, int | float) else ""
            return f"expected text, found {_kind(value)}{quotes}"
        case "int_type" | "int_from_float":
            return f"expected a whole number, found {_kind(value)}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"expected keys such as {_some_keys(path)}, found {_kind(value)}"
        case "tuple_type":
            return f"expected a list, one '- name: …' a node, found {_kind(value)}"
        case "greater_than_equal":
            return f"{value} is too small: must be at least {facts['ge']}"
        case "less_than_equal":
            return f"{value} is too large: must be at most {facts['le']}"
        case "bool_type":
            return f"expected true or false, found {_kind(value)}"
        case "string_too_short":
            return "expected text, found nothing between the quotes"
        case "literal_error":
            return f"expected {facts['expected']}, found {_kind(value)}"
        case "too_short":
            return "an empty list: a cluster needs at least one node"
        case "too_long":
            return f"{facts['actual_length']} nodes: must be at most {facts['max_length']}"
        case "string_pattern_mismatch":
            letters = "a-z, 0-9 and '-'" if path == ("cluster",) else "letters, digits, '.', '_' and '-'"
            return f"{_kind(value)} is not a name: 1 to {limits.NAME_BYTES_MAX} of {letters}"
    return fallback


def _cross_problems(document: Document) -> Iterator[Problem]:
    """Yield what is wrong between values; values that are wrong in themselves are passed over."""
    root = document.root
    entries = root.get("nodes")
    nodes = list(entries) if isinstance(entries, tuple) else []
    yield from _duplicates(document, nodes)
    yield from core_problems(document, nodes)
    yield from admin_problems(document, nodes)
    if document.broken_at is None:
        yield from _replica_problems(document, root.get("replicas", 2), nodes)
    yield from _limit_problems(document, root.get("limits", {}), nodes)


def _duplicates(document: Document, nodes: list[Any]) -> Iterator[Problem]:
    first: dict[tuple[str, object], Path] = {}
    for index, node in enumerate(nodes):
        for key in ("name", "address"):
            value = node.get(key) if isinstance(node, dict) else None
            if not isinstance(value, str):
                continue
            same: object = _address(value) or value if key == "address" else value
            path: Path = ("nodes", index, key)
            earlier = first.setdefault((key, same), path)
            if earlier != path:
                line = document.values[earlier].line
                message = f"{render_path(path)}: duplicate {key} '{value}' (first on line {line})"
                yield document.problem(message, document.values[path])


def _replica_problems(document: Document, replicas: object, nodes: list[Any]) -> Iterator[Problem]:
    if type(replicas) is not int or not 1 <= replicas <= limits.REPLICAS_MAX or not nodes:
        return
    position = document.nearest(("replicas",) if "replicas" in document.root else ("nodes",))
    if replicas > sum(map(cores_of, nodes)):
        has = "there is 1" if len(nodes) == 1 else f"there are {len(nodes)}"
        default = "" if "replicas" in document.root else " (the default)"
        yield document.problem(
            f"replicas: {replicas}{default} need at least {replicas} nodes, but {has}", position
        )
        return
    addresses = [_address(node.get("address")) if isinstance(node, dict) else None for node in nodes]
    hosts = {address.host for address in addresses if address}
    on_loopback = all(host in ("localhost", "::1") or host.startswith("127.") for host in hosts)
    if None not in addresses and replicas > len(hosts) and not on_loopback:
        on = "1 host" if len(hosts) == 1 else f"{len(hosts)} hosts"
        them = "the node is" if len(nodes) == 1 else f"the {len(nodes)} nodes are"
        message = f"replicas: {replicas} never share a host, but {them} on {on}"
        yield document.problem(f"{message}: {', '.join(sorted(hosts))}", position)


def _limit_problems(document: Document, section: object, nodes: list[Any]) -> Iterator[Problem]:
    if not isinstance(section, dict):
        section = {}
    known = {key: section[key] for key in section if key in _keys(LimitsConfig)}
    try:
        limit = LimitsConfig.model_validate(known)
    except ValidationError:
        return
    yield from share_problems(document, limit, nodes)
    if limit.frame_bytes < limit.keys_per_frame * 8 + _FRAME_OVERHEAD_BYTES:
        key = "frame" if "frame" in section else "keys_per_frame"
        message = f"limits.{key}: a frame of {format_size(limit.frame_bytes)} cannot hold"
        message += f" {limit.keys_per_frame} keys of 8 bytes"
        yield document.problem(message, document.nearest(("limits", key)))
    if limit.output_close_bytes < limit.output_pause_bytes:
        key = "output_close" if "output_close" in section else "output_pause"
        message = f"limits.{key}: output_close ({format_size(limit.output_close_bytes)}) is below"
        message += f" output_pause ({format_size(limit.output_pause_bytes)})"
        yield document.problem(message, document.nearest(("limits", key)))


def _address(value: object) -> Address | None:
    try:
        return parse_address(value)
    except ValueError:
        return None


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:37] + "...")
    if isinstance(value, dict):
        return "keys"
    return "a list" if isinstance(value, tuple) else f"the number {value}"


def _section(path: Path) -> type[BaseModel]:
    """Return the model of the mapping at ``path``."""
    if path[:1] == ("limits",):
        return LimitsConfig
    if path[:1] == ("admin",):
        return AdminConfig
    return NodeConfig if path[:1] == ("nodes",) else ClusterFile


def _keys(model: type[BaseModel]) -> list[str]:
    return [info.alias or name for name, info in model.model_fields.items()]


def _some_keys(path: Path) -> str:
    return " and ".join(f"'{key}:'" for key in _keys(_section(path))[:2])


def _description(path: Path) -> str:
    for name, info in _section(path[:-1]).model_fields.items():
        if (info.alias or name) == path[-1]:
            return info.description or ""
    return ""


def _hint(key: str, model: type[BaseModel]) -> str:
    """Return the key that was probably meant, or the section that a known key belongs in."""
    if meant := _similar_key(key, model):
        return f" (did you mean '{meant}'?)"
    for section, place in (
        (ClusterFile, "at the top"),
        (LimitsConfig, "in 'limits'"),
        (AdminConfig, "in 'admin'"),
        (NodeConfig, "in 'nodes'"),
    ):
        if section is not model and key in _keys(section):
            return f" (it belongs {place})"
    return f"; known here: {', '.join(_keys(model))}"


def _similar_key(key: str, model: type[BaseModel]) -> str | None:
    known = _keys(model)
    if key in _OTHER_NAMES and _OTHER_NAMES[key] in known:
        return _OTHER_NAMES[key]
    return next(iter(difflib.get_close_matches(key.lower()[:100], known, n=1)), None)
