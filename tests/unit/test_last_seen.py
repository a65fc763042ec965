"""When users who went offline were last seen: what the store promises, compiled and as specified."""

import random
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulsering_server import _last_seen, _last_seen_reference
from pulsering_server._last_seen_reference import (
    KEEP_MS_MAX,
    KEEP_MS_MIN,
    MEMORY_MIN,
    NONE,
    told,
    users_within,
)

S = 1000
HOUR, DAY = 3_600, 86_400
WEEK_MS = 7 * DAY * S
SHARING_LINES = [
    0x60B7200F776F8D79,
    0x3422FDC8FC3F0BF8,
    0xAE0AB423BA927556,
    0x44E39D2CBF229CED,
    0xAF16BDF29D56C7C4,
    0xA1BB4B9BB69ABA77,
    0x1875CAF09E7BC294,
    0x17E081CF64E52E48,
    0x4F5251CF16A3F5CD,
    0xD58CE16E6B8F066B,
    0x41D4CA7CA87539C7,
    0xC0F4DBD56D3BC562,
    0x5822316820B2A01A,
    0xE2402A095B452FFE,
    0x2D6CA51377625CD4,
    0x9EF596C155D3590C,
    0xC4372F05B4D6131C,
]
"""Keys that all have the same two lines, of which each has room for eight."""
KERNEL, TWIN = _last_seen.LastSeen, _last_seen_reference.LastSeen


@pytest.fixture(params=[KERNEL, TWIN], ids=["kernel", "twin"])
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return lambda **options: request.param(**{"keep_ms": WEEK_MS} | options)


def packed(keys: Sequence[int]) -> bytes:
    return array("Q", keys).tobytes()


def ages(store: Any, keys: Sequence[int], now_s: int) -> list[int]:
    return list(memoryview(store.find(packed(keys), now_s * S)).cast("I"))


def swept(store: Any, now_s: int) -> None:
    while store.maintain(now_s * S, 1 << 20):
        pass


def test_the_second_is_known_at_first_and_less_the_longer_ago(make: Callable[..., Any]) -> None:
    store = make()
    store.note(packed([1]), 1_003 * S, 1_003 * S)
    for age, error in [
        (0, 0),
        (1, 0),
        (2 * HOUR, 0),
        (HOUR * 12, 7),
        (DAY * 4, 63),
        (DAY * 6 + 20 * HOUR, 511),
    ]:
        (found,) = ages(store, [1], 1_003 + age)
        assert age <= found <= age + error


def test_nobody_is_said_to_have_been_seen_later_than_they_were() -> None:
    dice = random.Random(1)
    for _ in range(10_000):
        now = dice.randrange(10**9)
        seen = now - dice.randrange(1 << dice.randrange(24))
        assert 0 <= seen - told(seen, now) < 512


def test_what_is_too_old_is_forgotten_at_once(make: Callable[..., Any]) -> None:
    store = make(keep_ms=HOUR * S)
    store.note(packed([1]), 0, 0)
    assert ages(store, [1], HOUR) == [HOUR]
    assert ages(store, [1], HOUR + 1) == [NONE]
    assert ages(store, [1], HOUR + 512) == [NONE]
    assert store.users == 0


def test_of_two_times_the_later_one_counts(make: Callable[..., Any]) -> None:
    store = make()
    store.note(packed([7]), 50 * S, 60 * S)
    store.note(packed([7]), 20 * S, 60 * S)
    assert ages(store, [7], 60) == [10]
    store.note(packed([7]), 55 * S, 60 * S)
    assert ages(store, [7], 60) == [5]
    assert store.users == 1


def test_who_was_never_noted_is_not_known(make: Callable[..., Any]) -> None:
    store = make()
    store.note(packed(range(1, 1000)), 0, 0)
    near = [key ^ 1 << bit for key in (1, 999) for bit in range(10, 64)]
    assert set(ages(store, near, 1)) == {NONE}


@pytest.mark.parametrize("swept_often", [True, False])
def test_answers_do_not_depend_on_the_sweep(swept_often: bool) -> None:
    store, spec = KERNEL(keep_ms=KEEP_MS_MAX), TWIN(keep_ms=KEEP_MS_MAX)
    dice, now = random.Random(3), 0
    for round_ in range(60):
        keys = packed([dice.randrange(5_000) * 0x9E3779B97F4A7C15 % 2**64 for _ in range(100)])
        seen = max(0, now - dice.choice([0, 0, 10, 10_000]))
        store.note(keys, seen * S, now * S)
        spec.note(keys, seen * S, now * S)
        now += dice.choice([0, 1, 100, 4_000, 9_000, 70_000, 600_000 if round_ % 9 == 0 else 5])
        if swept_often:
            swept(store, now)
        every = packed([i * 0x9E3779B97F4A7C15 % 2**64 for i in range(5_000)])
        assert store.find(every, now * S) == spec.find(every, now * S)
        store._verify()  # type: ignore[attr-defined]  # not part of the face


def test_where_both_lines_of_all_are_full_the_oldest_goes() -> None:
    store = KERNEL(keep_ms=WEEK_MS)
    keys = SHARING_LINES
    for at, key in enumerate(keys):
        store.note(packed([key]), at * S, 100 * S)
    store._verify()  # type: ignore[attr-defined]  # not part of the face
    assert ages(store, keys, 100) == [NONE, *range(99, 83, -1)]
    assert store.stats()["crowded_total"] == 1
    assert store.complete_s == 1  # of whoever was seen before that second, somebody was forgotten
    store.note(packed(keys[:1]), 0, 100 * S)
    assert ages(store, keys[:1], 100) == [NONE]


def test_memory_grows_with_the_users_and_loses_nobody() -> None:
    """A full line hands one on to where there is room: else some hundreds would be lost here."""
    store = KERNEL(keep_ms=WEEK_MS, memory_max=3 * MEMORY_MIN)
    assert store.memory_bytes == MEMORY_MIN
    dice = random.Random(4)
    keys = [dice.getrandbits(64) for _ in range(1_600_000)]
    for at in range(0, len(keys), 100_000):
        store.note(packed(keys[at : at + 100_000]), at // 100_000 * S, 60 * S)
        store.maintain(60 * S, 1_000)
    stats = store.stats()
    assert stats["growth_steps"] >= 2
    assert stats["crowded_total"] <= 3
    assert 9 < store.memory_bytes / store.users < 15
    found = memoryview(store.find(packed(keys), 60 * S)).cast("I")
    expected = array("I", (60 - at // 100_000 for at in range(len(keys))))
    assert sum(a != b for a, b in zip(found, expected, strict=True)) == stats["crowded_total"]


def test_beyond_the_memory_the_oldest_are_forgotten_first(make: Callable[..., Any]) -> None:
    store = make()
    most = store.users_max
    assert most == users_within(MEMORY_MIN) > 900_000
    dice = random.Random(6)
    keys = [dice.getrandbits(64) for _ in range(most)]
    third = most // 3
    parts = [keys[:third], keys[third : 2 * third], keys[2 * third :]]
    for part, at in zip(parts, (0, 1_000, 2_000), strict=True):
        store.note(packed(part), at * S, at * S)
    assert ages(store, keys[:1000], 2_100) == [2_100] * 1000
    assert store.complete_s == 0
    store.note(packed([1, 2, 3]), 2_100 * S, 2_100 * S)
    assert set(ages(store, parts[0], 2_100)) == {NONE}
    assert set(ages(store, parts[1][:1000] + parts[2][:1000], 2_100)) == {1_100, 100}
    assert ages(store, [1, 2, 3], 2_100) == [0, 0, 0]
    assert store.stats()["forgotten_total"] == third
    assert store.complete_s == 512


@pytest.mark.parametrize(
    "options",
    [
        {"keep_ms": KEEP_MS_MIN - 1},
        {"keep_ms": KEEP_MS_MAX + 1},
        {"memory_max": MEMORY_MIN - 1},
        {"memory_max": 1 << 45},
        {"now_ms": -1},
    ],
)
def test_bounds_are_checked(make: Callable[..., Any], options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be in"):
        make(**options)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["note", "look", "sweep"]),
            st.lists(st.integers(0, 40), max_size=10),
            st.integers(0, 20_000),
            st.one_of(st.integers(0, 10), st.integers(0, 10_000), st.integers(0, 400_000)),
        ),
        max_size=40,
    )
)
def test_kernel_and_twin_say_the_same(steps: list[tuple[str, list[int], int, int]]) -> None:
    store, spec = KERNEL(keep_ms=10 * DAY * S), TWIN(keep_ms=10 * DAY * S)
    every, now = packed(range(41)), 30_000
    for what, keys, ago, step in steps:
        now += step
        if what == "note":
            store.note(packed(keys), max(0, now - ago) * S, now * S)
            spec.note(packed(keys), max(0, now - ago) * S, now * S)
        elif what == "sweep":
            swept(store, now)
            swept(spec, now)
        assert store.find(every, now * S) == spec.find(every, now * S)
        assert store.users == spec.users
        assert store.complete_s == spec.complete_s
    store._verify()  # type: ignore[attr-defined]  # not part of the face
