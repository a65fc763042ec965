"""Broken configuration files, each beside the exact text an operator sees.

``UPDATE_GOLDENS=1 pytest tests/unit/test_config_goldens.py`` writes the texts anew; read the diff before
committing it.
"""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pulsering_server.config import ConfigErrors, load_config, read_config
from pulsering_server.config_advice import Machine, advise
from pulsering_server.config_errors import render
from pulsering_server.config_overrides import NONE

GOLDENS = Path(__file__).parents[1] / "goldens" / "config"
BROKEN = sorted(GOLDENS.glob("*.yaml"))
SURPRISING = sorted((GOLDENS / "warnings").glob("*.yaml"))
MACHINE = Machine(files_max=16_384, memory_bytes=16 << 30, now=datetime(2026, 11, 25, tzinfo=UTC))


def check(told: str, expected: Path) -> None:
    if os.environ.get("UPDATE_GOLDENS"):
        expected.write_text(told)
    assert told == expected.read_text()


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_broken_file_is_explained_word_for_word(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenario 57: all errors at once, each ``file:line:col: what, where, did you mean``."""
    monkeypatch.chdir(GOLDENS)
    with pytest.raises(ConfigErrors) as caught:
        load_config(path.name, NONE, files=True)
    check(f"{caught.value}\n", path.with_suffix(".txt"))


@pytest.mark.parametrize("path", SURPRISING, ids=lambda path: path.stem)
def test_surprising_file_is_explained_word_for_word(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    warnings = advise(read_config(path.name, NONE), MACHINE)
    assert warnings
    check(f"{render(path.name, warnings)}\n", path.with_suffix(".txt"))


def test_every_expected_text_has_its_file() -> None:
    for folder, files in ((GOLDENS, BROKEN), (GOLDENS / "warnings", SURPRISING)):
        assert {path.stem for path in folder.glob("*.txt")} == {path.stem for path in files}
    assert len(BROKEN) >= 80


def test_no_two_files_are_the_same() -> None:
    texts = [path.read_bytes() for path in BROKEN]
    assert len(set(texts)) == len(texts)
