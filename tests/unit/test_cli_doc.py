"""docs/cli.md is what the commands are, every verb shows how it is typed, and shells can complete it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pulsering_server.cli import exits, run
from pulsering_server.cli.app import build_app
from pulsering_server.cli.health import Grade
from pulsering_server.cli.reference import Verb, examples_of, reference, verbs

DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"
sources = pytest.mark.skipif(not DOCUMENT.is_file(), reason="only the wheel is here, no sources")


def name_of(verb: Verb) -> str:
    return verb.name


@sources
def test_the_document_is_generated() -> None:
    written = DOCUMENT.read_text("utf-8")
    assert written == reference(), "python -m pulsering_server.cli.reference > docs/cli.md"


def test_every_verb_of_the_help_is_in_the_reference() -> None:
    there = {f"pulsering {info.name}" for info in build_app().registered_commands}
    ours = {verb.name for verb in verbs()}
    assert ours <= there | {
        f"pulsering config {name}" for name in ("init", "validate", "show", "diff", "schema")
    }
    text = reference()
    assert all(f"`{name}`" in text or f"### {name}\n" in text for name in there)


@pytest.mark.parametrize("verb", verbs(), ids=name_of)
def test_every_verb_shows_examples_that_can_be_typed(verb: Verb) -> None:
    lines = [line for line in examples_of(verb).splitlines() if not line.startswith("#")]
    assert any(line.partition(verb.name)[1] for line in lines)
    for line in lines:
        assert shlex.split(line, comments=True)


@pytest.mark.parametrize("verb", verbs(), ids=name_of)
def test_options_in_the_examples_are_there(verb: Verb, capfd: pytest.CaptureFixture[str]) -> None:
    assert run([*verb.name.split()[1:], "--help"]) == exits.OK
    shown = capfd.readouterr().out
    for line in examples_of(verb).splitlines():
        words = shlex.split(line.partition(" | ")[0], comments=True)
        if words[: len(verb.name.split())] == verb.name.split():
            for word in words:
                if word.startswith("-") and word != "-":
                    assert re.search(rf"(?<!\S){re.escape(word)}(?!\S)", shown), word


def test_exit_codes_in_the_document_are_those_that_are_used() -> None:
    codes = re.findall(r"^\| (\d+) \|", reference(), re.MULTILINE)
    ours = (exits.OK, exits.FAILED, exits.MISUSED, exits.CANNOT_REACH, exits.INTERRUPTED)
    assert list(map(int, codes)) == list(ours)
    for grade in Grade:
        assert f"{int(grade)} {grade.name.lower()}" in reference()


# --- Completion -----------------------------------------------------------------------------------------


def completed(line: str) -> list[str]:
    """What bash offers at the end of a line."""
    words = line.split(" ")
    script = subprocess.run(
        [sys.executable, "-c", "from pulsering_server.__main__ import main; main()"],
        env={
            "_PULSERING_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
            "_TYPER_COMPLETE_ARGS": line,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return script.stdout.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("pulsering sta", ["status"]),
        ("pulsering su", ["support-dump"]),
        ("pulsering config d", ["diff"]),
        ("pulsering status --wa", ["--watch"]),
        ("pulsering status -o j", ["json"]),
        ("pulsering check -o pro", ["prometheus"]),
    ],
)
def test_verbs_options_and_values_complete(line: str, words: list[str]) -> None:
    assert completed(line) == words
