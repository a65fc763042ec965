"""The log says each thing once, says how much it left out, and repeats no stranger's control characters."""

import io
import json
from collections.abc import Iterator

import pytest
import structlog

from pulsering import limits
from pulsering_server import logs


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    out = io.StringIO()
    logs.configure("a", stream=out)
    yield out
    structlog.reset_defaults()


def lines_of(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_event_node_and_fields(stream: io.StringIO) -> None:
    structlog.get_logger().warning("conn.closed", peer="10.0.0.1:5", reason="idle")
    (line,) = lines_of(stream)
    assert line["event"] == "conn.closed"
    assert (line["node"], line["level"], line["reason"]) == ("a", "warning", "idle")


def test_no_text_from_outside_starts_a_line_or_moves_a_cursor(stream: io.StringIO) -> None:
    structlog.get_logger().info("conn.closed", peer="\n{}\x1b[2J\u2028\x00" + "x" * 10_000)
    (line,) = lines_of(stream)
    assert str(line["peer"]).isprintable()
    assert len(str(line["peer"])) < 2 * logs.TEXT_WIDTH_MAX


def test_a_flood_of_one_event_is_cut_and_counted() -> None:
    """Scenario 54: at most 10 lines, and the number of the others."""
    clock = Clock()
    limit = logs.RateLimit(clock=clock)
    passed = sum(says(limit, "conn.refused") for _ in range(1000))
    assert passed == limits.LOG_LINES_PER_S
    assert says(limit, "node.ready"), "another event is not affected"
    clock.now += 1.0
    assert limit(None, "warning", {"event": "conn.refused"})["suppressed"] == 1000 - passed
    assert "suppressed" not in limit(None, "warning", {"event": "conn.refused"})


def test_what_was_suppressed_is_told_also_when_the_flood_just_ends() -> None:
    clock = Clock()
    limit = logs.RateLimit(clock=clock)
    for _ in range(25):
        says(limit, "conn.refused")
    assert limit.flush() == {}, "its second is not over"
    clock.now += 1.0
    assert limit.flush() == {"conn.refused": 15}
    assert limit.flush() == {}


def says(limit: logs.RateLimit, event: str) -> bool:
    try:
        limit(None, "info", {"event": event})
    except structlog.DropEvent:
        return False
    return True


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_person_at_a_terminal_reads_no_json() -> None:
    out = Terminal()
    logs.configure("a", stream=out)
    try:
        structlog.get_logger().warning("conn.closed", reason="idle")
    finally:
        structlog.reset_defaults()
    assert "conn.closed" in out.getvalue()
    with pytest.raises(json.JSONDecodeError):
        json.loads(out.getvalue())
