"""docs/security.md is true: its configuration is valid, its numbers are the code's, its metrics exist."""

import re
from pathlib import Path

import pytest

from pulsering import limits
from pulsering_server.auth import Role
from pulsering_server.config import parse_config
from pulsering_server.config_keys import keys
from pulsering_server.logs import RateLimit
from pulsering_server.metrics import FAMILIES, PREFIX
from pulsering_server.stats import Close

DOCUMENT = Path(__file__).parents[2] / "docs" / "security.md"
FRAME = "version: 1\ncluster: safe\nepoch: 1\nreplicas: 1\nnodes: [{name: a, address: 10.0.0.1:7400}]\n"

pytestmark = pytest.mark.skipif(not DOCUMENT.is_file(), reason="only the wheel is here, no documents")


@pytest.fixture
def text() -> str:
    return DOCUMENT.read_text("utf-8")


def test_the_configuration_that_it_shows_is_one(text: str) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    config = parse_config(FRAME + block)
    assert config.hash_seed
    assert config.auth.token_file
    assert config.limits.connections_per_address == 100


def test_every_key_that_it_names_exists(text: str) -> None:
    known = {key.name for key in keys()}
    named = set(re.findall(r"`((?:limits|tls|auth|admin)\.\w+)", text))
    assert named <= known
    assert len(named) > 12


def test_every_limit_on_what_peers_may_do_is_explained(text: str) -> None:
    for key in keys():
        if key.path[0] == "limits" and len(key.path) == 2:
            assert f"`{key.name}`" in text, key.name


def test_its_numbers_are_those_of_the_code(text: str) -> None:
    for words in (
        f"before HELLO | {limits.HELLO_FRAME_BYTES_MAX} bytes",
        f"handshake included | {limits.HELLO_TIMEOUT_MS // 1000} s",
        f"to its last | {limits.FRAME_TIMEOUT_MS // 1000} s",
        f"silence | {limits.IDLE_TIMEOUT_MS // 1000} s",
        f"{limits.CONTROL_BODY_BYTES_MAX} bytes, 64 fields",
        f"{limits.WORK_PER_TURN:,} users",
        f"or {limits.OUTPUT_TIMEOUT_MS // 1000} s",
        f"At least {limits.TOKEN_LETTERS_MIN} letters, at most {limits.TOKEN_LETTERS_MAX}",
        f"warns from {limits.CERTIFICATE_DAYS_MIN} days",
        f"{limits.ADMIN_CONNECTIONS} connections, {limits.ADMIN_REQUEST_MS // 1000} s",
        f"{RateLimit()._lines} of a kind a second",
    ):
        assert words in text, words


def test_every_role_and_metric_is_real(text: str) -> None:
    assert re.findall(r"^\| `(\w+)` \| ", text, re.MULTILINE) == [role.name.lower() for role in Role]
    names = {PREFIX + family.name for family in FAMILIES}
    named = set(re.findall(r"`(pulsering_\w+?)(?:_total)?(?:\{|`)", text))
    assert named <= names | {name.removesuffix("_total") for name in names}
    assert set(re.findall(r'reason="(\w+)"', text)) <= set(Close)
