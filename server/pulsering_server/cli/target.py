"""Which cluster a verb talks to.

One rule, most explicit first: ``--url``, ``--config``, ``$PULSERING_URL``, ``$PULSERING_CONFIG``, then the
``cluster.yaml`` of the current directory. A configuration file stands for the addresses of its nodes and its
cluster's name, so that a verb typed beside the wrong file is refused by the node instead of answered by
another cluster."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pulsering_server.cli.misuse import Misuse

VARIABLE: Final = "PULSERING_URL"
CONFIG_VARIABLE: Final = "PULSERING_CONFIG"
DEFAULT_CONFIG: Final = Path("cluster.yaml")


def cluster_url(url: str | None, config: Path | None, environment: Mapping[str, str]) -> str:
    """Return the URL that the options mean; ``Misuse`` if they mean none, ``ConfigErrors`` for a bad file."""
    if url is not None and config is not None:
        raise Misuse("--url and --config exclude each other")
    if url is not None:
        return url
    if config is None and environment.get(VARIABLE):
        return environment[VARIABLE]
    said = config is not None or environment.get(CONFIG_VARIABLE)
    if not said and not DEFAULT_CONFIG.exists():
        raise Misuse(
            f"which cluster? Give --url presence://host:7400 or set {VARIABLE}, "
            "or go where its cluster.yaml is.\n"
            "  No cluster yet? 'pulsering dev' starts one and prints its URL."
        )
    return url_of(config_file(config, environment))


def config_file(config: Path | None, environment: Mapping[str, str]) -> Path:
    """Return the file that an option means, or that is meant where there is none."""
    return config or Path(environment.get(CONFIG_VARIABLE) or DEFAULT_CONFIG)


def url_of(config: Path) -> str:
    """Return the URL of the cluster that a file describes."""
    from pulsering_server.config import load_config

    loaded = load_config(config)
    return f"presence://{','.join(str(node.address) for node in loaded.nodes)}/{loaded.cluster}"
