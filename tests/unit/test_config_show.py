"""``config show``: the values that count are a configuration themselves, and each says where it is from."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsering_server.config import ClusterConfig, Reading, parse_config, read_text
from pulsering_server.config_example import example
from pulsering_server.config_keys import keys
from pulsering_server.config_overrides import NONE, overrides_of
from pulsering_server.config_show import effective, settings, to_yaml

TEXT = """\
version: 1
cluster: prod
epoch: 7
limits:
  memory: 4GiB
  connections: 500
nodes:
  - {name: a, address: 10.0.0.1:7400, zone: "012"}
  - name: "on"
    address: "[2001:db8::1]:7400"
    cores: 2
"""


def read(text: str = TEXT) -> Reading:
    return read_text(
        text, "cluster.yaml", overrides_of({"PULSERING_LIMITS__MEMORY": "8GiB"}, ["limits.users=9"])
    )


def test_each_value_says_who_set_it_and_where() -> None:
    found = {setting.name: setting for setting in settings(read())}
    told = {name: (found[name].value, found[name].origin, found[name].where) for name in found}
    assert told["limits.users"] == (9, "command line", "--set")
    assert told["limits.memory"] == ("8GiB", "environment", "PULSERING_LIMITS__MEMORY")
    assert told["limits.connections"] == (500, "file", "cluster.yaml:6")
    assert told["nodes[1].cores"] == (2, "file", "cluster.yaml:11")
    assert told["ttl"] == ("20s", "default", "")
    assert told["heartbeat"] == (None, "default", "")


def test_every_key_of_the_schema_is_shown_once_and_once_a_node() -> None:
    names = [setting.name.replace("[0]", "[]") for setting in settings(read()) if "[1]" not in setting.name]
    assert names == [key.name for key in keys() if key.section is None]


@pytest.mark.parametrize("origins", [False, True])
def test_what_is_shown_is_a_file_that_means_the_same(origins: bool) -> None:
    reading = read()
    assert parse_config(to_yaml(reading, origins=origins)) == reading.config
    assert parse_config(json.dumps(effective(reading))) == reading.config


def test_origins_stand_beside_the_values() -> None:
    lines = [line.split() for line in to_yaml(read(), origins=True).splitlines()]
    assert ["memory:", "8GiB", "#", "PULSERING_LIMITS__MEMORY"] in lines
    assert ["connections:", "500", "#", "cluster.yaml:6"] in lines
    assert ["ttl:", "20s", "#", "default"] in lines


@given(
    st.integers(1_000, 3_600_000),
    st.integers(1 << 20, 1 << 44),
    st.from_regex(r"[A-Za-z0-9._-]{1,63}", fullmatch=True),
    st.integers(0, (1 << 64) - 1),
)
def test_any_value_survives_being_shown(ttl_ms: int, memory: int, name: str, seed: int) -> None:
    base = parse_config(example())
    node = base.nodes[0].model_copy(update={"name": name, "zone": name})
    config: ClusterConfig = base.model_copy(
        update={
            "ttl_ms": ttl_ms,
            "hash_seed": seed,
            "limits": base.limits.model_copy(update={"memory_bytes": memory}),
            "nodes": (node, *(other for other in base.nodes[1:] if other.name != name)),
            "replicas": 1,
        }
    )
    reading = Reading("x", config, read_text(example(), "x", NONE).document)
    assert parse_config(to_yaml(reading, origins=True)) == config
