"""``config diff``: what is different, and what each difference takes to count."""

from contextlib import nullcontext
from typing import Any

import pytest

from pulsering.topology import moved
from pulsering_server.config import ClusterConfig, parse_config
from pulsering_server.config_diff import differences
from pulsering_server.config_keys import keys
from pulsering_server.ownership import Refused, check_change

TEXT = """\
version: 1
cluster: prod
epoch: 7
nodes:
  - {name: a, address: 10.0.0.1:7400, zone: x}
  - {name: b, address: 10.0.0.2:7400, zone: y}
  - {name: c, address: 10.0.0.3:7400, zone: z}
"""


def changed(old: str, new: str) -> ClusterConfig:
    assert old in TEXT
    return parse_config(TEXT.replace(old, new))


BASE = parse_config(TEXT)


def test_order_comments_and_defaults_written_out_are_no_difference() -> None:
    lines = TEXT.splitlines()
    other = "\n".join(
        [*lines[:4], lines[6], lines[4], "# b is the spare", lines[5], "ttl: 20s", "limits: {}"]
    )
    assert differences(BASE, parse_config(other)) == ()


@pytest.mark.parametrize(
    ("old", "new", "name", "values", "takes"),
    [
        ("epoch: 7", "epoch: 8", "epoch", (7, 8), "reload"),
        ("epoch: 7", "epoch: 7\nttl: 1m", "ttl", ("20s", "1m"), "restart of every node"),
        ("epoch: 7", "epoch: 7\nheartbeat: 5s", "heartbeat", (None, "5s"), "reload"),
        ("epoch: 7", "epoch: 7\nreplicas: 3", "replicas", (2, 3), "reload, moves users"),
        ("epoch: 7", "epoch: 7\nhash_seed: 5", "hash_seed", (0, 5), "restart of every node, moves users"),
        (
            "epoch: 7",
            "epoch: 7\nlimits: {memory: 8GiB}",
            "limits.memory",
            ("1GiB", "8GiB"),
            "restart of each node",
        ),
        ("zone: x", "zone: x, weight: 3", "nodes[a].weight", (1, 3), "reload, moves users"),
        ("zone: x", "zone: x, cores: 4", "nodes[a].cores", (1, 4), "restart of node a, moves users"),
        ("zone: x", "zone: w", "nodes[a].zone", ("x", "w"), "reload, moves users"),
        ("0.1:7400", "0.1:7500", "nodes[a].address", ("10.0.0.1:7400", "10.0.0.1:7500"), "restart of node a"),
    ],
)
def test_change_of_a_value_says_what_it_takes(
    old: str, new: str, name: str, values: tuple[Any, Any], takes: str
) -> None:
    (found,) = differences(BASE, changed(old, new))
    assert (found.name, (found.old, found.new), found.takes) == (name, values, takes)


def test_renamed_node_is_one_that_goes_and_one_that_comes() -> None:
    found = differences(BASE, changed("name: b", "name: d"))
    assert [(each.name, each.old, each.new, each.takes) for each in found] == [
        ("nodes[b]", "10.0.0.2:7400", None, "reload, moves users"),
        ("nodes[d]", None, "10.0.0.2:7400", "reload, moves users"),
    ]


OTHER = {
    "cluster": "cluster: other", "ttl": "ttl: 30s", "ticks": "ticks: 40", "hash_seed": "hash_seed: 1",
    "epoch": "epoch: 8", "heartbeat": "heartbeat: 4s", "replicas": "replicas: 1",
    "topology": "topology: etcd://h:2379/k", "last_seen": "last_seen: 7d",
}  # fmt: skip


def test_what_is_said_to_take_a_restart_of_every_node_is_what_running_nodes_refuse() -> None:
    """The schema says it, ``ownership`` does it."""
    told = {key.name: key.change for key in keys() if len(key.path) == 1 and key.change}
    assert told.keys() == OTHER.keys()
    for name, line in OTHER.items():
        text = TEXT.replace("cluster: prod", line) if name == "cluster" else TEXT + line + "\n"
        text = text.replace("epoch: 7\n", "" if name == "epoch" else "epoch: 8\n")
        after = parse_config(text).topology()
        refused = pytest.raises(Refused, match="takes a restart of every node")
        with refused if told[name] == "restart of every node" else nullcontext():
            check_change(BASE.topology(), after)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("epoch: 7", "epoch: 8"),
        ("epoch: 7", "epoch: 7\nttl: 1m"),
        ("0.1:7400", "0.1:7500"),
        ("epoch: 7", "epoch: 7\nlimits: {memory: 8GiB}"),
    ],
)
def test_what_is_said_not_to_move_users_moves_none(old: str, new: str) -> None:
    after = changed(old, new)
    assert not any(each.moves for each in differences(BASE, after))
    assert moved(BASE.topology(), after.topology()) == 0


@pytest.mark.parametrize("new", ["zone: x, weight: 3", "zone: y", "zone: x, cores: 2"])
def test_what_is_said_to_move_users_does(new: str) -> None:
    after = changed("zone: x", new)
    assert any(each.moves for each in differences(BASE, after))
    assert moved(BASE.topology(), after.topology()) > 0
