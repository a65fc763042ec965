"""``docs/node.md`` says the numbers that the code has."""

from pathlib import Path

import pytest

from pulsering import limits

DOCUMENT = Path(__file__).parents[2] / "docs" / "node.md"


@pytest.mark.parametrize(
    "words",
    [
        f"one buffer of {limits.RECEIVE_BYTES >> 10} KiB",
        f"{limits.WORK_PER_TURN} of them",
        f"one that\nPython answers {limits.WORK_PER_FRAME}",
        f"or {limits.WORK_PER_TURN // limits.WORK_PER_FRAME} pings",
        f"wait for work in {limits.LOAD_PROBE_MS} ms",
        f"pressed for {limits.OVERLOAD_MS} ms more",
        f"asked again in {limits.BUSY_AFTER_MS} ms, to gets older than {limits.GET_AGE_MS_MAX} ms",
        f"older\nthan {limits.WRITE_AGE_MS_MAX} ms",
        f"`output_pause` ({limits.OUTPUT_PAUSE_BYTES >> 10} KiB)",
        f"`output_close` ({limits.OUTPUT_CLOSE_BYTES >> 20} MiB)",
        f"after\n{limits.OUTPUT_TIMEOUT_MS // 1000} s",
        f"`buffers` ({limits.BUFFERS_BYTES >> 20} MiB)",
        f"stood still for ttl/{limits.STALLS_PER_TTL} ",
        f"not moved for {limits.CLOCK_DOUBT_MS} ms",
        f"leapt {limits.CLOCK_DOUBT_MS} ms or more",
        f"after {limits.RESTART_MS_MIN} ms, doubled up to {limits.RESTART_MS_MAX // 1000} s",
    ],
)
def test_the_limits_in_the_document_are_those_of_the_code(words: str) -> None:
    assert words in DOCUMENT.read_text(encoding="utf-8")
