"""``load_config``: ``cluster.yaml`` into a ``ClusterConfig``, or every reason why not, at once.

Text becomes plain values with positions (``config_document``); what the environment or a command line sets is
put in their place (``config_overrides``); values are held against the schema (``config_schema``), and against
each other (``config_checks``). Whatever the file holds, the only exception is ``ConfigErrors``.
"""

import itertools
import os
from pathlib import Path as FilePath
from typing import NamedTuple

from pydantic import ValidationError

from pulsering.topology import Node, Topology
from pulsering_server import clock
from pulsering_server.config_checks import cross_problems
from pulsering_server.config_cores import Shard, shards_of, share_of
from pulsering_server.config_document import TEXT_BYTES_MAX, Document, read_document
from pulsering_server.config_errors import ConfigErrors, Position, Problem
from pulsering_server.config_files import file_problems
from pulsering_server.config_messages import kind_of, schema_problems
from pulsering_server.config_overrides import NONE, Overrides, overrides_of
from pulsering_server.config_schema import (
    AdminConfig,
    AuthConfig,
    ClusterFile,
    LimitsConfig,
    NodeConfig,
    TlsConfig,
)
from pulsering_server.units import format_size

__all__ = [
    "AdminConfig",
    "AuthConfig",
    "ClusterConfig",
    "ConfigErrors",
    "LimitsConfig",
    "NodeConfig",
    "Reading",
    "Shard",
    "TlsConfig",
    "load_config",
    "parse_config",
    "read_config",
    "read_text",
]


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


class Reading(NamedTuple):
    """A valid configuration with the file that it is from: where each value stands, or what set it."""

    file: str
    config: ClusterConfig
    document: Document


def load_config(
    path: str | os.PathLike[str], overrides: Overrides | None = None, *, files: bool = False
) -> ClusterConfig:
    """Read and check a configuration file; ``ConfigErrors`` lists everything that is wrong with it.

    The environment comes before the file, unless ``overrides`` are given instead of it. With ``files``, as
    nodes want it, the files that it names are checked as well.
    """
    return read_config(path, overrides, files=files).config


def parse_config(text: str, file: str = "cluster.yaml", overrides: Overrides = NONE) -> ClusterConfig:
    """Check the text of a configuration; ``file`` is what its errors call it."""
    return read_text(text, file, overrides).config


def read_config(
    path: str | os.PathLike[str], overrides: Overrides | None = None, *, files: bool = False
) -> Reading:
    """As ``load_config``, with the document."""
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
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        message = "UTF-16 text: save the file as UTF-8" if wide else "not UTF-8 text"
        raise ConfigErrors(file, [Problem(message, position)]) from None
    chosen = overrides_of(os.environ) if overrides is None else overrides
    return read_text(text, file, chosen, files=files)


def read_text(text: str, file: str, overrides: Overrides, *, files: bool = False) -> Reading:
    """As ``parse_config``, with the document."""
    document = read_document(text)
    overrides.apply(document)
    problems = document.problems
    config: ClusterConfig | None = None
    if document.root is None and not problems:
        problems.append(Problem("empty: a cluster needs version, cluster, epoch and nodes", Position(1, 1)))
    elif document.root is not None and not isinstance(document.root, dict):
        if document.broken_at is None:
            message = f"expected keys such as 'cluster:' and 'nodes:', found {kind_of(document.root)}"
            problems.append(document.problem(message, document.nearest(())))
    elif document.root is not None:
        try:
            config = ClusterConfig.model_validate(document.root)
        except ValidationError as error:
            problems += schema_problems(document, error)
        problems += cross_problems(document)
        if files:
            problems += file_problems(document, FilePath(file).parent, clock.utc())
    if config is None or problems:
        raise ConfigErrors(file, problems)
    return Reading(file, config, document)
