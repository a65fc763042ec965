"""One schema, and whatever is made of it says the same: editors, ``config init``, the page of all keys."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsering_server import config_reference
from pulsering_server.config import ConfigErrors, parse_config
from pulsering_server.config_document import read_document
from pulsering_server.config_example import LOOPBACK, SampleNode, example
from pulsering_server.config_keys import Key, json_schema, key_at, keys, section_at
from pulsering_server.config_schema import ClusterFile, LimitsConfig, NodeConfig

REPOSITORY = Path(__file__).parents[2]
GOLDENS = REPOSITORY / "tests" / "goldens" / "config"
VALUES = [key for key in keys() if key.section is None]

CHANGES = {"reload", "restart", "restart of every node"}


def as_json(text: str) -> Any:
    return json.loads(json.dumps(read_document(text).root))


def accepts(text: str) -> bool:
    return bool(jsonschema.Draft202012Validator(json_schema()).is_valid(as_json(text)))


# --- The keys -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", keys(), ids=lambda key: key.name)
def test_every_key_says_what_it_is_for_in_sentences(key: Key) -> None:
    assert re.fullmatch(r"[A-Z].*\.", key.description)


@pytest.mark.parametrize("key", VALUES, ids=lambda key: key.name)
def test_every_value_but_the_version_says_what_a_change_of_it_takes(key: Key) -> None:
    assert key.change in CHANGES or key.name == "version"


def test_keys_are_found_by_where_they_stand_in_a_file() -> None:
    found = key_at(("nodes", 7, "weight"))
    assert found is not None
    assert (found.name, found.model) == ("nodes[].weight", NodeConfig)
    assert key_at(("limits", "weight")) is None
    assert section_at(("limits",)) is section_at(("limits", "nowhere", 3)) is LimitsConfig
    assert section_at(("nodes", 3)) is NodeConfig
    assert section_at(()) is section_at(("nowhere", "memory")) is ClusterFile


# --- For editors --------------------------------------------------------------------------------------------


def test_schema_is_json_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("key", [key for key in VALUES if "default" in key.facts], ids=lambda key: key.name)
def test_every_default_is_one_that_a_file_may_have(key: Key) -> None:
    jsonschema.Draft202012Validator(key.facts).validate(key.facts["default"])


def test_schema_accepts_what_a_node_accepts() -> None:
    assert accepts(example())
    assert accepts((REPOSITORY / "cluster.yaml").read_text())
    assert accepts("version: 1\ncluster: x\nepoch: 1\nnodes: [{name: a, address: h:1, admin: off}]\n")


@given(st.from_regex(r"\A[0-9]{1,4}(\.[0-9])? ?(ms|s|m|h|d|B|KiB|MiB|sec|MB|)\Z"))
def test_schema_accepts_every_duration_that_a_node_does(ttl: str) -> None:
    text = example().replace("ttl: 20s", f"ttl: {ttl}")
    try:
        parse_config(text)
    except ConfigErrors:
        return
    assert accepts(text)


@pytest.mark.parametrize(
    "name",
    [
        "ttl-bare-number", "ttl-unknown-unit", "unknown-key", "unknown-limit", "node-unknown-key", "no-nodes",
        "epoch-zero", "replicas-too-many", "cluster-upper-case", "nodes-a-mapping", "seed-negative",
        "limit-size-decimal-unit", "version-from-the-future", "node-zone-with-a-slash", "nodes-empty-list",
    ],
)  # fmt: skip
def test_editor_underlines_what_a_node_would_refuse(name: str) -> None:
    assert not accepts((GOLDENS / f"{name}.yaml").read_text())


# --- For a start --------------------------------------------------------------------------------------------


def test_repository_file_is_what_init_writes() -> None:
    """Otherwise: pulsering config init, with hash_seed 0."""
    assert (REPOSITORY / "cluster.yaml").read_text() == example()


def test_example_has_every_key_with_its_default_and_its_explanation() -> None:
    text = example()
    for key in VALUES:
        assert re.search(rf"^ *(- |# )?{key.path[-1]}: ", text, re.MULTILINE), key.name
        words = " ".join(re.sub(r"\n *# ", " ", text).split())
        assert key.description in words, key.name
    assert parse_config(text).limits == LimitsConfig.model_construct()


@given(
    st.integers(0, (1 << 64) - 1),
    st.lists(st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True), min_size=1, max_size=5, unique=True),
)
def test_example_of_any_nodes_is_valid(seed: int, names: list[str]) -> None:
    nodes = [SampleNode(name, f"10.0.0.{number}:7400") for number, name in enumerate(names, 1)]
    config = parse_config(example("prod", seed, nodes))
    assert [node.name for node in config.nodes] == names
    assert (config.hash_seed, config.cluster) == (seed, "prod")
    assert config.replicas == min(2, len(names))


def test_commented_lines_of_the_example_are_ready_to_be_used() -> None:
    """Taking the # away gives a valid file, apart from what needs a decision of its own."""
    text = re.sub(r"^( *)# (\w+: \S+)$", r"\1\2", example(), flags=re.MULTILINE)
    text = text.replace("    zone: rack-1\n    # admin: 8400", "    zone: rack-1\n    admin: 8400")
    config = parse_config(text)
    assert config.heartbeat_ms == 10_000
    assert config.limits.users == 100_000_000
    assert config.admin.token_file is not None
    assert config.nodes[0].admin is not None
    assert len(config.nodes) == len(LOOPBACK)


# --- The page -----------------------------------------------------------------------------------------------


def test_page_of_all_keys_is_what_the_schema_says() -> None:
    """Otherwise: python -m pulsering_server.config_reference docs/configuration.md."""
    page = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == config_reference.referenced(page)


def test_page_with_a_section_missing_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- generated: top -->\n<!-- end -->\n")
    with pytest.raises(ValueError, match=r"the page has \['top'\], the schema \['admin'"):
        config_reference.main([str(page)])
    assert page.read_text() == "<!-- generated: top -->\n<!-- end -->\n"


def test_page_lists_every_key_and_every_variable() -> None:
    page = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    for key in keys():
        assert f"| `{key.path[-1]}`" in page, key.name
        assert key.description in page, key.name
