"""What other packages hang on the client, by entry points: imports only point down, calls may go up.

Invariant: nothing is looked up or imported until something is asked for that needs it.
"""

import importlib.metadata
from typing import Any, Final

from pulsering.errors import ConfigError

__all__ = ["TESTING_GROUP", "TRANSPORTS_GROUP", "is_plugged_in", "load_plugin"]

TRANSPORTS_GROUP: Final = "pulsering.transports"
"""URL schemes beside those of TCP; see ``pulsering.transport``."""

TESTING_GROUP: Final = "pulsering.testing"
"""What ``pulsering.testing`` runs nodes with."""


def is_plugged_in(group: str, name: str) -> bool:
    """Whether exactly one package provides it. Imports nothing."""
    return bool(name) and len(importlib.metadata.entry_points(group=group, name=name)) == 1


def load_plugin(group: str, name: str, purpose: str) -> Any:
    """What a package provides under this name; ``ConfigError`` if what it stands on is not installed."""
    (entry,) = importlib.metadata.entry_points(group=group, name=name)
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{purpose} runs a node in this process, which needs the 'server' extra ({error.name} is not "
            "installed): pip install 'pulsering[server]'"
        ) from error
