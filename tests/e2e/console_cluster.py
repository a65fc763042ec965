"""A cluster whose nodes know each other's admin ports, as a console needs it; of port 0 nobody else knows."""

from pathlib import Path

from e2e.test_cores import HOST, free_ports

from pulsering_server.local_cluster import LocalNode

NAMES = ("a", "b", "c")


def write_cluster(directory: Path, *, ttl: str, admin_host: str = HOST, more: str = "") -> Path:
    """A ``cluster.yaml`` of three nodes and two replicas, and ``more`` sections."""
    port = free_ports(2 * len(NAMES))
    nodes = ""
    for place, name in enumerate(NAMES, 1):
        address, admin = f"127.0.0.{place}:{port}", f"{admin_host}:{port + 1}"
        nodes += f"  - {{name: {name}, address: '{address}', admin: '{admin}'}}\n"
        port += 2
    path = directory / "cluster.yaml"
    path.write_text(f"version: 1\ncluster: demo\nepoch: 1\nttl: {ttl}\nreplicas: 2\n{more}nodes:\n{nodes}")
    return path


def page_of(node: LocalNode, scheme: str = "http") -> str:
    """Where its console is."""
    assert node.admin.startswith(HOST)
    return f"{scheme}://{node.admin}/"
