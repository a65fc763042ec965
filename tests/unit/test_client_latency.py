"""The 95th percentile of recent answers."""

from pulsering._latency import KEPT, RENEWED_EVERY, Percentile95


def test_nothing_is_said_before_there_are_enough_answers() -> None:
    times = Percentile95()
    for _ in range(RENEWED_EVERY - 1):
        times.record(1.0)
    assert times.value is None
    times.record(1.0)
    assert times.value == 1.0


def test_nineteen_of_twenty_are_below_it_and_the_past_is_forgotten() -> None:
    times = Percentile95()
    for number in range(KEPT):
        times.record(float(number))
    assert times.value == KEPT * 0.95
    for _ in range(KEPT):
        times.record(7.0)
    assert times.value == 7.0
