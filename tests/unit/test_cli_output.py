"""Answers: as a table, a document or a stream of them, once or until Ctrl-C."""

import io
import json
from collections.abc import Callable, Iterator

import pytest
import typer
from rich.text import Text
from ruamel.yaml import YAML

from pulsering.errors import ConfigError, NodeUnavailable
from pulsering_server.cli.misuse import Misuse
from pulsering_server.cli.output import Answer, Output, compact, number, plain, print_document, respond, table

DOCUMENT = {"name": "a", "ids": [42, "42", "no", "ä"], "none": None, "share": 0.25, "empty": [], "up": True}
ANSWER = Answer(DOCUMENT, [table(("NAME", "IDS"), [("a", "3")], right=("IDS",)), "[bold]4[/] ids"], 1)


def ended(make: Callable[[], Answer], output: Output, watch: str | None = None) -> int:
    with pytest.raises(typer.Exit) as end:
        respond(make, output, watch)
    return int(end.value.exit_code)


def answers(*steps: Answer | Exception) -> Callable[[], Answer]:
    """Each in turn, and then Ctrl-C."""
    left: Iterator[Answer | Exception] = iter(steps)

    def make() -> Answer:
        step = next(left, None)
        if step is None:
            raise KeyboardInterrupt
        if isinstance(step, Exception):
            raise step
        return step

    return make


def test_a_person_gets_the_parts_and_a_script_the_document(capfd: pytest.CaptureFixture[str]) -> None:
    assert ended(lambda: ANSWER, Output.TABLE) == 1
    head, _, row, words = capfd.readouterr().out.splitlines()
    assert (head.split(), row.split(), words) == (["NAME", "IDS"], ["a", "3"], "4 ids")
    assert ended(lambda: ANSWER, Output.JSON) == 1
    assert json.loads(capfd.readouterr().out) == DOCUMENT


def test_yaml_says_the_same_as_json_in_the_same_order(capfd: pytest.CaptureFixture[str]) -> None:
    print_document(DOCUMENT, Output.YAML)
    text = capfd.readouterr().out
    assert YAML(typ="safe").load(io.StringIO(text)) == DOCUMENT
    assert [line.partition(":")[0] for line in text.splitlines() if line[0].isalpha()] == list(DOCUMENT)


def test_watching_prints_a_line_of_json_a_time_and_ends_well_with_ctrl_c(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert ended(answers(ANSWER, ANSWER), Output.JSON, "1ms") == 0
    assert [json.loads(line) for line in capfd.readouterr().out.splitlines()] == [DOCUMENT, DOCUMENT]


def test_watching_yaml_is_a_stream_of_documents(capfd: pytest.CaptureFixture[str]) -> None:
    assert ended(answers(ANSWER, ANSWER), Output.YAML, "1ms") == 0
    assert list(YAML(typ="safe").load_all(io.StringIO(capfd.readouterr().out))) == [DOCUMENT, DOCUMENT]


def test_watching_goes_on_while_the_cluster_is_away(capfd: pytest.CaptureFixture[str]) -> None:
    make = answers(ANSWER, NodeUnavailable("nobody there"), ANSWER)
    assert ended(make, Output.JSON, "1ms") == 0
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 2
    assert err == "pulsering: nobody there\n"


@pytest.mark.parametrize("error", [Misuse("x"), ConfigError("x"), ZeroDivisionError()])
def test_watching_ends_at_once_for_what_will_not_get_better(error: Exception) -> None:
    with pytest.raises(type(error)):
        respond(answers(error), Output.JSON, "1ms")


def test_how_often_is_a_duration() -> None:
    with pytest.raises(typer.BadParameter, match="2 has no unit"):
        respond(lambda: ANSWER, Output.JSON, "2")


def test_text_from_outside_is_neither_markup_nor_moves_a_cursor() -> None:
    assert Text.from_markup(plain("[red]x[/] \x1b[2J\n")).plain == "[red]x[/] \\x1b[2J\\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (0.4, "0.4"),
        (7.0, "7"),
        (980, "980"),
        (9_999, "10.0k"),
        (60_123, "60.1k"),
        (999_960, "1.0M"),
        (401_977, "402k"),
        (1_204_551, "1.2M"),
        (2.5e9, "2.5G"),
    ],
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert compact(value) == text
    assert len(text) <= 5


def test_a_number_deep_in_a_document_or_nothing() -> None:
    assert number({"a": {"b": 2}}, "a", "b") == 2.0
    others: list[object] = [None, [], {"a": 1}, {"a": {"b": "2"}}, {"a": {"b": True}}]
    for document in others:
        assert number(document, "a", "b") is None
