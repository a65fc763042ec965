"""What a shell offers where the name of a node is typed: those of the ``cluster.yaml`` that is meant.

Invariant: whatever is wrong with that file, nothing is offered and nothing is said; a line that is being
typed is no place for it.
"""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from pulsering_server.cli.target import config_file

if TYPE_CHECKING:
    from pulsering_server.config import ClusterConfig

__all__ = ["core_names", "node_names"]


def core_names(context: typer.Context, incomplete: str) -> list[str]:
    """Names that clients know: of nodes, and in place of one of several cores those of its cores."""
    config = _config_of(context)
    return [] if config is None else _begun([shard.name for shard in config.shards], incomplete)


def node_names(context: typer.Context, incomplete: str) -> list[str]:
    """Names of nodes, and of cores of those with several."""
    config = _config_of(context)
    if config is None:
        return []
    return _begun([*(node.name for node in config.nodes), *(core.name for core in config.shards)], incomplete)


def _begun(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


def _config_of(context: typer.Context) -> "ClusterConfig | None":
    from pulsering_server.config import load_config

    try:
        return load_config(config_file(context.params.get("config"), os.environ))
    except Exception:
        return None
