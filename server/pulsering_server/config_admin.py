"""``admin`` of nodes in ``cluster.yaml``: checked here is that no two listeners of a machine want one port.

A number alone is a port on loopback, where nodes of different machines cannot meet but those of one do; so it
matters which nodes share a machine: those with the same host in their address, and all with a loopback one.
Values that are wrong in themselves are passed over, the schema has told of them.
"""

import ipaddress
from collections.abc import Iterator
from typing import Any, NamedTuple

from pulsering_server.config_cores import cores_of
from pulsering_server.config_document import Document
from pulsering_server.config_errors import Problem
from pulsering_server.config_values import PORT_MAX, Address, parse_address, parse_admin

__all__ = ["admin_problems", "is_any", "is_loopback"]


class _Listener(NamedTuple):
    host: str
    ports: range
    place: int
    what: str

    def meets(self, other: "_Listener") -> int | None:
        """The first port that both want, None if there is none."""
        if self.host != other.host and not is_any(self.host) and not is_any(other.host):
            return None
        first = max(self.ports.start, other.ports.start)
        return first if first < min(self.ports.stop, other.ports.stop) else None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_any(host: str) -> bool:
    """Whether it means every address of the machine."""
    return host in ("0.0.0.0", "::")


def admin_problems(document: Document, nodes: list[Any]) -> Iterator[Problem]:
    """Yield the admin ports that are taken, or beyond the last one."""
    machines: dict[str, list[_Listener]] = {}
    admins: list[tuple[str, _Listener]] = []
    for place, node in enumerate(nodes):
        if not isinstance(node, dict):
            continue
        try:
            address = parse_address(node.get("address"))
            admin = parse_admin(node.get("admin", "off"))
        except ValueError:
            continue
        machine = "loopback" if is_loopback(address.host) else address.host
        cores = cores_of(node)
        data = _Listener(address.host, range(address.port, address.port + cores), place, "address")
        machines.setdefault(machine, []).append(data)
        if admin is None or admin.port == 0:
            continue
        if admin.port + cores - 1 > PORT_MAX:
            message = f"{cores} cores from port {admin.port} on end at {admin.port + cores - 1}"
            yield _problem(document, place, f"{message}: must be at most {PORT_MAX}")
            continue
        admins.append((machine, _Listener(admin.host, range(admin.port, admin.port + cores), place, "admin")))
    for machine, listener in admins:
        taken = machines[machine]
        for other in taken:
            port = listener.meets(other)
            if port is not None:
                line = document.nearest(("nodes", other.place, other.what)).line
                where = Address(listener.host, port)
                message = f"{where} is taken by '{other.what}' on line {line}, on the same machine"
                yield _problem(document, listener.place, message)
                break
        taken.append(listener)


def _problem(document: Document, place: int, message: str) -> Problem:
    path = ("nodes", place, "admin")
    return document.problem(f"nodes[{place}].admin: {message}", document.nearest(path))
