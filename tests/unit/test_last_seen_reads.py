"""When users were last seen, as it is asked for and answered: session, node, wire, call and snapshot."""

from array import array

import pytest
from support.call_driver import Hand, View
from support.node_driver import TTL_MS, World, hello_body, pack

from pulsering import messages
from pulsering._last_seen import (
    SEEN_NONE,
    WANT_LAST_SEEN,
    GetSeenReply,
    decode_get_seen_reply,
    encode_get_seen_reply,
    packed_seconds,
)
from pulsering._read_call import ReadCall
from pulsering.errors import FrameError
from pulsering.ids import keys_of
from pulsering.snapshot import Snapshot
from pulsering.wire import Op

DAY_MS = 86_400_000
OFFLINE, ONLINE, COLD = 0, 1, 2


def ask(world: World, *keys: int, want: int = WANT_LAST_SEEN, node: str = "a") -> GetSeenReply:
    body = messages.encode_keys_request(1, want, pack(list(keys)))
    reply = world.connect(node).ask(Op.GET, body).body
    return decode_get_seen_reply(reply, len(keys), want_ages=bool(want & messages.WANT_AGES))


def warm() -> World:
    world = World(last_seen_ms=DAY_MS)
    world.advance(TTL_MS + 1_000)
    return world


# --- A node -------------------------------------------------------------------------------------------------


def test_a_node_says_when_those_who_are_offline_were_last_seen() -> None:
    world = warm()
    world.connect().beat(1)
    world.advance(15_000)
    world.connect().beat(2)
    world.advance(10_000)
    reply = ask(world, 1, 2, 3, want=WANT_LAST_SEEN | messages.WANT_AGES)
    assert reply.states == bytes([OFFLINE | ONLINE << 2 | OFFLINE << 4])
    assert list(packed_seconds(reply.last_seen)) == [25, SEEN_NONE, SEEN_NONE]
    assert list(reply.ages) == [255, 40, 255]


def test_it_is_remembered_beyond_the_sweep_and_not_for_longer_than_said() -> None:
    world = warm()
    world.connect().beat(1)
    world.advance(3_600_000, step_ms=1_000)
    while world.cores["a"].table.maintain(world.now_ms, 1 << 20):
        pass
    assert world.cores["a"].table.entries == 0
    assert list(packed_seconds(ask(world, 1).last_seen)) == [3_600]
    world.advance(DAY_MS, step_ms=4_000)
    assert list(packed_seconds(ask(world, 1).last_seen)) == [SEEN_NONE]


def test_who_comes_back_has_no_old_last_seen_and_then_a_new_one() -> None:
    world = warm()
    world.connect().beat(1)
    world.advance(60_000)
    world.connect().beat(1)
    assert list(packed_seconds(ask(world, 1).last_seen)) == [SEEN_NONE]
    world.advance(30_000)
    assert list(packed_seconds(ask(world, 1).last_seen)) == [30]


@pytest.mark.parametrize("grace_ms", [0, 5_000])
def test_who_left_was_last_seen_at_the_last_heartbeat(grace_ms: int) -> None:
    world = warm()
    world.connect().beat(1)
    world.advance(4_000)
    world.connect().leave(1, grace_ms=grace_ms)
    world.advance(6_000)
    assert list(packed_seconds(ask(world, 1).last_seen)) == [10]


def test_a_leave_alone_says_nothing_of_when_somebody_was_there() -> None:
    world = warm()
    world.connect().leave(1)
    world.advance(1_000)
    assert list(packed_seconds(ask(world, 1).last_seen)) == [SEEN_NONE]


def test_a_node_says_for_how_long_it_has_listened() -> None:
    world = warm()
    began = ask(world, 1).listened_s
    assert began == (TTL_MS + 1_000) // 1000
    world.advance(60_000)
    assert ask(world, 1).listened_s == began + 60
    world.advance(TTL_MS, step_ms=TTL_MS)  # it stood still, and may have missed somebody
    assert ask(world, 1).listened_s == 0
    world.restart("a")
    world.advance(5_000)
    assert ask(world, 1).listened_s == 5


def test_a_node_that_restarted_says_unknown_and_makes_nothing_up() -> None:
    world = warm()
    world.connect().beat(1)
    world.advance(TTL_MS + 1_000)
    world.restart("a")
    reply = ask(world, 1)
    assert (reply.states, list(packed_seconds(reply.last_seen)), reply.listened_s) == (b"\2", [SEEN_NONE], 0)


def test_a_node_that_remembers_nobody_says_so_when_greeted_and_knows_nothing() -> None:
    world = World()
    world.advance(TTL_MS + 1_000)
    world.connect().beat(1)
    world.advance(TTL_MS + 1_000)
    reply = ask(world, 1)
    assert (list(packed_seconds(reply.last_seen)), reply.listened_s) == ([SEEN_NONE], 0)
    welcome = world.connect("a", greet=False).ask(Op.HELLO, hello_body()).body
    assert messages.decode_welcome(welcome).last_seen_s == 0
    world = warm()
    welcome = world.connect("a", greet=False).ask(Op.HELLO, hello_body()).body
    assert messages.decode_welcome(welcome).last_seen_s == DAY_MS // 1000


# --- The wire -----------------------------------------------------------------------------------------------

REPLY = GetSeenReply(7, 0, 2, b"\0", b"", array("I", [5, SEEN_NONE]).tobytes(), 600)


def test_the_answer_goes_both_ways() -> None:
    assert decode_get_seen_reply(encode_get_seen_reply(REPLY), 2, want_ages=False) == REPLY


@pytest.mark.parametrize(
    "wrong",
    [
        REPLY._replace(key_count=3),
        REPLY._replace(last_seen=bytes(7)),
        REPLY._replace(last_seen=b""),
        REPLY._replace(states=b""),
        REPLY._replace(ages=b"\0\0"),
        REPLY._replace(listened_s=1 << 32),
    ],
)
def test_an_answer_of_another_length_is_refused(wrong: GetSeenReply) -> None:
    with pytest.raises(FrameError, match="body"):
        decode_get_seen_reply(encode_get_seen_reply(wrong), 2, want_ages=False)


def test_the_ordinary_answer_is_not_taken_for_it() -> None:
    with pytest.raises(FrameError, match="an array of 7 expected"):
        decode_get_seen_reply(messages.encode_get_reply(7, 0, 2, b"\0"), 2, want_ages=False)


# --- A call -------------------------------------------------------------------------------------------------


def read(view: View, *users: int) -> Hand:
    return Hand(ReadCall(view, keys_of(users, 0), want_last_seen=True))


def seen(states: bytes, seconds: list[int], listened_s: int) -> GetSeenReply:
    return GetSeenReply(1, 0, len(seconds), states, b"", array("I", seconds).tobytes(), listened_s)


def snapshot_of(hand: Hand, *users: int) -> Snapshot:
    call = hand.call
    assert isinstance(call, ReadCall)
    assert call.done
    assert call.last_seen is not None
    assert call.unheard is not None
    return Snapshot(users, call.statuses, call.reasons, seen=(call.last_seen, call.unheard))


def test_of_two_owners_the_later_sight_counts_and_the_longer_listening() -> None:
    view = View("ab", 2)
    view.remembering = {"a", "b"}
    hand = read(view, 1)
    first, second = ("a", "b") if hand.nodes == ["a"] else ("b", "a")
    hand.reply(first, seen(b"\0", [500], 10_000))
    hand.reply(second, seen(b"\0", [90], 100))
    snapshot = snapshot_of(hand, 1)
    assert snapshot.last_seen == (90.0,)
    assert snapshot.listened == (10_000.0,)


def test_a_node_that_cannot_remember_is_asked_as_ever() -> None:
    view = View("ab", 2)
    view.remembering = {"b"}
    hand = read(view, 1)
    for _ in range(2):
        [node] = hand.nodes
        assert hand.to(node).want_last_seen == (node == "b")
        if node == "b":
            hand.reply(node, seen(b"\0", [90], 100))
        else:
            hand.state(node, OFFLINE)
    snapshot = snapshot_of(hand, 1)
    assert (snapshot.last_seen, snapshot.listened) == ((90.0,), (100.0,))


def test_nobody_who_is_online_or_unknown_has_a_last_seen() -> None:
    view = View("a", 1)
    view.remembering = {"a"}
    hand = read(view, 1, 2, 3, 4)
    packed = bytes([ONLINE | COLD << 2 | OFFLINE << 4 | OFFLINE << 6])
    hand.reply("a", seen(packed, [5, 6, 7, SEEN_NONE], 60))
    snapshot = snapshot_of(hand, 1, 2, 3, 4)
    assert snapshot.last_seen == (None, None, 7.0, None)
    assert snapshot.listened == (None, None, 60.0, 60.0)


def test_what_was_not_asked_for_is_an_error() -> None:
    with pytest.raises(ValueError, match="last_seen was not asked for"):
        _ = Snapshot((1,), b"\0", b"\0").last_seen
    with pytest.raises(ValueError, match="last_seen was not asked for"):
        _ = Snapshot((1,), b"\0", b"\0").listened
