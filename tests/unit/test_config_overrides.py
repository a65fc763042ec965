"""The environment and the command line above the file, and nothing of them ignored that was meant for us."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsering_server.config import ConfigErrors, load_config, parse_config
from pulsering_server.config_keys import keys
from pulsering_server.config_overrides import NONE, Overrides, overrides_of, variable_of

TEXT = """\
version: 1
cluster: prod
epoch: 7
limits: {memory: 4GiB, connections: 500}
nodes:
  - {name: a, address: 10.0.0.1:7400}
  - {name: b, address: 10.0.0.2:7400}
"""


def errors_of(overrides: Overrides, text: str = TEXT) -> str:
    with pytest.raises(ConfigErrors) as caught:
        parse_config(text, overrides=overrides)
    return str(caught.value)


def test_command_line_comes_before_environment_before_file_before_default() -> None:
    environment = {"PULSERING_LIMITS__MEMORY": "8GiB", "PULSERING_LIMITS__USERS": "1000"}
    limits = parse_config(TEXT, overrides=overrides_of(environment, ["limits.memory=16GiB"])).limits
    assert limits.memory_bytes == 16 << 30
    assert limits.users == 1000
    assert limits.connections == 500
    assert limits.in_flight == parse_config(TEXT.replace("limits", "# limits")).limits.in_flight


def test_loading_a_file_reads_the_environment_unless_told_not_to(
    tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{tmp_path}/cluster.yaml"
    with open(path, "w") as file:
        file.write(TEXT)
    monkeypatch.setenv("PULSERING_LIMITS__CONNECTIONS", "77")
    assert load_config(path).limits.connections == 77
    assert load_config(path, NONE).limits.connections == 500


def test_every_key_of_a_section_has_a_variable_and_no_other_key_has() -> None:
    named = {variable_of(key.path) for key in keys() if len(key.path) == 2 and key.section is None}
    assert {"PULSERING_LIMITS__MEMORY", "PULSERING_LIMITS__OUTPUT_CLOSE"} <= named
    for key in keys():
        variable = variable_of(key.path)
        accepted = bool(overrides_of({variable: "1"}).settings)
        assert accepted == (variable in named), variable


def test_section_that_the_file_leaves_out_or_empty_can_be_set() -> None:
    overrides = overrides_of({"PULSERING_LIMITS__USERS": "9"})
    for section in ("", "limits:\n"):
        text = re.sub(r"limits: .*\n", section, TEXT)
        assert parse_config(text, overrides=overrides).limits.users == 9


def test_variable_set_to_nothing_is_not_set() -> None:
    assert overrides_of({"PULSERING_LIMITS__MEMORY": "", "PULSERING_LIMTS__MEMORY": ""}) == NONE


@pytest.mark.parametrize(
    "name", ["PULSERING_URL", "PULSERING_PORT", "PULSERING_SERVICE_HOST", "PULSERING_VERSION", "PATH", "TTL"]
)
def test_names_that_others_set_are_left_alone(name: str) -> None:
    """Kubernetes sets those with PORT and SERVICE for a service called pulsering; images have a VERSION."""
    assert overrides_of({name: "tcp://10.0.0.1:7400"}) == NONE


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("PULSERING_LIMTS__MEMORY", "no setting of ours (did you mean PULSERING_LIMITS__MEMORY?)"),
        (
            "PULSERING_LIMITS_MEMORY",
            "two underscores between section and key (did you mean PULSERING_LIMITS__M",
        ),
        ("PULSERING_TTL", "'ttl' must be the same for every node and client, so only the file can say it"),
        ("PULSERING_HASH_SEED", "'hash_seed' must be the same for every node"),
        ("PULSERING_NOWHERE_AT_ALL__ZZZZZZ", "no setting of ours; there are PULSERING_LIMITS__MEMORY"),
    ],
)
def test_name_that_was_meant_for_us_but_sets_nothing_is_an_error(name: str, message: str) -> None:
    told = errors_of(overrides_of({name: "5"}))
    assert told.startswith(f"environment: error: {name}: {message}")
    assert f"\n    {name}=5\n    ^" in told


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "limits.conections=5",
            "limits.conections: no key that can be set here (did you mean 'limits.connections'?)",
        ),
        ("ttl=5s", "ttl: 'ttl' must be the same for every node"),
        ("nodes[0].weight=5", "nodes[0].weight: 'nodes[0].weight' must be the same"),
        ("limits.memory", "expected KEY=VALUE"),
    ],
)
def test_option_that_sets_nothing_is_an_error(setting: str, message: str) -> None:
    told = errors_of(overrides_of({}, [setting]))
    assert told.startswith(f"command line: error: {message}")
    assert f"\n    --set {setting}\n" in told


def test_bad_value_is_shown_where_it_was_written_with_the_errors_of_the_file() -> None:
    overrides = overrides_of({"PULSERING_LIMITS__MEMORY": "8GB"}, ["limits.users=many"])
    assert errors_of(overrides, TEXT + "ttl: 5\n") == (
        "cluster.yaml:8:6: error: ttl: 5 has no unit (did you mean '5s'?)\n"
        "    ttl: 5\n"
        "         ^\n"
        "command line: error: limits.users: expected a whole number, found 'many'\n"
        "    --set limits.users=many\n"
        "                       ^\n"
        "environment: error: limits.memory: unknown unit 'GB' (did you mean '8GiB'?);"
        " the units of a size are B, KiB, MiB, GiB, TiB\n"
        "    PULSERING_LIMITS__MEMORY=8GB\n"
        "                             ^"
    )


def test_contradiction_between_file_and_environment_points_at_what_was_set() -> None:
    told = errors_of(overrides_of({"PULSERING_LIMITS__USERS": "1000000000"}))
    assert "environment: error: limits.users: 1000000000 users take 5.4GiB or more" in told


def test_bad_variable_is_told_also_when_the_file_cannot_be_read_to_its_end() -> None:
    told = errors_of(overrides_of({"PULSERING_LIMITS__MEMORY": "8GB"}), "version: 1\nlimits: {\n")
    assert "environment: error: limits.memory: unknown unit 'GB'" in told
    assert "the file ends inside" in told


def test_settings_of_a_command_line_can_be_handed_to_a_process() -> None:
    overrides = overrides_of({"PULSERING_LIMITS__USERS": "5"}, ["limits.memory=8GiB"])
    again = overrides_of(overrides.as_environment())
    assert parse_config(TEXT, overrides=again) == parse_config(TEXT, overrides=overrides)


@given(
    st.dictionaries(st.text(), st.text()),
    st.lists(st.text()),
    st.sampled_from([TEXT, "", "x", "[1]", "limits: 3"]),
)
def test_no_environment_raises_anything_but_config_errors(
    environment: dict[str, str], settings: list[str], text: str
) -> None:
    environment = {f"PULSERING_{name.upper()}": value for name, value in environment.items()}
    told = ""
    try:
        parse_config(text, overrides=overrides_of(environment, settings))
    except ConfigErrors as errors:
        told = str(errors)
    assert all(character.isprintable() for character in told.replace("\n", ""))
