"""``pulsering support-dump``: one archive with what somebody far away needs, and nothing that is secret.

Each part says by itself what it is and is made whatever the others do: a node that is down is a sentence in
the archive, not the end of it. Kept out: tokens, the hash seed, which tells who shares a node with whom, and
comments of ``cluster.yaml``; nodes tell no user ids in the first place. Should one of the secrets stand
somewhere all the same, it is blotted out everywhere. Invariant: nothing is overwritten, and only its owner
may read the archive.
"""

import asyncio
import calendar
import importlib.metadata
import io
import json
import os
import platform
import re
import resource
import sys
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from pulsering.errors import ClusterMismatch, PresenceError
from pulsering.wire import VERSION as PROTOCOL_VERSION
from pulsering_server.cli.exits import CANNOT_REACH, FAILED, OK
from pulsering_server.cli.misuse import Misuse
from pulsering_server.cli.options import AdminAt, Config, Timeout, Url
from pulsering_server.cli.output import seconds_of
from pulsering_server.cli.target import Target, target_of

if TYPE_CHECKING:
    from pulsering_server.cli.admin_ports import AdminPorts
    from pulsering_server.cli.health import Facts

__all__ = ["Dump", "support_dump"]

_BLOT: Final = "(kept out)"
_SEED_MIN: Final = 1 << 24
"""Smaller ones are in every table of numbers."""
_PACKAGES: Final = (
    *("pulsering", "aiohttp", "msgpack", "prometheus-client", "pydantic", "rich", "ruamel.yaml"),
    *("structlog", "typer", "uvloop", "xxhash"),
)
_NODE_PAGES: Final = (
    ("status.json", "/status", "what the node says of itself, with its last events and minutes"),
    ("connections.json", "/connections?limit=1000", "who is connected to it"),
    ("metrics.txt", "/metrics", "its metrics"),
)
_PROMISE: Final = """\
Kept out: tokens, the hash seed, comments of cluster.yaml, values of the environment, user ids.
In here:  names and addresses of nodes, and of the services that are connected to them."""
_LOGS: Final = """\
Logs are not in here: nodes write them to stderr, and whoever started a node has them. How to get them:

  started by systemd       journalctl -u 'pulsering*' --since '-1h' -o cat > NODE.log
  in Kubernetes            kubectl logs POD --previous=false --since=1h > NODE.log
  in a container           docker logs --since 1h CONTAINER > NODE.log 2>&1
  by hand                  wherever its stderr was sent

A line is one JSON object with 'event' and 'node'. They have no user ids. The last events of each node are in
nodes/NODE/status.json, under 'events'.

Nodes:
"""


class Part(NamedTuple):
    """One file of the archive."""

    name: str
    what: str
    text: str


class Dump:
    """What has been gathered, and what could not be; ``tokens`` and seeds are blotted out of all of it."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self.parts: list[Part] = []
        self.missing: list[str] = []
        self._secrets = set(tokens)

    def keep_out(self, seed: int) -> None:
        """Blot out a hash seed, however it is written; one that anybody would guess is left alone."""
        if seed >= _SEED_MIN:
            self._secrets |= {str(seed), f"{seed:x}", f"{seed:016x}", f"{seed:X}", f"{seed:016X}"}

    def add(self, name: str, what: str, content: Any) -> None:
        """Put in a file: text as it is, anything else as JSON."""
        text = content if isinstance(content, str) else json.dumps(content, indent=2, default=str)
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, _BLOT)
        text = re.sub(r'hash_seed[^"\n]*', f"hash_seed: {_BLOT}", text)
        self.parts.append(Part(name, what, text if text.endswith("\n") else f"{text}\n"))

    def write(self, stream: io.BufferedIOBase, folder: str, now_s: int) -> None:
        """Write a .tar.gz of one folder with all parts, and MANIFEST.txt that tells of them."""
        lines = [f"{part.name:<36}{part.what}" for part in self.parts]
        lines += ["", "Could not be gathered:" if self.missing else "Everything could be gathered."]
        lines += (f"  {line}" for line in self.missing)
        lines += ["", _PROMISE]
        manifest = Part("MANIFEST.txt", "", "\n".join(lines) + "\n")
        with tarfile.open(fileobj=stream, mode="w:gz") as archive:
            for part in (manifest, *self.parts):
                data = part.text.encode("utf-8", "replace")
                entry = tarfile.TarInfo(f"{folder}/{part.name}")
                entry.size, entry.mtime, entry.mode = len(data), now_s, 0o600
                archive.addfile(entry, io.BytesIO(data))


def support_dump(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="Else pulsering-support-CLUSTER-TIME.tar.gz.", show_default=False
        ),
    ] = None,
    admin: AdminAt = None,
    url: Url = None,
    config: Config = None,
    timeout: Timeout = "5s",
) -> None:
    """Write one archive with everything a maintainer needs, and no secret and no user id.

    In it: the configuration that counts, what each node says of its status, connections and metrics, what
    'check' finds, versions, and where the logs are; MANIFEST.txt tells of each file. Look into it before you
    send it: names and addresses of your nodes and services are there. Exit code 1 if a part could not be
    gathered, 3 if no node was reached; the archive is written all the same.

    \b
    [dim]pulsering support-dump[/]
    [dim]pulsering support-dump ticket-4711.tar.gz --config /etc/pulsering/cluster.yaml[/]
    [dim]tar -tzf ticket-4711.tar.gz[/]
    """
    from pulsering_server.cli.admin_ports import AdminPorts

    target = target_of(url, config, os.environ)
    ports = AdminPorts(target, admin or (), os.environ)
    timeout_s = seconds_of("--timeout", timeout)
    # The one use of a wall clock: people look for a file by the day. Nothing is reckoned with it.
    now = time.gmtime()
    stamp = time.strftime("%Y%m%dT%H%M%SZ", now)
    cluster = target.config.cluster if target.config else "cluster"
    path = file or Path(f"pulsering-support-{cluster}-{stamp}.tar.gz")
    dump = Dump((*ports.tokens, *_tokens_told(target.url)))
    _add_machine(dump, target)
    code = asyncio.run(_add_cluster(dump, target, ports, timeout_s))
    _write(dump, path, calendar.timegm(now))
    typer.echo(f"{path}: written, {len(dump.parts) + 1} files; MANIFEST.txt in it tells of each")
    for line in dump.missing:
        typer.echo(f"  not in it: {line}", err=True)
    raise typer.Exit(code or (FAILED if dump.missing else OK))


def _tokens_told(url: str) -> list[str]:
    """Tokens of the data port, where they stand in the environment or in the URL."""
    from pulsering.url import parse_url

    told = [value for name, value in os.environ.items() if name.startswith("PULSERING_") and "TOKEN" in name]
    told.append(parse_url(url).options.get("token", ""))
    return [word for each in told for word in each.split()]


def _write(dump: Dump, path: Path, now_s: int) -> None:
    def only_for_me(name: str, flags: int) -> int:
        return os.open(name, flags, 0o600)

    try:
        with open(path, "xb", opener=only_for_me) as stream:
            folder = path.name.removesuffix(".gz").removesuffix(".tar").removesuffix(".tgz")
            dump.write(stream, folder or "support", now_s)
    except FileExistsError:
        raise Misuse(f"{path} exists, and nothing is overwritten: give another name") from None
    except OSError as error:
        raise Misuse(f"{path}: cannot be written: {error.strerror or error}; give another place") from None


# --- Of this machine ------------------------------------------------------------------------------------


def _add_machine(dump: Dump, target: Target) -> None:
    dump.add("versions.json", "versions, where the command ran", _versions())
    if target.file is None:
        return
    from pulsering_server.config import read_config
    from pulsering_server.config_advice import advise, this_machine
    from pulsering_server.config_show import to_yaml

    reading = read_config(target.file)
    dump.keep_out(reading.config.hash_seed)
    dump.add(
        "config.yaml", "the values that count, and where each comes from", to_yaml(reading, origins=True)
    )
    warnings = advise(reading, this_machine())
    if warnings:
        # Without the lines of the file, which may hold more than their values.
        told = "\n".join(each.where(str(target.file)) + f": {each.message}" for each in warnings)
        dump.add("config-warnings.txt", "what 'config validate' warns of", told)


def _versions() -> dict[str, Any]:
    from pulsering_server import table

    packages: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = None
    return {
        "pulsering": packages["pulsering"],
        "protocol": PROTOCOL_VERSION,
        "native": table.COMPILED,
        "python": sys.version,
        "platform": platform.platform(),
        "libc": " ".join(platform.libc_ver()),
        "processors": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "open_files_max": resource.getrlimit(resource.RLIMIT_NOFILE),
        "packages": packages,
        "variables": sorted(name for name in os.environ if name.startswith("PULSERING_")),
    }


# --- Of the cluster -------------------------------------------------------------------------------------


async def _add_cluster(dump: Dump, target: Target, ports: "AdminPorts", timeout_s: float) -> int:
    """Put in what the nodes say; the exit code that comes of it."""
    from pulsering_server.cli.check import document, facts_of
    from pulsering_server.cli.health import judge, limits_of

    try:
        facts = await facts_of(target, None, timeout_s)
    except ClusterMismatch:
        raise
    except PresenceError as error:
        dump.missing.append(f"the nodes: {error}")
        _add_logs(dump, ports.names)
        return CANNOT_REACH
    names = [node.name for node in facts.topology.nodes]
    dump.keep_out(facts.topology.hash_seed)
    dump.add("nodes.json", "what each node says at its data port", _nodes(facts))
    told = await ports.ask(names, "/status", timeout_s)
    dump.add("check.json", "what 'check' finds", document(judge(facts._replace(told=told), limits_of(()))))
    dump.missing += (f"admin port of {each.node}: {each.why}" for each in told if each.why)
    dump.missing += (f"node {each.node.name}: {each.error}" for each in facts.seen if not each.up)
    there = [each.node for each in told if each.body is not None]
    for name, page, what in _NODE_PAGES:
        for each in await ports.ask(there, page, timeout_s, text=True):
            if each.why:
                dump.missing.append(f"{page} of {each.node}: {each.why}")
            else:
                dump.add(f"nodes/{each.node}/{name}", what, each.body)
    _add_logs(dump, names)
    return OK


def _add_logs(dump: Dump, names: list[str]) -> None:
    dump.add(
        "logs.txt",
        "where the logs are, which are not in here",
        _LOGS + "".join(f"  {name}\n" for name in names),
    )


def _nodes(facts: "Facts") -> dict[str, Any]:
    topology = facts.topology
    shares = topology.shares(None)
    return {
        "cluster": topology.cluster,
        "epoch": topology.epoch,
        "topology_hash": f"{topology.hash:016x}",
        "ttl_ms": topology.ttl_ms,
        "ticks_per_ttl": topology.ticks_per_ttl,
        "replicas": topology.replicas,
        "nodes": [
            {
                "name": each.node.name,
                "address": each.node.address,
                "zone": each.node.zone,
                "weight": each.node.weight,
                "share": round(shares[each.node.name], 6),
                "error": each.error or None,
                "ping_ms": each.ping_ms,
                "hello": None
                if each.welcome is None
                else each.welcome._asdict() | {"topology_hash": f"{each.welcome.topology_hash:016x}"},
                "vitals": None if each.vitals is None else each.vitals._asdict(),
            }
            for each in facts.seen
        ],
    }
