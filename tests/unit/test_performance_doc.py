"""The documents with figures: their marks are known, and the commands that they name exist."""

import re
from pathlib import Path

import pytest

from pulsering_bench.publish import BLOCKS
from pulsering_server.cli.app import run

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = ["README.md", "docs/performance.md", "docs/scale.md"]

pytestmark = pytest.mark.skipif(not (REPOSITORY / "docs").is_dir(), reason="only the wheel is here, no docs")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_mark_is_one_that_can_be_filled(name: str) -> None:
    text = (REPOSITORY / name).read_text("utf-8")
    marks = re.findall(r"<!-- generated: (\S+) -->", text)
    assert marks
    assert set(marks) <= BLOCKS.keys()
    assert text.count("<!-- end -->") == len(marks)


def test_make_publish_fills_exactly_these() -> None:
    recipe = (REPOSITORY / "Makefile").read_text("utf-8")
    (documents,) = re.findall(r"pulsering_bench\.publish \S+ (.+)", recipe)
    assert documents.split() == DOCUMENTS


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_that_are_named_exist(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (REPOSITORY / name).read_text("utf-8")
    for verb in sorted(set(re.findall(r"`pulsering (bench [a-z]+|size)", text))):
        assert run([*verb.split(), "--help"]) == 0, verb
        capsys.readouterr()
