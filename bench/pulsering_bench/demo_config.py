"""The configuration that a demo runs on: a temporary copy of a ``cluster.yaml`` with two things changed.

The ttl is shortened, as nobody wants to watch a demo for minutes; and a node whose address cannot be
used, because something listens there or it belongs to another machine, moves to a free port on loopback.
Both are told, as sentences in ``notes``; the file itself is never touched, and comments and all other
settings are kept.
"""

import io
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from ruamel.yaml import YAML

from pulsering_server.config import ClusterConfig, load_config, parse_config
from pulsering_server.units import format_duration_ms

BUILT_IN: Final = """\
version: 1
cluster: local
epoch: 1
ttl: 20s
replicas: 2
nodes:
  - {name: a, address: "127.0.0.1:7400", zone: rack-1}
  - {name: b, address: "127.0.0.2:7400", zone: rack-2}
  - {name: c, address: "127.0.0.3:7400", zone: rack-3}
"""

_PORTS: Final = range(20_000, 32_000)
"""Below those of outgoing connections, one of which could take a node's port while the node is down."""


class DemoConfig(NamedTuple):
    """The text to run on, what it means, and what was changed."""

    text: str
    config: ClusterConfig
    notes: tuple[str, ...]


def is_free(host: str, port: int) -> bool:
    """Return whether a node could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(host: str) -> int:
    """Return a port that was free a moment ago; ``OSError`` if none is found."""
    for port in random.sample(_PORTS, 100):
        if is_free(host, port):
            return port
    raise OSError(f"no free port found on {host}")


def demo_config(
    file: Path | None,
    ttl_ms: int,
    *,
    free: Callable[[str, int], bool] = is_free,
    take: Callable[[str], int] = free_port,
) -> DemoConfig:
    """Return ``file`` (None: the built-in cluster) with ``ttl_ms`` and usable addresses.

    Raises ``ConfigErrors`` if the file cannot be read or is not a configuration.
    """
    name = str(file) if file else "built-in cluster.yaml"
    before = load_config(file) if file else parse_config(BUILT_IN, name)
    text = file.read_text("utf-8-sig") if file else BUILT_IN
    yaml = YAML()
    yaml.width = 4096
    document = yaml.load(text)
    document["ttl"] = format_duration_ms(ttl_ms)
    notes = []
    if ttl_ms != before.ttl_ms:
        old, new = before.ttl_ms / 1000, ttl_ms / 1000
        notes.append(f"ttl is {new:g} s here instead of {old:g} s: time for warm-up, kill and recovery")
    for number, (node, entry) in enumerate(zip(before.nodes, document["nodes"], strict=True), 1):
        address = node.address
        if not free(address.host, address.port):
            host = f"127.0.0.{number % 250}"
            entry["address"] = f"{host}:{take(host)}"
            notes.append(f"{address} cannot be used now: node {node.name} listens on {entry['address']}")
    changed = io.StringIO()
    yaml.dump(document, changed)
    return DemoConfig(changed.getvalue(), parse_config(changed.getvalue(), name), tuple(notes))
