"""What must hold between the values of a file. A file that contradicts itself is refused; see
``cross_problems``.

Checked on plain values rather than models, so that one bad key does not hide a duplicate node; values that
are wrong in themselves are passed over, the schema has told of them. What may be meant so, or depends on the
machine, is a warning (``config_advice``); what is in files that the file names is in ``config_files``."""

from collections.abc import Iterator
from typing import Any, Final

from pydantic import ValidationError

from pulsering import limits
from pulsering_server.config_admin import admin_problems
from pulsering_server.config_cores import core_problems, cores_of, share_of, share_problems
from pulsering_server.config_document import Document, Path, render_path
from pulsering_server.config_errors import Problem
from pulsering_server.config_files import tls_problems
from pulsering_server.config_keys import key_at
from pulsering_server.config_schema import BUFFERS_BYTES_MIN, LimitsConfig
from pulsering_server.config_values import Address, parse_address
from pulsering_server.units import about_size, format_duration_ms, format_size

__all__ = ["cross_problems"]

# Around the keys of a full frame: header, body and ext headers, epoch.
_FRAME_OVERHEAD_BYTES: Final = 64

_LINE_BYTES: Final = 64
_LINE_USERS: Final = 11
"""The table keeps at most so many users in a line: docs/table.md."""


def cross_problems(document: Document) -> Iterator[Problem]:
    """Yield what is wrong between values."""
    root = document.root
    entries = root.get("nodes")
    nodes = list(entries) if isinstance(entries, tuple) else []
    yield from _duplicates(document, nodes)
    yield from core_problems(document, nodes)
    yield from admin_problems(document, nodes)
    yield from tls_problems(document)
    yield from _heartbeat_problems(document)
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


def _heartbeat_problems(document: Document) -> Iterator[Problem]:
    ttl_ms, heartbeat_ms = _duration(document, "ttl"), _duration(document, "heartbeat")
    if ttl_ms is None or heartbeat_ms is None or ttl_ms >= 2 * heartbeat_ms:
        return
    said = "ttl" in document.root
    message = (
        f"ttl: {format_duration_ms(ttl_ms)}{'' if said else ' (the default)'} is less than two heartbeats of"
        f" {format_duration_ms(heartbeat_ms)}, so that one lost heartbeat would read offline"
        f" (ttl: {format_duration_ms(2 * heartbeat_ms)}, or heartbeat: {format_duration_ms(ttl_ms // 2)})"
    )
    yield document.problem(message, document.nearest(("ttl",) if said else ("heartbeat",)))


def _duration(document: Document, name: str) -> int | None:
    """The duration of a key at the top, or its default; None where there is none that can be used."""
    key = key_at((name,))
    assert key is not None
    if document.root.get(name) is None:
        default: int | None = None if name in document.root else key.info.default
        return default
    try:
        return key.parse(document.root[name])
    except ValueError:
        return None


def _replica_problems(document: Document, replicas: object, nodes: list[Any]) -> Iterator[Problem]:
    if type(replicas) is not int or not 1 <= replicas <= limits.REPLICAS_MAX or not nodes:
        return
    position = document.nearest(("replicas",) if "replicas" in document.root else ("nodes",))
    cores = sum(map(cores_of, nodes))
    said = f"replicas: {replicas}{'' if 'replicas' in document.root else ' (the default)'}"
    if replicas > cores:
        has = "there is 1" if len(nodes) == 1 else f"there are {len(nodes)}"
        message = f"{said} need at least {replicas} nodes, but {has}"
        yield document.problem(f"{message} (add nodes, or replicas: {cores})", position)
        return
    addresses = [_address(node.get("address")) if isinstance(node, dict) else None for node in nodes]
    hosts = {address.host for address in addresses if address}
    if None not in addresses and replicas > len(hosts) and not all(map(_is_loopback, hosts)):
        on = "1 host" if len(hosts) == 1 else f"{len(hosts)} hosts"
        them = "the node is" if len(nodes) == 1 else f"the {len(nodes)} nodes are"
        message = f"{said} never share a host, but {them} on {on}: {', '.join(sorted(hosts))}"
        yield document.problem(f"{message} (add hosts, or replicas: {len(hosts)})", position)


def _is_loopback(host: str) -> bool:
    """As ``Topology`` has it, which clients go by as well."""
    return host in ("localhost", "::1") or host.startswith("127.")


def _limit_problems(document: Document, section: object, nodes: list[Any]) -> Iterator[Problem]:
    if not isinstance(section, dict):
        section = {}
    known = {name: section[name] for name in section if key_at(("limits", name)) is not None}
    try:
        limit = LimitsConfig.model_validate(known)
    except ValidationError:
        return
    yield from share_problems(document, limit, nodes)
    share = share_of(limit, max(map(cores_of, nodes), default=1))

    frame, pause = format_size(limit.frame_bytes), format_size(limit.output_pause_bytes)
    close, memory = format_size(limit.output_close_bytes), format_size(limit.memory_bytes)
    found: list[tuple[str, str, str]] = []
    if limit.frame_bytes < limit.keys_per_frame * 8 + _FRAME_OVERHEAD_BYTES:
        most = (limit.frame_bytes - _FRAME_OVERHEAD_BYTES) // 8
        message = f"a frame of {frame} cannot hold {limit.keys_per_frame} keys of 8 bytes"
        found.append(("frame", "keys_per_frame", f"{message} (keys_per_frame: {most})"))
    if limit.output_close_bytes < limit.output_pause_bytes:
        message = f"output_close ({close}) is below output_pause ({pause})"
        found.append(("output_close", "output_pause", message))
    elif limit.output_close_bytes < limit.frame_bytes:
        message = f"output_close ({close}) is below frame ({frame}): one long reply would end its connection"
        found.append(("output_close", "frame", message))
    if BUFFERS_BYTES_MIN <= share.buffers_bytes < limit.output_close_bytes:
        cores = "" if share == limit else " of each core"
        message = f"buffers of {about_size(share.buffers_bytes)}{cores} for all peers together"
        message += f" are less than the {close} that one may leave unread (output_close)"
        found.append(("buffers", "output_close", message))
    if (limit.connections_per_address or 0) > limit.connections:
        message = f"connections_per_address ({limit.connections_per_address}) is above connections"
        message += f" ({limit.connections}), so it would never count"
        found.append(("connections_per_address", "connections", message))
    if limit.users is not None and limit.users * _LINE_BYTES > limit.memory_bytes * _LINE_USERS:
        least, most = limit.users * _LINE_BYTES / _LINE_USERS, limit.memory_bytes * _LINE_USERS // _LINE_BYTES
        message = f"{limit.users} users take {about_size(least)} or more, but a memory of {memory}"
        found.append(("users", "memory", f"{message} holds {most} at most"))
    for first, second, message in found:
        if first in section or second in section:  # else it is the defaults, with many cores
            name = first if first in section else second
            yield document.problem(f"limits.{name}: {message}", document.nearest(("limits", name)))


def _address(value: object) -> Address | None:
    try:
        return parse_address(value)
    except ValueError:
        return None
