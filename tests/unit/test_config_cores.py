"""``cores: 16``: what cores are called, where they listen, what each may use, and who holds what."""

import pytest

from pulsering.ids import SLOTS
from pulsering_server.config import ClusterConfig, ConfigErrors, parse_config

TWO_MACHINES = """\
version: 1
cluster: prod
epoch: 1
limits: {memory: 64MiB, users: 1000, connections: 100, buffers: 16MiB, keys_per_frame: 4096}
nodes:
  - {name: a, address: 10.0.0.1:7400, cores: 4, weight: 3, zone: east}
  - {name: b, address: "[2001:db8::2]:7400", cores: 2}
  - {name: c, address: 10.0.0.3:7400}
"""


def loopback(cores: int, hosts: int, replicas: int = 2) -> ClusterConfig:
    nodes = "".join(
        f"  - {{name: n{host}, address: 127.0.0.{host}:7400, cores: {cores}}}\n"
        for host in range(1, hosts + 1)
    )
    return parse_config(f"version: 1\ncluster: dev\nepoch: 1\nreplicas: {replicas}\nnodes:\n{nodes}")


def test_each_core_is_a_node_on_a_port_of_its_own() -> None:
    nodes = parse_config(TWO_MACHINES).topology().nodes
    assert [(node.name, node.address, node.weight, node.zone) for node in nodes] == [
        ("a-0", "10.0.0.1:7400", 3, "east"),
        ("a-1", "10.0.0.1:7401", 3, "east"),
        ("a-2", "10.0.0.1:7402", 3, "east"),
        ("a-3", "10.0.0.1:7403", 3, "east"),
        ("b-0", "[2001:db8::2]:7400", 1, ""),
        ("b-1", "[2001:db8::2]:7401", 1, ""),
        ("c", "10.0.0.3:7400", 1, ""),
    ]


def test_a_node_is_all_its_cores_and_each_of_them_can_be_named() -> None:
    config = parse_config(TWO_MACHINES)
    assert [shard.name for shard in config.shards_named("a")] == ["a-0", "a-1", "a-2", "a-3"]
    assert [shard.name for shard in config.shards_named("a-3")] == ["a-3"]
    assert [shard.name for shard in config.shards_named("c")] == ["c"]
    assert config.shards_named("c-0") == ()
    assert config.shards_named("a-4") == ()


def test_cores_share_what_their_node_may_use_and_no_bound_of_a_connection() -> None:
    config = parse_config(TWO_MACHINES)
    share = config.limits_of(config.shards_named("a-0")[0])
    assert (share.memory_bytes, share.users, share.connections) == (16 << 20, 250, 25)
    assert share.buffers_bytes == 4 << 20
    assert share.keys_per_frame == 4096
    assert share.output_close_bytes == config.limits.output_close_bytes
    assert config.limits_of(config.shards_named("c")[0]) == config.limits


def test_replicas_are_never_two_cores_of_one_machine() -> None:
    topology = parse_config(TWO_MACHINES).topology()
    for slot in range(SLOTS):
        assert len({node.host for node in topology.owners_of(slot)}) == topology.replicas


def test_on_loopback_replicas_share_a_host_only_where_hosts_are_too_few() -> None:
    """Nothing is at stake there; but as many of the replicas as can are on hosts of their own."""
    enough = loopback(cores=3, hosts=3).topology()
    assert all(len({node.host for node in enough.owners_of(slot)}) == 2 for slot in range(SLOTS))
    few = loopback(cores=3, hosts=2, replicas=3).topology()
    for slot in range(SLOTS):
        owners = few.owners_of(slot)
        assert len({node.name for node in owners}) == 3
        assert len({node.host for node in owners}) == 2
    one = loopback(cores=4, hosts=1).topology()
    assert all(len({node.name for node in one.owners_of(slot)}) == 2 for slot in range(SLOTS))


def test_a_node_with_more_cores_holds_more() -> None:
    """The weight is of each core, so cores need no counting."""
    text = TWO_MACHINES.replace("weight: 3", "weight: 1").replace("epoch: 1", "epoch: 1\nreplicas: 1")
    shares = parse_config(text).topology().shares()
    assert sum(shares[f"a-{core}"] for core in range(4)) == pytest.approx(4 / 7, rel=0.1)
    assert shares["c"] == pytest.approx(1 / 7, rel=0.1)


def test_the_longest_name_that_fits_is_taken() -> None:
    name = "n" * 61
    text = "version: 1\ncluster: c\nepoch: 1\nreplicas: 1\n"
    text += f"nodes: [{{name: {name}, address: 'h:1', cores: %d}}]\n"
    assert parse_config(text % 10).shards[-1].name == f"{name}-9"
    with pytest.raises(ConfigErrors, match="too long for 11 cores"):
        parse_config(text % 11)
