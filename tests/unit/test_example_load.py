"""The load run of the example, tiny: it beats through HTTP, reads every answer, and says what held."""

from dataclasses import replace

import pytest

from examples.api_server.load import FACTOR, Step, search

STEP = Step(
    rate_per_s=100.0, sent=10, answered=10, p50_ms=1.0, p99_ms=20.0, late_p99_ms=0.5,
    server_busy=0.5, server_us=100.0, generator_busy=0.5,
)  # fmt: skip


async def test_rates_rise_and_every_heartbeat_is_answered() -> None:
    steps = [
        step
        async for step in search(
            "memory://", seconds=0.3, target_ms=60_000, connections=4, first_rate=100.0, steps_max=2
        )
    ]
    assert [step.rate_per_s for step in steps] == [100, 100 * FACTOR]
    for step in steps:
        assert step.whole
        assert step.sent == pytest.approx(step.rate_per_s * 0.3, abs=1)
        assert 0 < step.p50_ms <= step.p99_ms
        assert step.server_us > 0


@pytest.mark.parametrize(
    ("step", "holds"),
    [
        (STEP, True),
        (replace(STEP, p99_ms=25.1), False),
        (replace(STEP, answered=9), False),
        (replace(STEP, sent=0, answered=0), False),
    ],
)
def test_a_rate_holds_if_all_were_answered_in_time(step: Step, holds: bool) -> None:
    assert step.holds(25.0) is holds


@pytest.mark.parametrize(
    ("server", "generator", "limit"),
    [(0.95, 0.95, "server"), (0.5, 0.95, "generator"), (0.5, 0.5, "neither")],
)
def test_a_step_says_which_side_had_no_rest(server: float, generator: float, limit: str) -> None:
    assert replace(STEP, server_busy=server, generator_busy=generator).limit == limit
