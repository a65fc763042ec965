"""A frame's age is how long it was under way, whatever the clocks do and however long a link stood still."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsering.frame_age import FrameAge

TTL_MS = 20_000
TICK_MS = 250
DAY_MS = 86_400_000


def test_the_first_frame_is_fresh() -> None:
    assert FrameAge(5, 1_000_000).age_ms(5, 1_000_000) == 0


def test_a_frame_is_as_old_as_it_was_late() -> None:
    age = FrameAge(0, 1_000_000)
    assert age.age_ms(10_000, 1_010_000) == 0
    assert age.age_ms(20_000, 1_023_000) == pytest.approx(3_000, abs=25)


def test_the_fastest_way_is_the_measure() -> None:
    """HELLO took 300 ms, later frames 20 ms: from then on 300 ms is late."""
    age = FrameAge(0, 1_000_300)
    assert age.age_ms(1_000, 1_001_020) == 0
    assert age.age_ms(2_000, 1_002_300) == pytest.approx(280, abs=2)


@given(
    sender=st.integers(0, 2**32 - 1),
    arrival=st.integers(0, 2**40),
    late=st.integers(0, 10**8),
    pause=st.integers(0, 10**6),
)
def test_clocks_may_have_any_origin_and_the_senders_may_wrap(
    sender: int, arrival: int, late: int, pause: int
) -> None:
    """Scenario 21: a sender's clock that is off by anything at all changes no age."""
    age = FrameAge(sender, arrival)
    found = age.age_ms((sender + pause) % 2**32, arrival + pause + late)
    assert late - (pause + late) // 1000 - 1 <= found <= late


@pytest.mark.parametrize("drift", [500e-6, -500e-6, 50e-6, 0.0], ids="{:+.0e}".format)
def test_a_drifting_sender_is_followed_for_a_day(drift: float) -> None:
    """Scenario 21: 500 ppm fast or slow for a day, with a jittery link: every age stays within a tick."""
    rng = random.Random(1)
    age = FrameAge(0, 0)
    for sent in range(0, DAY_MS, 1_000):
        way = rng.randrange(50)
        assert age.age_ms(int(sent * (1 + drift)) % 2**32, sent + way) < TICK_MS


@pytest.mark.parametrize("drift", [500e-6, -500e-6], ids="{:+.0e}".format)
def test_a_stall_is_seen_in_full_after_a_day_of_drift(drift: float) -> None:
    age = FrameAge(0, 0)
    for sent in range(0, DAY_MS, 5_000):
        age.age_ms(int(sent * (1 + drift)) % 2**32, sent)
    sent, stall = DAY_MS, 30_000
    assert age.age_ms(int(sent * (1 + drift)) % 2**32, sent + stall) == pytest.approx(stall, abs=TICK_MS)


@pytest.mark.parametrize("stall_s", [30, 600, 6 * 3600])
def test_a_stall_of_any_length_is_not_forgotten(stall_s: int) -> None:
    """Scenario 16: a link delivers nothing, then everything at once; each frame is as old as it truly is."""
    age = FrameAge(0, 0)
    for sent in range(0, 60_000, 1_000):
        age.age_ms(sent, sent + 20)
    arrival = 60_000 + stall_s * 1_000
    for sent in range(60_000, arrival, max(1_000, stall_s)):
        true = arrival - sent
        found = age.age_ms(sent, arrival)
        assert true - stall_s - 25 <= found <= true, "wrong by more than a thousandth of the stall"


def test_what_a_stall_hides_is_less_than_a_tick_while_it_still_matters() -> None:
    """Scenario 16: a heartbeat younger than the ttl is taken for at most a tick younger than it is."""
    age = FrameAge(0, 0)
    assert age.age_ms(0, TTL_MS) > TTL_MS - TICK_MS


def test_a_recording_replayed_on_its_connection_is_old() -> None:
    """Scenario 17: the same frames an hour later are an hour old."""
    age = FrameAge(0, 0)
    recorded = range(0, 60_000, 500)
    for sent in recorded:
        assert age.age_ms(sent, sent) == 0
    assert all(age.age_ms(sent, 3_600_000 + sent) > TTL_MS for sent in recorded)


def test_frames_out_of_order_do_not_raise_the_measure() -> None:
    """Scenario 13, the link's share of it: 5, 7, 6."""
    age = FrameAge(0, 0)
    assert age.age_ms(5_000, 8_000) == pytest.approx(3_000, abs=10)
    assert age.age_ms(7_000, 8_000) == pytest.approx(1_000, abs=10)
    assert age.age_ms(6_000, 8_000) == pytest.approx(2_000, abs=10)
