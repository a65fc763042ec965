"""Broken configuration files, each beside the exact text an operator sees.

``UPDATE_GOLDENS=1 pytest tests/unit/test_config_goldens.py`` writes the texts anew; read the diff before
committing it.
"""

import os
from pathlib import Path

import pytest

from pulsering_server.config import ConfigErrors, load_config

GOLDENS = Path(__file__).parents[1] / "goldens" / "config"
BROKEN = sorted(GOLDENS.glob("*.yaml"))


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_broken_file_is_explained_word_for_word(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenario 57: all errors at once, each ``file:line:col: what, where, did you mean``."""
    monkeypatch.chdir(GOLDENS)
    with pytest.raises(ConfigErrors) as caught:
        load_config(path.name)
    told = f"{caught.value}\n"
    expected = path.with_suffix(".txt")
    if os.environ.get("UPDATE_GOLDENS"):
        expected.write_text(told)
    assert told == expected.read_text()


def test_every_expected_text_has_its_file() -> None:
    assert {path.stem for path in GOLDENS.glob("*.txt")} == {path.stem for path in BROKEN}
    assert len(BROKEN) >= 80
