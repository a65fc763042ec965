"""What a node answers, on a virtual clock: the promises of the design, seen from one connection or two."""

import random

import pytest
from support.node_driver import (
    MOVED,
    OFFLINE,
    ONLINE,
    TICK_MS,
    TTL_MS,
    UNKNOWN,
    World,
    frames_in,
    hello_body,
    pack,
    refusal,
)

from pulsering import limits, messages
from pulsering.topology import Topology
from pulsering.wire import REPLY, ErrorCode, Op
from pulsering_server.stats import Close

U64 = 2**64


def spread_keys(count: int) -> list[int]:
    """Keys over all slots."""
    rng = random.Random(count)
    return [rng.randrange(U64) for _ in range(count)]


# -- cold and warm -------------------------------------------------------------------------------------------


def test_a_cold_node_says_unknown_then_offline() -> None:
    """Scenario 26: UNK for absent keys until one ttl has passed, then OFF; the vitals say so."""
    world = World()
    peer = world.connect()
    assert peer.is_online(1) == UNKNOWN
    assert peer.vitals().warming_ms == TTL_MS + TICK_MS
    world.advance(TTL_MS)
    assert peer.is_online(1) == UNKNOWN
    world.advance(TICK_MS)
    assert peer.is_online(1) == OFFLINE
    assert peer.vitals().warming_ms == 0
    assert [event.name for event in world.cores["a"].take_events()] == ["node.warm"]


def test_a_cold_node_says_online_at_once() -> None:
    """Scenario 26: online is proof and needs no warmth."""
    peer = World().connect()
    peer.beat(1)
    assert peer.is_online(1) == ONLINE


def test_a_user_who_left_a_cold_node_is_unknown_there_not_online() -> None:
    peer = World().connect()
    peer.beat(1)
    peer.leave(1)
    assert peer.is_online(1) == UNKNOWN


def test_a_restarted_node_is_cold_again() -> None:
    """Scenario 26: what a process forgot it must not deny."""
    world = World()
    world.warm()
    world.connect().beat(1)
    world.restart("a")
    assert world.connect().is_online(1) == UNKNOWN


def test_a_get_reply_tells_how_long_the_node_will_say_unknown() -> None:
    world = World()
    peer = world.connect()
    world.advance(5_000)
    reply = peer.ask(Op.GET, messages.encode_keys_request(1, 0, pack([1])))
    assert messages.decode_get_reply(reply.body, 1, want_ages=False).warming_ms == TTL_MS + TICK_MS - 5_000


def test_a_node_that_stood_still_is_cold_again_and_says_so_once() -> None:
    """Scenario 22, the core's share: what was missed meanwhile is unknown, not offline."""
    world = World()
    world.warm()
    core = world.cores["a"]
    core.take_events()
    peer = world.connect()
    peer.beat(1)
    world.stand_still(25_000)
    assert peer.is_online(1) == UNKNOWN
    world.advance(TICK_MS)
    assert [event.name for event in core.take_events()] == ["node.stalled"]
    assert core.stats.stalls == 1
    world.advance(TTL_MS)
    assert peer.is_online(1) == OFFLINE
    assert [event.name for event in core.take_events()] == ["node.warm"]


def test_a_short_pause_is_no_stall() -> None:
    """A user who beats every ttl/2 has half a ttl left when the pause begins."""
    world = World()
    world.warm()
    peer = world.connect()
    peer.beat(1)
    world.advance(TTL_MS // 2)
    world.stand_still(TTL_MS // limits.STALLS_PER_TTL)
    assert peer.get(1, 2) == [ONLINE, OFFLINE]
    assert world.cores["a"].stats.stalls == 0


def test_a_busy_node_that_gets_no_tick_is_not_taken_for_a_still_one() -> None:
    world = World()
    world.warm()
    peer = world.connect()
    for _ in range(30):
        world.stand_still(1_000)
        peer.is_online(1)
    assert world.cores["a"].stats.stalls == 0


# -- expiry --------------------------------------------------------------------------------------------------


def test_offline_comes_with_time_not_with_the_sweep() -> None:
    """Scenario 1: hb@0; @19.9 ON, @20.3 OFF, and nobody swept."""
    world = World(now_ms=0)
    world.warm()
    peer = world.connect()
    peer.beat(1)
    world.advance(19_900)
    assert peer.is_online(1) == ONLINE
    world.advance(400)
    assert peer.is_online(1) == OFFLINE
    assert world.cores["a"].table.entries == 1


def test_the_deadline_is_added_once() -> None:
    """Scenario 2: hb@0 and @10: OFF first in (30, 30.25], never 40."""
    world = World(now_ms=0)
    world.warm()
    peer = world.connect()
    peer.beat(1)
    world.advance(10_000)
    peer.beat(1)
    world.advance(TTL_MS)
    assert peer.is_online(1) == ONLINE
    world.advance(TICK_MS)
    assert peer.is_online(1) == OFFLINE


def test_who_comes_back_is_online_at_once() -> None:
    """Scenario 7: hb@0, OFF@21, hb@21.5: ON at once, count +1."""
    world = World(now_ms=0)
    world.warm()
    peer = world.connect()
    peer.beat(1)
    world.advance(21_000)
    assert (peer.is_online(1), peer.count()) == (OFFLINE, 0)
    world.advance(500)
    peer.beat(1)
    assert (peer.is_online(1), peer.count()) == (ONLINE, 1)


def test_a_connection_that_closes_takes_nobody_with_it() -> None:
    """Scenario 15: connection 1 beats u, connection 2 beats u, connection 1 closes: ON."""
    world = World()
    first, second = world.connect(), world.connect()
    first.beat(1)
    second.beat(1)
    del first
    assert second.is_online(1) == ONLINE


def test_a_read_changes_nothing() -> None:
    """Scenario 9, in small: keys never seen leave no trace."""
    world = World()
    peer = world.connect()
    peer.get(*spread_keys(1000))
    assert world.cores["a"].table.entries == 0


# -- ages ----------------------------------------------------------------------------------------------------


def test_what_a_stalled_link_delivers_late_revives_nobody() -> None:
    """Scenario 16: nothing for 30 s, then all of it: who stopped stays off, its frames count as stale."""
    world = World(now_ms=0)
    world.warm()
    peer = world.connect(offset_ms=-7_000_000)
    peer.beat(1)
    held = [peer.frame(Op.HEARTBEAT, messages.encode_keys_request(1, 0, pack([1, 2])))]
    world.advance(30_000)
    held.append(peer.frame(Op.HEARTBEAT, messages.encode_keys_request(1, 0, pack([3]))))
    replies = peer.deliver(b"".join(held))
    old, new = (messages.decode_write_reply(reply.body, n) for reply, n in zip(replies, (2, 1), strict=True))
    assert (old.stale, new.accepted) == (2, 1)
    assert peer.get(1, 2, 3) == [OFFLINE, OFFLINE, ONLINE]
    assert world.cores["a"].stats.heartbeats["stale"] == 2


def test_a_late_heartbeat_counts_from_when_it_was_said() -> None:
    """Scenario 16: 12 s late means 8 s left, give or take a tick."""
    world = World(now_ms=0)
    world.warm()
    peer = world.connect()
    held = peer.frame(Op.HEARTBEAT, messages.encode_keys_request(1, 0, pack([1])))
    world.advance(12_000)
    peer.deliver(held)
    world.advance(8_000 - TICK_MS)
    assert peer.is_online(1) == ONLINE
    world.advance(2 * TICK_MS)
    assert peer.is_online(1) == OFFLINE


def test_a_recording_replayed_an_hour_later_has_no_effect() -> None:
    """Scenario 17, on the connection it was recorded from."""
    world = World()
    peer = world.connect()
    recorded = []
    for key in range(60):
        recorded.append(peer.frame(Op.HEARTBEAT, messages.encode_keys_request(1, 0, pack([key]))))
        peer.deliver(recorded[-1])
        world.advance(1_000)
    world.advance(3_600_000)
    peer.deliver(b"".join(recorded))
    assert set(peer.get(*range(60))) == {OFFLINE}


@pytest.mark.parametrize("offset_ms", [0, 600_000, -600_000, 2**31, 2**32 - 5_000])
def test_a_senders_clock_may_be_off_by_anything(offset_ms: int) -> None:
    """Scenario 21: nobody early, nobody late by more than a tick."""
    world = World(now_ms=0)
    world.warm()
    peer = world.connect(offset_ms=offset_ms)
    peer.beat(1)
    world.advance(10_000)
    peer.beat(1)
    world.advance(TTL_MS - TICK_MS)
    assert peer.is_online(1) == ONLINE
    world.advance(2 * TICK_MS)
    assert peer.is_online(1) == OFFLINE


def test_a_heartbeat_said_before_a_leave_cannot_undo_it() -> None:
    """Scenario 14: the leave overtakes on another connection: OFF stays OFF; one said after it: ON."""
    world = World()
    world.warm()
    slow, fast = world.connect(), world.connect(offset_ms=12_345)
    slow.beat(1)
    held = slow.frame(Op.HEARTBEAT, messages.encode_keys_request(1, 0, pack([1])))
    world.advance(1_000)
    fast.leave(1)
    world.advance(1_000)
    slow.deliver(held)
    assert fast.is_online(1) == OFFLINE
    fast.beat(1)
    assert fast.is_online(1) == ONLINE


def test_leaving_with_grace_is_undone_by_a_second_device() -> None:
    """Scenario 18: ON while the other beats, OFF within grace otherwise."""
    world = World()
    world.warm()
    phone, laptop = world.connect(), world.connect()
    phone.beat(1, 2)
    phone.leave(1, 2, grace_ms=5_000)
    laptop.beat(1)
    world.advance(5_000 + 2 * TICK_MS)
    assert laptop.get(1, 2) == [ONLINE, OFFLINE]


def test_heartbeats_older_than_the_nodes_own_boot_are_stale() -> None:
    """A machine that booted just now can still get what was said long before."""
    world = World(now_ms=100)
    peer = world.connect()
    held = peer.frame(Op.HEARTBEAT, messages.encode_keys_request(1, 0, pack([1])))
    early = peer.frame(Op.HEARTBEAT, messages.encode_keys_request(1, 0, pack([2])))
    world.advance(30_000)
    peer.deliver(held + early)
    assert peer.get(1, 2) == [OFFLINE, OFFLINE]


def test_time_that_runs_back_stands_still() -> None:
    world = World()
    world.warm()
    peer = world.connect()
    peer.beat(1)
    world.now_ms -= 500_000
    assert peer.is_online(1) == ONLINE
    world.cores["a"].tick(world.now_ms)
    assert peer.vitals().warming_ms == 0


# -- slots and counts ----------------------------------------------------------------------------------------


def test_keys_of_other_nodes_are_moved() -> None:
    world = World("ab")
    keys = spread_keys(200)
    peers = {name: world.connect(name) for name in "ab"}
    for name, peer in peers.items():
        reply = peer.beat(*keys)
        assert reply.moved == peer.get(*keys).count(MOVED)
        assert reply.accepted == len(keys) - reply.moved
        assert 0 < reply.moved < len(keys), name


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_every_user_counts_once_also_while_owners_are_down(replicas: int) -> None:
    """Design: the total is exact, whoever does not answer, as long as one owner of each user does."""
    names = "abcde"
    world = World(names, replicas=replicas)
    keys = spread_keys(500)
    peers = {name: world.connect(name) for name in names}
    for peer in peers.values():
        peer.beat(*keys)
    for down in ["", *names, *(["bd", "ae"] if replicas == 3 else [])]:
        lost = sum(all(owner.name in down for owner in world.topology.owners_of(key >> 50)) for key in keys)
        assert (lost == 0) == (len(down) < replicas)
        total = sum(peer.count(*down) for name, peer in peers.items() if name not in down)
        assert total == len(keys) - lost


def test_names_that_nobody_has_do_not_disturb_a_count() -> None:
    peer = World().connect()
    peer.beat(1, 2, 3)
    assert peer.count("zz", "", "A") == 3
    assert peer.count("a") == 0


def test_new_users_beyond_the_limit_are_refused_and_old_ones_stay() -> None:
    world = World(users=10)
    peer = world.connect()
    assert peer.beat(*range(10)).accepted == 10
    assert peer.beat(*range(5, 15)) == messages.WriteReply(1, 5, 0, 5, 0)
    assert world.cores["a"].stats.heartbeats["refused"] == 5


def test_ages_come_in_ticks() -> None:
    world = World(now_ms=0)
    peer = world.connect()
    peer.beat(1)
    world.advance(5_000)
    reply = peer.ask(Op.GET, messages.encode_keys_request(1, messages.WANT_AGES, pack([1, 2])))
    assert list(messages.decode_get_reply(reply.body, 2, want_ages=True).ages) == [20, 255]


# -- control -------------------------------------------------------------------------------------------------


def test_hello_tells_a_client_where_it_is() -> None:
    world = World("ab")
    welcome = messages.decode_welcome(world.connect("b", greet=False).ask(Op.HELLO, hello_body()).body)
    assert (welcome.cluster, welcome.node, welcome.epoch) == ("demo", "b", 1)
    assert welcome.topology_hash == world.topology.hash
    assert welcome.keys_per_frame == limits.KEYS_PER_FRAME
    assert welcome.warming_ms == TTL_MS + TICK_MS


def test_hello_with_any_cluster_is_welcome() -> None:
    assert World().connect(greet=False).ask(Op.HELLO, hello_body(cluster="")).op == Op.HELLO


def test_a_client_of_another_cluster_is_refused() -> None:
    peer = World().connect(greet=False)
    refused = peer.refused(Op.HELLO, hello_body(cluster="prod"))
    assert refused.code == ErrorCode.CLUSTER_MISMATCH
    assert "demo" in refused.message
    assert "prod" in refused.message
    assert peer.session.closed == Close.CLUSTER_MISMATCH


def test_no_version_in_common_names_both_ranges() -> None:
    peer = World().connect(greet=False)
    refused = peer.refused(Op.HELLO, hello_body(version_min=2, version_max=9))
    assert refused.code == ErrorCode.UNSUPPORTED_VERSION
    assert "2 to 9" in refused.message
    assert "1 to 1" in refused.message
    assert peer.session.closed == Close.UNSUPPORTED_VERSION


def test_the_highest_version_in_common_is_taken() -> None:
    reply = World().connect(greet=False).ask(Op.HELLO, hello_body(version_min=0, version_max=9))
    assert messages.decode_welcome(reply.body).version == 1


@pytest.mark.parametrize("op", [op for op in Op if op != Op.HELLO])
def test_nothing_is_served_before_hello(op: Op) -> None:
    peer = World().connect(greet=False)
    assert peer.refused(op).code == ErrorCode.HELLO_REQUIRED
    assert peer.session.closed == Close.HELLO_REQUIRED


def test_hello_is_said_once() -> None:
    peer = World().connect()
    assert peer.refused(Op.HELLO, hello_body()).code == ErrorCode.BAD_FRAME
    assert peer.session.closed == Close.BAD_FRAME


@pytest.mark.parametrize("op", [0, 8, 10, 126, 127, 255])
def test_an_op_not_served_is_refused_and_the_connection_goes_on(op: int) -> None:
    peer = World().connect()
    assert peer.refused(op, b"\xff" * 20).code == ErrorCode.UNKNOWN_OP
    assert peer.session.closed is None
    assert peer.beat(1).accepted == 1


def test_too_many_keys_are_refused_whole_and_the_connection_goes_on() -> None:
    world = World(keys_per_frame=4)
    peer = world.connect()
    refused = peer.refused(Op.HEARTBEAT, messages.encode_keys_request(1, 0, pack(range(5))))
    assert refused.code == ErrorCode.TOO_MANY_KEYS
    assert world.cores["a"].table.entries == 0
    assert peer.beat(*range(4)).accepted == 4


def test_a_reply_where_a_request_belongs_ends_the_connection() -> None:
    peer = World().connect()
    frame = bytearray(peer.frame(Op.PING, b"\x90"))
    frame[3] |= REPLY
    (reply,) = peer.deliver(bytes(frame))
    assert refusal(reply).code == ErrorCode.BAD_FRAME
    assert peer.session.closed == Close.BAD_FRAME


@pytest.mark.parametrize(
    ("op", "argument"),
    [(Op.HEARTBEAT, 1), (Op.GET, 4), (Op.GET, 2**32 - 1)],
)
def test_arguments_kept_for_later_versions_must_be_zero(op: Op, argument: int) -> None:
    peer = World().connect()
    refused = peer.refused(op, messages.encode_keys_request(1, argument, pack([1])))
    assert refused == (ErrorCode.BAD_FRAME, refused.message, 2)


def test_the_topology_of_the_wire_is_the_nodes_own() -> None:
    world = World("abc", replicas=2)
    fields = messages.decode_map(world.connect().ask(Op.TOPOLOGY).body)
    assert Topology.from_wire(fields) == world.topology


def test_a_draining_node_serves_on_and_says_so() -> None:
    world = World()
    peer = world.connect()
    world.cores["a"].draining = True
    away = peer.session.goaway(world.now_ms, 10_000)
    (frame,) = frames_in(away)
    assert (frame.op, frame.is_reply, frame.request_id) == (Op.GOAWAY, True, 0)
    assert messages.decode_error(frame.body).after_ms == 10_000
    assert peer.beat(1).accepted == 1
    assert peer.vitals().draining


def test_a_draining_node_closes_who_never_said_hello() -> None:
    """Scenario 56: half-open clients do not hold the exit."""
    world = World()
    peer = world.connect(greet=False)
    (frame,) = frames_in(peer.session.goaway(world.now_ms, 10_000))
    assert refusal(frame).code == ErrorCode.DRAINING
    assert peer.session.closed == Close.DRAINED
