"""Which cluster a verb talks to.

One rule, most explicit first: ``--url``, ``--config``, ``$PULSERING_URL``, ``$PULSERING_CONFIG``, then the
``cluster.yaml`` of the current directory. A configuration file stands for the addresses of its nodes and its
cluster's name, so that a verb typed beside the wrong file is refused by the node instead of answered by
another cluster, and for whether nodes speak TLS. A URL says nothing of admin ports, a file does."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlencode

from pulsering_server.cli.misuse import Misuse
from pulsering_server.trust import TLS_VARIABLES

if TYPE_CHECKING:
    from pulsering_server.config import ClusterConfig

VARIABLE: Final = "PULSERING_URL"
CONFIG_VARIABLE: Final = "PULSERING_CONFIG"
DEFAULT_CONFIG: Final = Path("cluster.yaml")


class Target(NamedTuple):
    """A cluster: its URL, and the file that says so, if one does."""

    url: str
    file: Path | None = None
    config: "ClusterConfig | None" = None


def cluster_url(url: str | None, config: Path | None, environment: Mapping[str, str]) -> str:
    """Return the URL that the options mean; ``Misuse`` if they mean none, ``ConfigErrors`` for a bad file."""
    return target_of(url, config, environment).url


def target_of(url: str | None, config: Path | None, environment: Mapping[str, str]) -> Target:
    """Return the cluster that the options mean; raises what ``cluster_url`` does."""
    if url is not None and config is not None:
        raise Misuse("--url and --config exclude each other")
    if url is not None:
        return Target(url)
    if config is None and environment.get(VARIABLE):
        return Target(environment[VARIABLE])
    said = config is not None or environment.get(CONFIG_VARIABLE)
    if not said and not DEFAULT_CONFIG.exists():
        raise Misuse(
            f"which cluster? Give --url presence://host:7400 or set {VARIABLE}, "
            "or go where its cluster.yaml is.\n"
            "  No cluster yet? 'pulsering dev' starts one and prints its URL."
        )
    file = config_file(config, environment)
    loaded = _load(file)
    return Target(_url(loaded, environment), file, loaded)


def config_file(config: Path | None, environment: Mapping[str, str]) -> Path:
    """Return the file that an option means, or that is meant where there is none."""
    return config or Path(environment.get(CONFIG_VARIABLE) or DEFAULT_CONFIG)


def url_of(config: Path) -> str:
    """Return the URL of the cluster that a file describes."""
    return _url(_load(config), os.environ)


def _load(file: Path) -> "ClusterConfig":
    from pulsering_server.config import load_config

    return load_config(file)


def _url(loaded: "ClusterConfig", environment: Mapping[str, str]) -> str:
    place = f"{','.join(str(node.address) for node in loaded.nodes)}/{loaded.cluster}"
    if loaded.tls.certificate is None:
        return f"presence://{place}"
    told = {option: environment[name] for option, name in TLS_VARIABLES.items() if environment.get(name)}
    return f"presences://{place}{'?' if told else ''}{urlencode(told)}"
