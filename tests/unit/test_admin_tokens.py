"""Tokens of the admin port: from a file or the environment, any of them good, none ever told."""

from pathlib import Path

import pytest

from pulsering import limits
from pulsering_server.admin_tokens import VARIABLE, BadTokens, Tokens

ONE, TWO, THREE = "1" * 32, "2" * 32, "3" * 32


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{ONE}\n{TWO}\n")
    return path


def test_any_token_of_file_and_environment_opens(file: Path) -> None:
    tokens = Tokens(file, {VARIABLE: THREE})
    assert all(tokens.opens(token) for token in (ONE, TWO, THREE))


@pytest.mark.parametrize("token", ["", " ", ONE[:-1], ONE + "1", ONE + "\n" + TWO, "ü" * 32, "\udcff"])
def test_nothing_else_opens(file: Path, token: str) -> None:
    assert not Tokens(file, {}).opens(token)


def test_without_any_nothing_opens_and_that_can_be_asked() -> None:
    tokens = Tokens(None, {})
    assert not tokens
    assert not tokens.opens("")
    assert Tokens(None, {VARIABLE: ONE})


def test_a_token_can_be_changed_while_the_node_runs(file: Path) -> None:
    """Both are good for a while, then the old one is taken out: no restart."""
    tokens = Tokens(file, {})
    file.write_text(f"{TWO}\n{THREE}\n")
    assert tokens.opens(THREE)
    assert not tokens.opens(ONE)


@pytest.mark.parametrize("broken", [None, "", "short", "x" * (limits.TOKEN_FILE_BYTES + 1)])
def test_a_file_that_breaks_later_changes_nothing(file: Path, broken: str | None) -> None:
    tokens = Tokens(file, {})
    if broken is None:
        file.unlink()
    else:
        file.write_text(broken)
    assert tokens.opens(ONE)
    assert not tokens.opens(broken or "")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\n \n", "no token in it"),
        (b"secret\n", f"a token of 6 letters: at least {limits.TOKEN_LETTERS_MIN} are needed"),
        (b"\xff" * 32, "not ASCII text"),
        (b"x" * (limits.TOKEN_FILE_BYTES + 1), "is this it?"),
    ],
)
def test_a_file_that_cannot_be_used_is_said_and_its_content_is_not(
    tmp_path: Path, data: bytes, words: str
) -> None:
    path = tmp_path / "token"
    path.write_bytes(data)
    with pytest.raises(BadTokens, match=words) as caught:
        Tokens(path, {})
    assert str(path) in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadTokens, match="cannot be read: No such file"):
        Tokens(tmp_path / "token", {})


def test_a_short_token_of_the_environment_is_refused() -> None:
    with pytest.raises(BadTokens, match=f"{VARIABLE}: a token of 6 letters"):
        Tokens(None, {VARIABLE: "secret"})


def test_tokens_are_not_kept(file: Path) -> None:
    tokens = Tokens(file, {})
    assert ONE not in repr(vars(tokens))
