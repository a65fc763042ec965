"""The watch set's promises, each on the compiled kernel and on its twin."""

from array import array
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from pulsering_server import _table, _table_reference, _watch, _watch_reference
from pulsering_server.table import NOT_OWNED, SLOTS

TTL = 20_000
TICK = 250
OFFLINE, ONLINE, UNKNOWN, MOVED = range(4)
NONE, HEARTBEAT, EXPIRED, LEFT = range(4)


class News(NamedTuple):
    """One thing that a subscriber is told."""

    key: int
    state: int
    cause: int


class Kit:
    """A table, its watch set, and the time they are told."""

    def __init__(self, compiled: bool, **limits: int) -> None:
        self.table_class: Any = (_table if compiled else _table_reference).Table
        self.now = 10 * TTL
        self.table = self.new_table()
        bounds = {"watches_max": 100_000, "per_subscriber": 50_000, **limits}
        self.set: Any = (_watch if compiled else _watch_reference).WatchSet(self.table, **bounds)

    def new_table(self) -> Any:
        return self.table_class(ttl_ms=TTL, now_ms=self.now)

    def beat(self, *keys: int, age: int = 0) -> None:
        self.table.heartbeat(packed(keys), self.now, age)

    def leave(self, *keys: int, grace: int = 0) -> None:
        self.table.leave(packed(keys), self.now, 0, grace)

    def turn(self, ms: int = 0, budget: int = 7) -> None:
        """Let time pass, and all that is due be found, a little at a time."""
        self.now += ms
        while self.set.turn(self.now, budget):
            pass

    def watch(self, subscriber: int, *keys: int) -> list[int] | None:
        states = self.set.watch(subscriber, packed(keys), self.now)
        return None if states is None else unpacked(states, len(keys))

    def take(self, subscriber: int, most: int = 1000) -> list[News]:
        keys, states, causes = self.set.take(subscriber, most)
        found = array("Q", keys).tolist()
        return sorted(map(News, found, unpacked(states, len(found)), causes))

    def ready(self) -> list[int]:
        return sorted(self.set.ready(1000))

    def absent(self, state: int) -> None:
        """What is said of users who are not online."""
        groups = array("H", [NOT_OWNED if state == MOVED else 0]) * SLOTS
        self.table.set_slots(groups.tobytes(), bytes([state]) * SLOTS, self.now)
        self.set.look_again()


def packed(keys: Any) -> bytes:
    return array("Q", keys).tobytes()


def unpacked(states: bytes, count: int) -> list[int]:
    return [states[i // 4] >> i % 4 * 2 & 3 for i in range(count)]


Make = Callable[..., Kit]


@pytest.fixture(params=[True, False], ids=["kernel", "twin"])
def make(request: pytest.FixtureRequest) -> Make:
    return lambda **limits: Kit(request.param, **limits)


@pytest.fixture
def kit(make: Make) -> Kit:
    return make()


def test_a_watch_says_what_is_and_then_what_changes(kit: Kit) -> None:
    kit.beat(1)
    me = kit.set.open()
    assert kit.watch(me, 1, 2, 3) == [ONLINE, OFFLINE, OFFLINE]
    assert not kit.set.waiting
    kit.beat(2)
    assert kit.ready() == [me]
    assert kit.take(me) == [News(2, ONLINE, HEARTBEAT)]
    kit.leave(2)
    assert kit.take(me) == [News(2, OFFLINE, LEFT)]
    assert kit.set.changes == (0, 1, 0, 1)


def test_who_runs_out_is_told_at_the_deadline_and_not_before(kit: Kit) -> None:
    me = kit.set.open()
    kit.beat(1)
    kit.watch(me, 1)
    kit.turn(TTL)
    assert kit.take(me) == []
    kit.turn(TICK)
    assert kit.take(me) == [News(1, OFFLINE, EXPIRED)]


def test_a_refresh_is_told_to_nobody(kit: Kit) -> None:
    me = kit.set.open()
    kit.beat(1)
    kit.watch(me, 1)
    for _ in range(300):
        kit.turn(TICK)
        kit.beat(1)
    assert not kit.set.waiting
    assert kit.take(me) == []
    assert sum(kit.set.changes) == 0
    kit.turn(TTL + TICK)
    assert kit.take(me) == [News(1, OFFLINE, EXPIRED)]


def test_a_leave_with_a_grace_is_told_when_the_grace_runs_out(kit: Kit) -> None:
    me = kit.set.open()
    kit.beat(1, 2)
    kit.watch(me, 1, 2)
    kit.leave(1, 2, grace=5_000)
    kit.turn(4_000)
    kit.beat(2)
    kit.turn(1_000)
    assert kit.take(me) == []
    kit.turn(TICK)
    assert kit.take(me) == [News(1, OFFLINE, LEFT)]
    kit.turn(TTL)
    assert kit.take(me) == [News(2, OFFLINE, EXPIRED)]


def test_a_heartbeat_from_before_the_leave_is_no_news(kit: Kit) -> None:
    me = kit.set.open()
    kit.beat(1)
    kit.watch(me, 1)
    kit.leave(1)
    kit.beat(1, age=100)
    assert kit.take(me) == [News(1, OFFLINE, LEFT)]


def test_what_happens_between_two_looks_is_seen_as_a_repeat(kit: Kit) -> None:
    me = kit.set.open()
    kit.watch(me, 1)
    kit.beat(1)
    kit.leave(1)
    assert kit.take(me) == [News(1, OFFLINE, LEFT)]
    assert kit.set.coalesced == 1
    kit.beat(1)
    kit.take(me)
    kit.now += TTL + TICK
    kit.beat(1)  # its time ran out and it is back before anybody looked
    assert kit.take(me) == [News(1, ONLINE, HEARTBEAT)]
    assert kit.set.changes == (0, 3, 1, 1)


def test_a_slow_reader_is_owed_the_latest_of_each_user_and_no_more(kit: Kit) -> None:
    me = kit.set.open()
    keys = range(100)
    kit.watch(me, *keys)
    for _ in range(50):
        kit.beat(*keys)
        kit.leave(*keys)
    assert kit.ready() == [me]
    assert kit.take(me) == [News(key, OFFLINE, LEFT) for key in keys]
    assert kit.set.coalesced == 99 * 100


def test_news_is_taken_in_parts_and_the_rest_stays_ready(kit: Kit) -> None:
    me = kit.set.open()
    kit.watch(me, *range(10))
    kit.beat(*range(10))
    assert kit.ready() == [me]
    first = kit.take(me, 4)
    assert kit.ready() == [me]
    rest = kit.take(me, 100)
    assert kit.ready() == []
    assert sorted(first + rest) == [News(key, ONLINE, HEARTBEAT) for key in range(10)]


def test_everybody_who_watches_is_told_and_nobody_else(kit: Kit) -> None:
    several = [kit.set.open() for _ in range(40)]
    other = kit.set.open()
    kit.watch(other, 8)
    for subscriber in several:
        kit.watch(subscriber, 7)
    kit.beat(7)
    assert kit.ready() == several
    for subscriber in several:
        assert kit.take(subscriber) == [News(7, ONLINE, HEARTBEAT)]
    assert kit.take(other) == []
    assert (kit.set.users, kit.set.watches, kit.set.subscribers) == (2, 41, 41)


def test_who_stops_or_closes_is_told_no_more(kit: Kit) -> None:
    one, two = kit.set.open(), kit.set.open()
    kit.watch(one, 1, 2)
    kit.watch(two, 1, 2)
    kit.beat(1, 2)
    kit.set.stop(one, packed([1, 5]))
    assert kit.take(one) == [News(2, ONLINE, HEARTBEAT)]
    kit.set.close(two)
    kit.leave(1, 2)
    assert kit.take(one) == [News(2, OFFLINE, LEFT)]
    assert kit.ready() == [one]
    with pytest.raises(ValueError, match="no subscriber"):
        kit.take(two)
    kit.set.close(one)
    assert (kit.set.users, kit.set.watches, kit.set.subscribers) == (0, 0, 0)
    again = kit.set.open()
    assert kit.watch(again, 2) == [OFFLINE]


def test_a_snapshot_takes_the_place_of_older_news(kit: Kit) -> None:
    me = kit.set.open()
    kit.watch(me, 1)
    kit.beat(1)
    assert kit.watch(me, 1) == [ONLINE]
    assert kit.take(me) == []
    kit.set.wake(me)
    kit.leave(1)
    assert kit.take(me) == [News(1, OFFLINE, LEFT)]


def test_a_snapshot_of_one_is_no_news_to_another_unless_it_is(kit: Kit) -> None:
    one, two = kit.set.open(), kit.set.open()
    kit.beat(1)
    kit.watch(one, 1)
    kit.now += TTL + TICK
    assert kit.watch(two, 1) == [OFFLINE]
    assert kit.take(one) == [News(1, OFFLINE, EXPIRED)]
    assert kit.take(two) == []


def test_beyond_its_limits_nothing_of_a_call_is_watched(make: Make) -> None:
    kit = make(watches_max=10, per_subscriber=6)
    one, two = kit.set.open(), kit.set.open()
    assert kit.watch(one, *range(7)) is None
    assert kit.set.watches == 0
    assert kit.watch(one, *range(6)) is not None
    assert kit.watch(one, *range(6)) is not None, "those it watches already are no more"
    assert kit.watch(two, *range(5)) is None
    assert kit.watch(two, *range(4)) is not None
    kit.set.stop(one, packed([0]))
    assert kit.watch(two, 100) is not None
    assert (kit.set.users, kit.set.watches) == (7, 10)


def test_a_node_that_turns_cold_or_warm_tells_so(kit: Kit) -> None:
    me = kit.set.open()
    kit.beat(1)
    kit.watch(me, *range(1, 200))
    kit.absent(UNKNOWN)
    kit.turn()
    assert kit.take(me) == [News(key, UNKNOWN, NONE) for key in range(2, 200)]
    kit.turn(TTL + TICK)
    assert kit.take(me) == [News(1, UNKNOWN, EXPIRED)]
    kit.absent(OFFLINE)
    kit.turn()
    assert kit.take(me) == [News(key, OFFLINE, NONE) for key in range(1, 200)]
    kit.absent(MOVED)
    kit.turn()
    assert {news.state for news in kit.take(me)} == {MOVED}


def test_another_table_is_told_of_without_a_cause(kit: Kit) -> None:
    me = kit.set.open()
    kit.beat(1, 2)
    kit.watch(me, 1, 2, 3)
    old, kit.table = kit.table, kit.new_table()
    kit.set.attach(kit.table)
    old.leave(packed([1]), kit.now)
    kit.beat(2)
    kit.turn()
    assert kit.take(me) == [News(1, OFFLINE, NONE), News(2, ONLINE, HEARTBEAT)]
    kit.leave(2)
    assert kit.take(me) == [News(2, OFFLINE, LEFT)]


def test_a_long_pause_is_made_up_for(kit: Kit) -> None:
    me = kit.set.open()
    kit.beat(*range(500))
    kit.watch(me, *range(500))
    kit.turn(50 * TTL)
    assert kit.take(me) == [News(key, OFFLINE, EXPIRED) for key in range(500)]
    kit.beat(*range(500))
    kit.turn(TTL)
    assert {news.state for news in kit.take(me)} == {ONLINE}
    kit.turn(TICK)
    assert {news.cause for news in kit.take(me)} == {EXPIRED}


def test_queues_hold_through_stops_and_fresh_watches(kit: Kit) -> None:
    """News of what was stopped is forgotten, also where the same user is watched again."""
    me = kit.set.open()
    for round_ in range(200):
        kit.watch(me, *range(round_, round_ + 5))
        kit.beat(*range(round_, round_ + 5))
        kit.set.stop(me, packed(range(round_, round_ + 3)))
        kit.leave(*range(round_, round_ + 5))
    told = kit.take(me)
    assert told == [News(key, OFFLINE, LEFT) for key in (202, 203)]


def test_memory_is_given_back(kit: Kit) -> None:
    before = kit.set.memory_bytes
    several = [kit.set.open() for _ in range(8)]
    for subscriber in several:
        kit.watch(subscriber, *range(3_000))
    kit.beat(*range(3_000))
    assert kit.set.memory_bytes > before + 24_000
    for subscriber in several:
        kit.set.close(subscriber)
    assert kit.set.memory_bytes < before + 4096


def test_one_table_tells_its_watch_set_for_as_long_as_that_lives(kit: Kit) -> None:
    me = kit.set.open()
    kit.watch(me, 1)
    kit.set = None
    kit.beat(1)
    kit.leave(1)
    assert kit.table.online == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.watch(0, b"1234567", 0),
        lambda s: s.watch(1, b"", 0),
        lambda s: s.stop(-1, b""),
        lambda s: s.take(0, -1),
        lambda s: s.turn(-1, 1),
        lambda s: s.close(2**40),
    ],
)
def test_what_makes_no_sense_is_refused(kit: Kit, call: Callable[[Any], object]) -> None:
    assert kit.set.open() == 0
    with pytest.raises(ValueError, match=r"must be|no subscriber"):
        call(kit.set)


def test_who_watched_very_many_is_forgotten_in_slices() -> None:
    """In the kernel; to the twin it is all the same."""
    kit = Kit(compiled=True)
    gone, stays = kit.set.open(), kit.set.open()
    kit.watch(gone, *range(30_000))
    kit.watch(stays, *range(10))
    kit.set.close(gone)
    with pytest.raises(ValueError, match="no subscriber"):
        kit.take(gone)
    assert (kit.set.subscribers, kit.set.watches) == (1, 30_010)
    assert kit.set.open() != gone
    kit.beat(*range(100))
    assert kit.ready() == [stays]
    watches = [30_010]
    while kit.set.turn(kit.now, 1_000):
        watches.append(kit.set.watches)
        assert 0 <= watches[-2] - watches[-1] <= 1_000
        kit.set._verify()
    assert (kit.set.users, kit.set.watches) == (10, 10)
    assert len(kit.take(stays)) == 10


@pytest.mark.parametrize("count", [1, 3, 1_000, 20_000])
def test_a_set_of_any_size_finds_whom_it_watches(count: int) -> None:
    """The kernel's hash grows bucket by bucket."""
    kit = Kit(compiled=True)
    me = kit.set.open()
    keys = [i * 0x9E3779B97F4A7C15 % 2**64 for i in range(count)]
    assert kit.watch(me, *keys) == [OFFLINE] * count
    kit.set._verify()
    kit.beat(*keys)
    assert len(kit.take(me, 2 * count)) == count
    kit.set.stop(me, packed(keys[::2]))
    kit.set._verify()
    kit.turn(TTL + TICK)
    assert len(kit.take(me, 2 * count)) == count // 2
    kit.set._verify()
