"""The table's promises, on the kernel and on its twin alike."""

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import psutil  # type: ignore[import-untyped,unused-ignore]
import pytest

from pulsering_server import _table, _table_reference
from pulsering_server.table import MOVED, NOT_OWNED, OFFLINE, ONLINE, SLOTS, UNKNOWN, Tally

TTL = 20_000
TICK = 250
ODD_IDS = [0, 1, 2**63, 2**64 - 1, *range(1000, 1100), *(i << 22 for i in range(1, 100))]
ODD_IDS += [i << 32 | 7 for i in range(1, 100)] + [7 << 32 | i for i in range(100)]


@pytest.fixture(params=[_table.Table, _table_reference.Table], ids=["kernel", "twin"])
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    def make(**options: int) -> Any:
        return request.param(**{"ttl_ms": TTL, "_lines": 2} | options)

    return make


def packed(keys: Sequence[int]) -> bytes:
    return array("Q", keys).tobytes()


def states(table: Any, keys: Sequence[int], now: int) -> list[int]:
    reply = table.get(packed(keys), now)
    return [reply[i // 4] >> i % 4 * 2 & 3 for i in range(len(keys))]


def slots(group: int = 0, **other: int) -> bytes:
    return array("H", [other.get(f"slot{i}", group) for i in range(SLOTS)]).tobytes()


def test_scenario_1_offline_on_time_though_never_swept(make: Callable[..., Any]) -> None:
    table = make()
    assert table.heartbeat(packed([1]), 0) == Tally(1, 0, 0, 0)
    assert states(table, [1], 19_900) == [ONLINE]
    assert states(table, [1], 20_000) == [ONLINE]
    assert states(table, [1], 20_250) == [OFFLINE]
    assert table.entries == 1
    assert table.count(20_250) == [0]


def test_scenario_2_the_deadline_is_added_once(make: Callable[..., Any]) -> None:
    table = make()
    table.heartbeat(packed([1]), 0)
    table.heartbeat(packed([1]), 10_000)
    assert states(table, [1], 30_000) == [ONLINE]
    assert states(table, [1], 30_250) == [OFFLINE]


@pytest.mark.parametrize("sweep_first", [True, False])
def test_scenario_3_heartbeat_and_sweep_in_one_tick(make: Callable[..., Any], sweep_first: bool) -> None:
    table = make()
    table.heartbeat(packed([1]), 0)
    if sweep_first:
        table.maintain(20_250, 10**6)
    table.heartbeat(packed([1]), 20_250)
    table.maintain(20_250, 10**6)
    assert states(table, [1], 20_250) == [ONLINE]
    assert table.count(20_250) == [1]


@pytest.mark.parametrize("offset", range(0, TICK + 1, 10))
def test_scenario_4_right_to_one_tick_from_any_offset(make: Callable[..., Any], offset: int) -> None:
    table = make(now_ms=offset)
    table.heartbeat(packed([1]), offset)
    assert states(table, [1], offset + TTL) == [ONLINE]
    assert states(table, [1], offset + TTL + TICK) == [OFFLINE]


def test_scenario_7_back_at_once_after_expiry(make: Callable[..., Any]) -> None:
    table = make()
    table.heartbeat(packed([1]), 0)
    assert states(table, [1], 21_000) == [OFFLINE]
    table.heartbeat(packed([1]), 21_500)
    assert states(table, [1], 21_500) == [ONLINE]
    assert table.count(21_500) == [1]


def test_scenario_6_probes_of_one_deadline_among_a_crowd_are_off_within_one_tick() -> None:
    """A million others stay online all the while, and the sweep gets a slice of its work done each tick."""
    table = _table.Table(ttl_ms=TTL)
    crowd = array("Q", range(1 << 40, (1 << 40) + 1_000_000))
    probes = packed(range(1_000))
    table.heartbeat(crowd, 0)
    table.heartbeat(probes, 5_000)
    for now in range(5_000, 5_000 + TTL + 1, TICK):
        table.maintain(now, 5_000)
        if now % 5_000 == 0:
            table.heartbeat(crowd, now)
        assert table.get(probes, now) == b"\x55" * 250
    assert table.online == 1_001_000
    late = 5_000 + TTL + TICK
    assert table.get(probes, late) == bytes(250)
    assert table.count(late) == [1_000_000]


def test_scenario_8_one_user_beating_without_pause_is_one_entry(make: Callable[..., Any]) -> None:
    table = make()
    for now in range(0, 60_000, 100):
        table.heartbeat(packed([1] * 50), now)
    assert table.entries == 1


def test_scenario_9_reading_changes_nothing(make: Callable[..., Any]) -> None:
    table = make()
    table.heartbeat(packed(ODD_IDS), 0)
    before = table.stats(), table.memory_bytes, table.entries
    for start in range(10**6, 10**6 + 20_000, 1000):
        keys = packed(range(start, start + 1000))
        assert table.get(keys, 0) == bytes(250)
        assert table.get_ages(keys, 0) == b"\xff" * 1000
    assert (table.stats(), table.memory_bytes, table.entries) == before


def test_scenario_11_any_ids_are_exact(make: Callable[..., Any]) -> None:
    table = make()
    ids = sorted(set(ODD_IDS))
    assert table.heartbeat(packed(ids), 0).accepted == len(ids)
    assert states(table, ids, 0) == [ONLINE] * len(ids)
    near = sorted({i ^ 1 << bit for i in ids for bit in range(64)} - set(ids))
    assert states(table, near, 0) == [OFFLINE] * len(near)
    assert table.count(0) == [len(ids)]


def test_scenario_13_a_heartbeat_counts_from_when_it_was_said(make: Callable[..., Any]) -> None:
    table = make(now_ms=100_000)
    assert table.heartbeat(packed([1]), 100_000, 15_000) == Tally(1, 0, 0, 0)
    assert states(table, [1], 105_000) == [ONLINE]
    assert states(table, [1], 105_250) == [OFFLINE]
    assert table.heartbeat(packed([2]), 110_000, 30_000) == Tally(0, 1, 0, 0)
    assert states(table, [2], 110_000) == [OFFLINE]


def test_scenario_14_late_and_repeated_heartbeats_never_shorten_or_revive(make: Callable[..., Any]) -> None:
    table = make(now_ms=100_000)
    table.heartbeat(packed([1]), 100_000)
    for age in (10_000, 19_000, 5_000, 10_000):
        assert table.heartbeat(packed([1]), 100_000, age).accepted == 1
    assert table.get_ages(packed([1]), 100_000) == b"\0"
    assert states(table, [1], 120_000) == [ONLINE]
    assert table.heartbeat(packed([1]), 121_000, 21_000).stale == 1
    assert states(table, [1], 121_000) == [OFFLINE]


def test_scenario_18_a_leave_holds_against_what_was_said_before_it(make: Callable[..., Any]) -> None:
    table = make(now_ms=100_000)
    table.heartbeat(packed([1]), 100_000)
    assert table.leave(packed([1, 2]), 101_000) == Tally(2, 0, 0, 0)
    assert states(table, [1, 2], 101_000) == [OFFLINE, OFFLINE]
    assert table.heartbeat(packed([1, 2]), 101_002, 3) == Tally(0, 2, 0, 0)
    assert states(table, [1, 2], 101_002) == [OFFLINE, OFFLINE]
    assert table.heartbeat(packed([1, 2]), 101_002, 2) == Tally(2, 0, 0, 0)
    assert states(table, [1, 2], 101_002) == [ONLINE, ONLINE]
    assert table.count(101_002) == [2]


def test_a_leave_older_than_the_last_heartbeat_is_stale(make: Callable[..., Any]) -> None:
    table = make(now_ms=100_000)
    table.heartbeat(packed([1]), 100_000)
    assert table.leave(packed([1]), 100_000, 1_000) == Tally(0, 1, 0, 0)
    assert table.leave(packed([2]), 100_000, TTL) == Tally(0, 1, 0, 0)
    assert states(table, [1], 100_000) == [ONLINE]


def test_grace_shortens_and_never_lengthens(make: Callable[..., Any]) -> None:
    table = make(now_ms=100_000)
    table.heartbeat(packed([1, 2]), 100_000)
    table.leave(packed([1]), 101_000, grace_ms=5_000)
    table.leave(packed([2]), 101_000, grace_ms=10**9)
    assert states(table, [1, 2], 106_000) == [ONLINE, ONLINE]
    assert table.get_ages(packed([1]), 106_000) == bytes([24])
    assert states(table, [1, 2], 106_250) == [OFFLINE, ONLINE]
    assert states(table, [2], 120_250) == [OFFLINE]
    table.heartbeat(packed([1]), 120_250)
    assert states(table, [1], 140_250) == [ONLINE]


def test_absent_says_what_the_slot_says(make: Callable[..., Any]) -> None:
    table = make()
    absent = bytes([OFFLINE, UNKNOWN, MOVED] + [OFFLINE] * (SLOTS - 3))
    table.set_slots(slots(), absent, 0)
    keys = [slot << 50 for slot in range(3)]
    assert states(table, keys, 0) == [OFFLINE, UNKNOWN, MOVED]
    table.heartbeat(packed(keys), 0)
    assert states(table, keys, 0) == [ONLINE] * 3


def test_writes_to_slots_of_others_are_moved(make: Callable[..., Any]) -> None:
    table = make()
    table.set_slots(slots(slot0=NOT_OWNED), bytes(SLOTS), 0)
    assert table.heartbeat(packed([5, 1 << 50]), 0) == Tally(1, 0, 0, 1)
    assert table.leave(packed([5]), 0) == Tally(0, 0, 0, 1)
    assert table.entries == 1


def test_new_groups_hold_from_the_next_deadline_and_sum_is_exact(make: Callable[..., Any]) -> None:
    table = make()
    table.set_slots(slots(slot0=1, slot1=NOT_OWNED), bytes(SLOTS), 0)
    table.heartbeat(packed([1, 2 << 50]), 0)
    assert table.count(0) == [1, 1]
    table.set_slots(slots(slot0=2, slot1=3), bytes(SLOTS), 1_000)
    table.heartbeat(packed([1 << 50]), 1_000)
    assert table.count(1_000) == [1, 1, 0, 1]
    table.heartbeat(packed([1]), 2_000)
    assert table.count(2_000) == [1, 0, 1, 1]
    table.advance(30_000)
    assert table.count(30_000) == [0, 0, 0, 0]


def test_users_beyond_the_limit_are_refused_while_others_refresh(make: Callable[..., Any]) -> None:
    table = make(users_max=2)
    assert table.heartbeat(packed([1, 2, 3]), 0) == Tally(2, 0, 1, 0)
    assert table.heartbeat(packed([1, 2, 3]), 5_000) == Tally(2, 0, 1, 0)
    assert table.heartbeat(packed([3]), 25_250) == Tally(1, 0, 0, 0)
    assert table.online == 1


def test_memory_beyond_the_limit_is_refused_while_others_refresh(make: Callable[..., Any]) -> None:
    table = make(memory_max=200_000)
    keys = [i * 0x9E3779B97F4A7C15 % 2**64 for i in range(40_000)]
    tally = table.heartbeat(packed(keys), 0)
    assert tally.refused > 0
    assert tally.accepted + tally.refused == len(keys)
    assert table.memory_bytes <= 200_000
    held = [key for key, state in zip(keys, states(table, keys, 0), strict=True) if state == ONLINE]
    assert len(held) == tally.accepted == table.online
    assert table.heartbeat(packed(held), 1_000) == Tally(len(held), 0, 0, 0)


def test_time_never_goes_back_and_may_jump(make: Callable[..., Any]) -> None:
    table = make(now_ms=50_000)
    table.heartbeat(packed([1]), 40_000)
    assert states(table, [1], 70_000) == [ONLINE]
    for now in (10**7, 10**12, 2**55, 2**56 - 1):
        assert states(table, [1], now) == [OFFLINE]
        table.heartbeat(packed([1]), now)
        assert states(table, [1], 0) == [ONLINE]
        assert table.count(now) == [1]


def test_spokes_never_lie_after_the_wheel_came_round(make: Callable[..., Any]) -> None:
    table = make()
    table.heartbeat(packed(ODD_IDS), 0)
    for tick in range(1, 1_000):
        table.heartbeat(packed([99]), tick * TICK)
        expected = len(set(ODD_IDS)) + 1 if tick <= 80 else 1
        assert table.count(tick * TICK) == [expected]
    assert states(table, ODD_IDS, 999 * TICK) == [OFFLINE] * len(ODD_IDS)


def test_everything_is_given_back_after_one_sweep(make: Callable[..., Any]) -> None:
    table = make()
    empty = table.memory_bytes
    table.heartbeat(packed(range(50_000)), 0)
    table.leave(packed(range(0, 50_000, 7)), 1_000)
    full = table.memory_bytes
    for now in range(21_250, 21_250 + 5 * TTL, TICK):
        while table.maintain(now, 10_000):
            pass
    assert table.entries == 0
    assert full > 10 * (empty + 1_000)
    assert table.memory_bytes <= empty + 4096


def test_what_growing_needs_next_is_populated_before_it_is_due_and_once() -> None:
    table = _table.Table(ttl_ms=TTL)
    lines, first, populated_early, calls = table.stats()["lines"], 0, 0, 0
    while table.stats()["growth_steps"] < 5:
        table.heartbeat(packed(range(first, first + 10)), 0)
        first += 10
        while table.populate_due:
            populated_early += table.stats()["migrating"] == 0
            calls += 1
            table.populate()
    blocks = table.stats()["lines"] // 32_768 + 1
    assert populated_early >= 5
    assert calls <= 2 * 5 * blocks
    assert table.stats()["lines"] > lines
    assert table.online == first


def test_populated_memory_of_a_table_that_never_grows_goes_back() -> None:
    table = _table.Table(ttl_ms=TTL, _lines=1 << 18)
    resident = psutil.Process().memory_info
    users = 0
    while not table.populate_due:
        table.heartbeat(packed(range(users, users + 1_000)), 0)
        users += 1_000
    before = resident().rss
    while table.populate_due:
        table.populate()
    populated = resident().rss - before
    if populated < 4 << 20:
        pytest.skip("this system does not populate memory on advice: Linux 5.14")
    table.advance(2 * TTL)
    while table.maintain(2 * TTL, 10**6):
        pass
    table.advance(4 * TTL)
    while table.maintain(4 * TTL, 10**6):
        pass
    assert resident().rss < before - (12 << 20)


def test_lines_of_every_layout_answer_exactly() -> None:
    for lines in (1 << 16, 1 << 22, 1 << 26):
        table = _table.Table(ttl_ms=TTL, _lines=lines)
        keys = [i * 0x9E3779B97F4A7C15 % 2**64 for i in range(3_000)]
        # Keys of few lines, so that they fill up: consecutive mixed keys, unmixed.
        inverse = pow(0x9E3779B97F4A7C15, -1, 2**64)
        for mixed in range(2**63, 2**63 + 200):
            x = mixed * inverse % 2**64
            keys.append(x ^ x >> 32)
        table.heartbeat(packed(keys), 0)
        assert states(table, keys, 0) == [ONLINE] * len(keys)
        assert states(table, [key ^ 1 for key in keys], 0).count(ONLINE) <= 200
        assert table.count(0) == [len(keys)]
        table.leave(packed(keys[::2]), 0)
        assert table.count(0) == [len(keys) // 2]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ttl_ms": 999}, "ttl_ms must be in 1000..3600000"),
        ({"ttl_ms": 3_600_001}, "ttl_ms must be in"),
        ({"ticks_per_ttl": 19}, "ticks_per_ttl must be in 20..80"),
        ({"ticks_per_ttl": 81}, "ticks_per_ttl must be in 20..80"),
        ({"now_ms": -1}, "now_ms must be in"),
        ({"users_max": -1}, "users_max must be in"),
    ],
)
def test_options_out_of_range_say_what_is_accepted(
    make: Callable[..., Any], options: dict[str, int], error: str
) -> None:
    with pytest.raises(ValueError, match=error):
        make(**options)


def test_facts(make: Callable[..., Any]) -> None:
    table = make()
    assert (table.ttl_ms, table.tick_ms) == (TTL, 250.0)
    assert set(table.stats()) == set(_table_reference.STATS)
    table.heartbeat(packed([1]), 0)
    table.advance(21_000)
    assert table.stats()["accepted_total"] == table.stats()["expired_total"] == 1
