"""``cluster.yaml``: what a valid file means, and that an invalid one only ever ends in ``ConfigErrors``."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pulsering import limits
from pulsering.topology import Node, Topology
from pulsering_server.config import ConfigErrors, load_config, parse_config
from pulsering_server.config_document import DEPTH_MAX, TEXT_BYTES_MAX
from pulsering_server.config_errors import PROBLEMS_SHOWN_MAX, Position

REPOSITORY = Path(__file__).parents[2]
MINIMAL = """\
version: 1
cluster: prod
epoch: 7
nodes:
  - {name: a, address: 10.0.0.1:7400}
  - {name: b, address: "[2001:DB8::1]:7401", weight: 3, zone: eu-1b}
"""


def test_repository_file_is_three_nodes_on_three_loopback_hosts() -> None:
    config = load_config(REPOSITORY / "cluster.yaml")
    assert [str(node.address) for node in config.nodes] == [
        "127.0.0.1:7400",
        "127.0.0.2:7400",
        "127.0.0.3:7400",
    ]
    assert (config.ttl_ms, config.replicas, config.epoch) == (20_000, 2, 1)
    assert len({node.zone for node in config.nodes}) == 3


def test_repository_file_writes_the_defaults_out() -> None:
    written, minimal = load_config(REPOSITORY / "cluster.yaml"), parse_config(MINIMAL)
    for key in ("ttl_ms", "ticks_per_ttl", "replicas", "hash_seed", "limits"):
        assert getattr(written, key) == getattr(minimal, key), key


def test_minimal_file_has_the_defaults_of_the_limits_module() -> None:
    config = parse_config(MINIMAL)
    assert config.ttl_ms == limits.TTL_MS
    assert config.ticks_per_ttl == limits.TICKS_PER_TTL
    assert config.limits.connections == limits.CONNECTIONS
    assert config.limits.frame_bytes == limits.FRAME_BYTES_MAX
    assert config.limits.keys_per_frame == limits.KEYS_PER_FRAME
    assert config.limits.users is None


def test_topology_is_what_nodes_and_clients_agree_on() -> None:
    assert parse_config(MINIMAL).topology() == Topology(
        cluster="prod",
        epoch=7,
        ttl_ms=20_000,
        ticks_per_ttl=80,
        replicas=2,
        hash_seed=0,
        nodes=(Node("a", "10.0.0.1", 7400), Node("b", "2001:db8::1", 7401, weight=3, zone="eu-1b")),
    )


def test_config_is_frozen_and_compares_by_value() -> None:
    config = parse_config(MINIMAL)
    assert config == parse_config(MINIMAL + "# a comment\n")
    with pytest.raises(ValidationError, match="frozen"):
        config.epoch = 8


@pytest.mark.parametrize("seed", ["11400714785074694805", "0x9E3779B185EBCA95", "'9e3779b185ebca95'"])
def test_seed_may_be_decimal_or_hexadecimal(seed: str) -> None:
    assert parse_config(MINIMAL + f"hash_seed: {seed}\n").hash_seed == 0x9E3779B185EBCA95


def test_section_with_every_key_commented_out_is_the_default() -> None:
    assert parse_config(MINIMAL + "limits:\n  # users: 5\n").limits == parse_config(MINIMAL).limits


def test_yaml_is_1_2_not_1_1() -> None:
    config = parse_config(MINIMAL.replace("name: a", "name: on").replace("epoch: 7", "epoch: 012"))
    assert (config.nodes[0].name, config.epoch) == ("on", 12)


def test_one_node_needs_only_one_replica() -> None:
    one = "version: 1\ncluster: x\nepoch: 1\nreplicas: 1\nnodes: [{name: a, address: localhost:1}]\n"
    assert parse_config(one).nodes[0].address.host == "localhost"


def test_loopback_cluster_may_share_its_host() -> None:
    loopback = MINIMAL.replace("10.0.0.1:7400", "127.0.0.1:7400").replace("[2001:DB8::1]", "127.0.0.1")
    assert len({node.host for node in parse_config(loopback).topology().nodes}) == 1


def test_missing_file_and_folder_are_config_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match=r"nowhere\.yaml: error: cannot be read: No such file"):
        load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigErrors, match="cannot be read: Is a directory"):
        load_config(tmp_path)
    with pytest.raises(ConfigErrors, match="cannot be read"):
        load_config("nul\0byte.yaml")


def test_huge_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    path.write_bytes(b"#" * (TEXT_BYTES_MAX + 1))
    with pytest.raises(ConfigErrors, match="larger than 1MiB"):
        load_config(path)


def test_problems_carry_their_position_for_editors() -> None:
    with pytest.raises(ConfigErrors) as caught:
        parse_config(MINIMAL + "ttl: 20\n", "x.yaml")
    (problem,) = caught.value.problems
    assert (caught.value.file, problem.position, problem.source) == ("x.yaml", Position(7, 6), "ttl: 20")


def test_problems_come_in_the_order_of_the_file() -> None:
    with pytest.raises(ConfigErrors) as caught:
        load_config(REPOSITORY / "tests/goldens/config/everything-at-once.yaml")
    lines = [problem.position.line for problem in caught.value.problems if problem.position]
    assert lines == sorted(lines)
    assert len(lines) == 13


def test_flood_of_problems_is_cut_and_counted() -> None:
    with pytest.raises(ConfigErrors) as caught:
        parse_config(MINIMAL + "".join(f"key_{n}: 1\n" for n in range(200)))
    assert len(caught.value.problems) == 200
    assert str(caught.value).count("unknown key") == PROBLEMS_SHOWN_MAX
    assert str(caught.value).endswith("cluster.yaml: error: and 150 more")


def test_a_thousand_nodes_load() -> None:
    nodes = "".join(f"  - {{name: n{n}, address: 10.0.{n // 250}.{n % 250}:7400}}\n" for n in range(1000))
    assert len(parse_config(f"version: 1\ncluster: big\nepoch: 1\nnodes:\n{nodes}").nodes) == 1000


@pytest.mark.parametrize("bracket", ["[", "{a: ", "- ", "? "])
def test_nesting_never_exhausts_the_stack(bracket: str) -> None:
    with pytest.raises(ConfigErrors, match=f"deeper than {DEPTH_MAX} levels|one word"):
        parse_config(bracket * 50_000)


def refused_or_fine(text: str) -> None:
    try:
        parse_config(text).topology()
    except ConfigErrors as errors:
        told = str(errors)
        assert told.startswith("cluster.yaml:")
        assert all(character.isprintable() for character in told.replace("\n", ""))
        assert len(told) < 60_000


YAML_ALPHABET = st.sampled_from(
    [*"-:?[]{},#&*!|>'\"%@` \t\n\r~<=.0a\\\0\x85\u2028\ufeff🙂", "version", "nodes", "1"]
)


@given(st.one_of(st.text(), st.lists(YAML_ALPHABET, max_size=60).map("".join)))
def test_no_text_raises_anything_but_config_errors(text: str) -> None:
    refused_or_fine(text)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_config_errors(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigErrors):
        load_config(path)


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8).map(repr),
        st.sampled_from(["20s", "1MiB", "10.0.0.1:1", "a"]),
    ).map(str),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(
            st.sampled_from(["name", "address", "weight", "zone", "users", "frame"]), inner, max_size=3
        ).map(lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs.items()) + "}"),
    ),
    max_leaves=6,
)
KEYS = ["version", "cluster", "epoch", "ttl", "ticks", "replicas", "hash_seed", "limits", "nodes", "other"]


@given(st.lists(st.tuples(st.sampled_from(KEYS), VALUES), max_size=10))
def test_no_value_of_any_key_raises_anything_but_config_errors(pairs: list[tuple[str, str]]) -> None:
    refused_or_fine("".join(f"{key}: {value}\n" for key, value in pairs))


@given(st.randoms(use_true_random=False), st.integers(1, 4))
def test_no_damage_to_a_real_file_raises_anything_but_config_errors(rng: random.Random, cuts: int) -> None:
    text = (REPOSITORY / "cluster.yaml").read_text()
    for _ in range(cuts):
        start, length = rng.randrange(len(text)), rng.randrange(30)
        text = text[:start] + rng.choice(["", "\t", "\n", ":", "- ", "'", "]"]) + text[start + length :]
    refused_or_fine(text)


@given(st.integers(0, len(MINIMAL) - 2))
def test_truncated_file_is_never_taken_for_a_whole_one(length: int) -> None:
    try:
        config = parse_config(MINIMAL[:length])
    except ConfigErrors:
        return
    # Only the last node's optional keys may be cut off unnoticed; no parser could know of them.
    assert [node.name for node in config.nodes] == ["a", "b"]
