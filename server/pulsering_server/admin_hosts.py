"""By which names an admin port may be asked where it asks for no token: no page of another site may read it.

A browser keeps pages from reading other sites by the *name* that both have. Who owns a name can let it lead
to 127.0.0.1 once their page is loaded (DNS rebinding), and then the browser sends its requests here, with
that name in the ``Host`` field. So a name must be one that strangers cannot own: ``localhost``, or one that
``cluster.yaml`` gives a node. An address is no name, and nobody can rebind it; programs may send none at all.
"""

import ipaddress
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pulsering_server.config import ClusterConfig

__all__ = ["is_known_host", "names_in"]


def is_known_host(field: str, names: Iterable[str]) -> bool:
    """Whether a ``Host`` field, with or without a port, is an address, ``localhost`` or one of ``names``."""
    host = field.partition("]")[0].lstrip("[") if field.startswith("[") else field.partition(":")[0]
    host = host.lower().removesuffix(".")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost") or host in names
    return True


def names_in(config: "ClusterConfig") -> set[str]:
    """Hosts that a configuration gives nodes, for clients or for their admin ports."""
    admins = {node.admin.host for node in config.nodes if node.admin is not None}
    return {node.address.host for node in config.nodes} | admins
