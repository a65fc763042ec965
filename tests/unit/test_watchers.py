"""What connections that watch a node are told, when, and where it ends."""

import weakref

import pytest
from support.node_driver import (
    MOVED,
    OFFLINE,
    ONLINE,
    TICK_MS,
    TTL_MS,
    UNKNOWN,
    Told,
    World,
    hello_body,
    pack,
    topology_of,
)

from pulsering import limits, messages
from pulsering.status import Cause
from pulsering.wire import ErrorCode, Op
from pulsering_server.auth import Auth, Role
from pulsering_server.table import COMPILED

TOKEN = "0123456789abcdef"


@pytest.fixture
def world() -> World:
    world = World()
    world.warm()
    return world


def test_a_watch_is_answered_with_what_is_and_told_what_changes(world: World) -> None:
    peer, other = world.connect(), world.connect()
    other.beat(1)
    assert peer.watch(1, 2) == [ONLINE, OFFLINE]
    assert peer.told() == []
    other.beat(1, 2)
    assert peer.told() == [Told(2, ONLINE, Cause.HEARTBEAT)]
    other.leave(1)
    assert peer.told() == [Told(1, OFFLINE, Cause.LEFT)]
    assert other.pushed == []


def test_who_is_silent_is_told_offline_within_a_tick_of_the_deadline(world: World) -> None:
    peer = world.connect()
    peer.beat(1)
    peer.watch(1)
    world.advance(TTL_MS)
    assert peer.told() == []
    world.advance(2 * TICK_MS)
    assert peer.told() == [Told(1, OFFLINE, Cause.EXPIRED)]


def test_a_stop_is_answered_and_final(world: World) -> None:
    peer = world.connect()
    assert peer.watch(1, stop=True) == [], "also where nothing was watched"
    peer.watch(1, 2)
    assert peer.watch(1, stop=True) == []
    peer.beat(1, 2)
    assert peer.told() == [Told(2, ONLINE, Cause.HEARTBEAT)]


def test_a_push_says_epoch_and_warmth_as_a_get_does() -> None:
    world = World()
    peer = world.connect()
    assert peer.watch(1) == [UNKNOWN]
    peer.beat(1)
    (push,) = peer.pushes()
    assert (push.epoch, push.warming_ms) == (1, world.cores["a"].warming_ms(world.now_ms))


def test_who_hears_nothing_gets_a_pulse_in_time(world: World) -> None:
    peer, silent = world.connect(), world.connect()
    peer.watch(1)
    heard_ms = world.now_ms
    for round_ in range(40):
        world.advance(TICK_MS)
        if round_ == 7:
            silent.beat(1)
        if peer.pushes():
            assert world.now_ms - heard_ms <= limits.WATCH_PULSE_MS_MAX
            heard_ms = world.now_ms
    assert world.now_ms - heard_ms <= limits.WATCH_PULSE_MS_MAX
    assert silent.pushed == []


def test_a_node_asks_for_a_turn_when_something_is_due(world: World) -> None:
    calls: list[int] = []
    world.cores["a"].watchers.on_due = lambda: calls.append(world.now_ms)
    peer, other = world.connect(), world.connect()
    other.beat(1)
    peer.watch(1)
    other.beat(1)
    assert calls == [], "a refresh is nothing"
    other.leave(1)
    assert calls == [world.now_ms]
    peer.told()
    world.advance(limits.WATCH_PULSE_MS_MAX)
    assert calls[-1] == world.now_ms


def test_many_that_watch_one_user_are_told_some_at_a_time(world: World) -> None:
    peers = [world.connect() for _ in range(2 * limits.WATCH_PUSHES_PER_TURN + 1)]
    for peer in peers:
        peer.watch(7)
    peers[0].beat(7)
    core = world.cores["a"]
    turns = 1
    while core.push(world.now_ms):
        turns += 1
        assert sum(map(len, (peer.pushed for peer in peers))) <= turns * limits.WATCH_PUSHES_PER_TURN
    assert turns == 3
    assert all(peer.told() == [Told(7, ONLINE, Cause.HEARTBEAT)] for peer in peers)


def test_many_changes_come_in_frames_of_their_limit() -> None:
    world = World(keys_per_frame=64)
    world.warm()
    peer = world.connect()
    keys = range(64)
    peer.watch(*keys)
    peer.watch(*range(64, 128))
    peer.beat(*keys)
    peer.beat(*range(64, 128))
    pushes = peer.pushes()
    assert [len(push.causes) for push in pushes] == [64, 64]


def test_who_does_not_read_is_told_the_latest_once_it_does(world: World) -> None:
    peer, other = world.connect(), world.connect()
    peer.watch(1, 2)
    peer.session.pause()
    for _ in range(10):
        other.beat(1, 2)
        other.leave(1)
    world.advance(2 * limits.WATCH_PULSE_MS_MAX)
    assert peer.pushes() == [], "no pulse either"
    assert world.cores["a"].watchers.set.coalesced == 19
    peer.session.resume(world.now_ms)
    assert peer.told() == [Told(1, OFFLINE, Cause.LEFT), Told(2, ONLINE, Cause.HEARTBEAT)]


def test_a_connection_that_is_gone_watches_nothing(world: World) -> None:
    peers = [world.connect() for _ in range(3)]
    watchers = world.cores["a"].watchers
    for peer in peers:
        peer.watch(1, 2)
    assert (len(watchers), watchers.set.watches) == (3, 6)
    peers[0].session.abandon()
    peers[0].session.abandon()
    peers[1].deliver(b"\x00" * 16)  # closed for what it said
    assert (len(watchers), watchers.set.watches) == (1, 2)
    world.cores["a"].auth = Auth([(Role.READ, TOKEN)])
    peers[2].session.recheck(world.now_ms)
    assert (len(watchers), watchers.set.watches) == (0, 0)
    peers[0].beat(1)
    assert not world.cores["a"].push(world.now_ms)


def test_beyond_the_limit_of_the_node_nothing_is_watched_and_the_connection_goes_on() -> None:
    world = World(watched_users=3)
    world.warm()
    peer, other = world.connect(), world.connect()
    peer.watch(1, 2)
    refusal = other.refused(Op.WATCH, messages.encode_keys_request(1, messages.WATCH, pack([1, 2])))
    assert refusal.code == ErrorCode.WATCH_LIMIT
    assert "limits.watched_users" in refusal.message
    assert other.watch(1) == [OFFLINE]
    peer.beat(1, 2)
    assert other.told() == [Told(1, ONLINE, Cause.HEARTBEAT)]


def test_one_connection_may_not_watch_all_that_a_node_may() -> None:
    world = World(keys_per_frame=65_536)
    world.warm()
    peer = world.connect()
    most = limits.WATCHED_USERS_PER_CONNECTION
    for first in range(0, most, 65_536):
        peer.watch(*range(first, first + 65_536))
    refusal = peer.refused(Op.WATCH, messages.encode_keys_request(1, messages.WATCH, pack([most])))
    assert refusal.code == ErrorCode.WATCH_LIMIT
    assert world.connect().watch(most) == [OFFLINE]


def test_a_request_to_watch_has_the_bounds_of_a_get(world: World) -> None:
    peer = world.connect()
    too_many = pack(range(limits.KEYS_PER_FRAME + 1))
    for want in (messages.WATCH, messages.STOP_WATCH):
        refusal = peer.refused(Op.WATCH, messages.encode_keys_request(1, want, too_many))
        assert refusal.code == ErrorCode.TOO_MANY_KEYS
    assert peer.watch() == []
    assert peer.refused(Op.WATCH, messages.encode_keys_request(1, 2, pack([1]))).code == ErrorCode.BAD_FRAME


def test_any_role_may_watch(world: World) -> None:
    world.cores["a"].auth = Auth([(Role.READ, TOKEN)])
    peer = world.connect(greet=False)
    peer.ask(Op.HELLO, hello_body(token=TOKEN))
    assert peer.watch(1) == [OFFLINE]


def test_a_node_that_stood_still_tells_that_it_does_not_know(world: World) -> None:
    """Scenarios 18 and 21 for who watches: nobody stays online for longer than its deadline."""
    peer = world.connect()
    peer.beat(1)
    peer.watch(1, 2)
    world.stand_still(TTL_MS // 2)
    world.advance(TICK_MS)
    assert peer.told() == [Told(2, UNKNOWN, Cause.NONE)]
    world.stand_still(TTL_MS)
    world.advance(TICK_MS)
    assert peer.told() == [Told(1, UNKNOWN, Cause.EXPIRED)]
    world.warm()
    assert peer.told() == [Told(1, OFFLINE, Cause.NONE), Told(2, OFFLINE, Cause.NONE)]


def test_a_node_that_starts_over_tells_that_it_does_not_know(world: World) -> None:
    peer = world.connect()
    peer.beat(1)
    peer.watch(1, 2)
    world.cores["a"].start_over("a test", world.now_ms)
    world.advance(TICK_MS)
    assert peer.told() == [Told(1, UNKNOWN, Cause.NONE), Told(2, UNKNOWN, Cause.NONE)]
    peer.beat(1)
    assert peer.told() == [Told(1, ONLINE, Cause.HEARTBEAT)]


def test_a_slot_that_is_given_away_is_told_moved() -> None:
    world = World("ab")
    world.warm()
    core = world.cores["a"]
    owned = next(key << 50 for key in range(100) if core.ownership.groups[key] != 0xFFFF)
    peer = world.connect()
    peer.beat(owned)
    assert peer.watch(owned, owned + 1) == [ONLINE, OFFLINE]
    core.follow(topology_of("b", epoch=2), world.now_ms)
    world.advance(TICK_MS)
    assert peer.told() == [Told(owned + 1, MOVED, Cause.NONE)]
    world.advance(TTL_MS + TICK_MS)
    assert peer.told() == [Told(owned, MOVED, Cause.EXPIRED)]


@pytest.mark.skipif(not COMPILED, reason="the twin looks at all at once")
def test_a_late_tick_looks_at_all_in_slices(world: World) -> None:
    peer = world.connect()
    many = 2 * limits.WATCHED_USERS_PER_TURN
    for first in range(0, many, limits.KEYS_PER_FRAME):
        peer.watch(*range(first, min(many, first + limits.KEYS_PER_FRAME)))
        peer.beat(*range(first, min(many, first + limits.KEYS_PER_FRAME)))
    assert len(peer.told()) == many
    world.advance(TTL_MS)
    world.now_ms += TICK_MS
    core = world.cores["a"]
    core.tick(world.now_ms)
    assert len(peer.told()) == limits.WATCHED_USERS_PER_TURN
    while core.maintain(world.now_ms, 4096):
        pass
    assert len(peer.told()) == many - limits.WATCHED_USERS_PER_TURN


def test_a_node_that_nobody_holds_is_gone_at_once() -> None:
    """A table has address space for all memory there is: none may wait for a collector of cycles."""
    world = World()
    gone = weakref.ref(world.cores.pop("a"))
    assert gone() is None
