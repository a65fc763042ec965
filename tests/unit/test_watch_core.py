"""What a watch tells, and what it takes for known: two owners a user, driven frame by frame."""

import pytest
from support.call_driver import topology
from support.watch_owners import COLD, EXPIRED, HEARTBEAT, LEFT, MOVED, OFFLINE, ONLINE, Hand

from pulsering import Cause, Change, Reason, Status, messages
from pulsering._watch_reader import Reader
from pulsering.errors import NodeBusy, NotServed
from pulsering.ids import slot_of

U = Status.UNKNOWN
PULSE_MS = 1000
USER = next(
    user
    for user in range(1000)
    if {node.name for node in topology("bc").owners_of(slot_of(Hand().key(user)))} == {"b", "c"}
    and {node.name for node in topology("bcd").owners_of(slot_of(Hand().key(user)))} == {"b", "d"}
)
"""Somebody who moves from b and c to b and d when d comes."""


def watching(*users: int, **states: int) -> Hand:
    """A watch of users whose first states were read; ``states`` is what owners say of all of them."""
    hand = Hand()
    for name, state in states.items():
        hand[name].states.update(dict.fromkeys(map(hand.key, users), state))
    hand.watch(*users)
    hand.settle()
    hand.read()
    return hand


def test_first_comes_the_state_of_each_user_and_then_each_change_once() -> None:
    hand = Hand()
    hand["a"].states[hand.key(1)] = ONLINE
    hand.watch(1, 2)
    assert hand.read() == []
    hand.settle()
    assert sorted(hand.read()) == [
        Change(1, Status.ONLINE, Reason.NONE, Cause.NONE, 1),
        Change(2, Status.OFFLINE, Reason.NONE, Cause.NONE, 1),
    ]
    for owner in hand.owners.values():
        owner.say(hand.key(2), ONLINE, HEARTBEAT)
    hand.settle()
    assert hand.read() == [Change(2, Status.ONLINE, Reason.NONE, Cause.HEARTBEAT, 2)]
    for owner in hand.owners.values():
        owner.say(hand.key(2), OFFLINE, LEFT)
    hand.settle()
    assert hand.read() == [Change(2, Status.OFFLINE, Reason.NONE, Cause.LEFT, 3)]


def test_ids_come_back_as_the_caller_gave_them() -> None:
    hand = Hand()
    hand.watch("bob", 7)
    hand.settle()
    assert {change.id for change in hand.read()} == {"bob", 7}


def test_online_is_told_by_the_first_owner_and_offline_only_by_the_last() -> None:
    hand = Hand()
    hand["a"].states[hand.key(1)] = ONLINE
    hand.watch(1, 2)
    hand.settle("a")
    assert hand.statuses() == [(1, Status.ONLINE)]
    hand.settle("b")
    assert hand.statuses() == [(2, Status.OFFLINE)]
    hand["b"].say(hand.key(1), ONLINE, HEARTBEAT)
    hand.settle()
    hand["a"].say(hand.key(1), OFFLINE, EXPIRED)
    hand.settle()
    assert hand.read() == []
    hand["b"].say(hand.key(1), OFFLINE, EXPIRED)
    hand.settle()
    assert hand.read() == [Change(1, Status.OFFLINE, Reason.NONE, Cause.EXPIRED, 2)]


def test_a_new_stream_is_asked_first_whether_it_serves_watches() -> None:
    """An older node ends the connection for a request of more than 4 KiB; one without keys it refuses."""
    hand = Hand()
    hand.watch(*range(1000))
    assert [(ask.node, ask.keys) for ask in hand.sent] == [("a", b""), ("b", b"")]
    hand.refuse("a", NotServed("old"))
    assert isinstance(hand.core.refusal, NotServed)
    hand["b"].serve()
    hand.deliver("b")
    assert len(hand.sent[-1].keys) == 8000


def test_users_of_one_turn_share_a_frame_a_node() -> None:
    hand = watching(1)
    sent = len(hand.sent)
    hand.core.watch([hand.key(2)], [2], hand.reader)
    hand.core.watch([hand.key(3)], [3], hand.reader)
    hand.core.unwatch([hand.key(1)], hand.reader)
    hand.send()
    asked = [(ask.node, ask.want, len(ask.keys) // 8) for ask in hand.sent[sent:]]
    assert asked == [("a", 1, 2), ("b", 1, 2), ("a", 0, 1), ("b", 0, 1)]


def test_a_user_of_two_watches_is_asked_for_once_and_until_the_last_one_goes() -> None:
    hand = watching(1, a=ONLINE)
    other = Reader(hand.core.table, 10)
    sent = len(hand.sent)
    hand.watch(1, reader=other)
    assert len(hand.sent) == sent
    assert [change.version for change in hand.read(other)] == [1]
    hand["a"].say(hand.key(1), OFFLINE, EXPIRED)
    hand.settle()
    assert [change.version for change in hand.read(other)] == [2]
    assert [change.version for change in hand.read()] == [2]
    hand.unwatch(1)
    assert len(hand.sent) == sent
    hand["a"].say(hand.key(1), ONLINE, HEARTBEAT)
    hand.settle()
    assert hand.read() == []
    assert [change.version for change in hand.read(other)] == [3]
    hand.core.close(other)
    hand.send()
    assert [ask.want for ask in hand.sent[sent:]] == [messages.STOP_WATCH] * 2
    assert hand.core.idle
    hand.settle()
    assert not hand["a"].told
    assert not hand["b"].told


def test_who_is_watched_anew_has_a_first_state_again() -> None:
    hand = watching(1, 2, a=ONLINE)
    hand.unwatch(1)
    hand.watch(1)
    hand.settle()
    assert hand.read() == [Change(1, Status.ONLINE, Reason.NONE, Cause.NONE, 1)]


def test_a_change_on_the_way_of_somebody_no_longer_watched_is_dropped() -> None:
    hand = watching(1, 2)
    hand["a"].say(hand.key(1), ONLINE, HEARTBEAT)
    hand.unwatch(1)
    hand.settle()
    assert hand.read() == []


# --- Gaps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [OFFLINE, ONLINE])
def test_one_node_lost_changes_nothing_while_the_other_is_warm(state: int) -> None:
    hand = watching(1, a=state, b=state)
    hand.lose("a")
    assert hand.read() == []
    hand["a"].states.clear()
    hand["a"].default = COLD
    hand.connect("a")
    hand.settle()
    assert hand.read() == []


def test_a_gap_is_seen_and_a_fresh_snapshot_follows() -> None:
    hand = watching(1, 2, a=ONLINE, b=ONLINE)
    hand.lose("a")
    hand.lose("b")
    assert {change[1:] for change in hand.read()} == {(U, Reason.UNREACHABLE, Cause.NONE, 2)}
    hand["a"].states[hand.key(2)] = hand["b"].states[hand.key(2)] = OFFLINE
    hand.connect("a")
    hand.connect("b")
    hand.settle()
    assert sorted(hand.read()) == [
        Change(1, Status.ONLINE, Reason.NONE, Cause.NONE, 3),
        Change(2, Status.OFFLINE, Reason.NONE, Cause.NONE, 3),
    ]


def test_a_new_connection_has_no_word_before_its_answer() -> None:
    """Whatever is pushed first on it is the sequel of nothing."""
    hand = watching(1)
    hand.lose("a")
    hand.lose("b")
    hand.read()
    hand.connect("a")
    hand["a"].told.add(hand.key(1))
    hand["a"].say(hand.key(1), ONLINE, HEARTBEAT)
    hand.deliver("a")
    assert hand.read() == []
    hand.settle("a")
    assert hand.statuses() == [(1, Status.ONLINE)]


def test_a_node_that_cannot_be_reached_leaves_the_first_state_to_the_other() -> None:
    hand = Hand()
    hand.lose("a")
    hand.watch(1)
    hand.settle("b")
    assert hand.statuses() == [(1, Status.OFFLINE)]
    hand.lose("b")
    hand.watch(2)
    assert {change[0:3] for change in hand.read()} == {(1, U, Reason.UNREACHABLE), (2, U, Reason.UNREACHABLE)}


def test_cold_owners_alone_are_unknown_until_one_is_warm() -> None:
    hand = watching(1, a=COLD, b=COLD)
    hand["b"].say(hand.key(1), OFFLINE)
    hand.settle()
    assert hand.read() == [Change(1, Status.OFFLINE, Reason.NONE, Cause.NONE, 2)]


# --- Silence ------------------------------------------------------------------------------------------------


def test_a_stream_without_a_pulse_for_three_has_no_word_any_more() -> None:
    hand = watching(1, a=ONLINE, b=OFFLINE)
    for _ in range(2):
        hand.pass_time(PULSE_MS)
        hand["b"].push({})
        hand.settle("b")
    assert hand.read() == []
    hand.pass_time(PULSE_MS)
    assert hand.statuses() == [(1, Status.OFFLINE)]


def test_pulses_keep_a_stream_alive() -> None:
    hand = watching(1, a=ONLINE, b=ONLINE)
    for _ in range(20):
        hand.pass_time(PULSE_MS * 0.99)
        for owner in hand.owners.values():
            owner.push({})
        hand.settle()
    assert hand.read() == []


def test_what_a_stalled_stream_delivers_at_last_shows_nobody_who_has_left() -> None:
    """P1: the changes of before the stall are old; only the answer to a new question counts."""
    hand = watching(1, a=OFFLINE, b=OFFLINE)
    hand["a"].say(hand.key(1), ONLINE, HEARTBEAT)
    hand["a"].say(hand.key(1), OFFLINE, EXPIRED)
    for _ in range(4):
        hand["b"].push({})
        hand.settle("b")
        hand.pass_time(PULSE_MS)
    hand.deliver("a")
    assert hand.read() == []
    hand.settle()
    assert hand.read() == []
    hand["a"].say(hand.key(1), ONLINE, HEARTBEAT)
    hand.settle()
    assert hand.statuses() == [(1, Status.ONLINE)]


def test_frames_that_were_under_way_for_three_pulses_are_no_word_either() -> None:
    """A link with a queue of seconds delivers pulses all the time, and each is old."""
    hand = watching(1, a=OFFLINE, b=OFFLINE)
    hand["a"].say(hand.key(1), ONLINE, HEARTBEAT)
    hand.deliver("a", age_ms=3 * PULSE_MS)
    assert hand.read() == []
    hand["a"].serve()
    hand.deliver("a", age_ms=3 * PULSE_MS)
    assert hand.read() == []
    hand.settle()
    assert hand.statuses() == [(1, Status.ONLINE)]


def test_an_answer_from_before_the_silence_does_not_count() -> None:
    hand = watching(1, a=ONLINE, b=OFFLINE)
    hand.watch(2)
    hand["a"].serve()  # 2 is offline at a, and the answer is stuck
    hand["b"].serve()
    hand.settle("b")
    for _ in range(3):
        hand.pass_time(PULSE_MS)
        hand["b"].push({})
        hand.settle("b")
    hand.read()
    hand["a"].states[hand.key(2)] = ONLINE
    hand.deliver("a")
    assert hand.read() == []
    hand.settle()
    assert sorted(hand.statuses()) == [(1, Status.ONLINE), (2, Status.ONLINE)]


def test_an_owner_that_does_not_answer_makes_the_first_state_unknown_after_a_pulse() -> None:
    """As a read has it: it may know better than the one who answered."""
    hand = Hand()
    hand.watch(1)
    hand.settle("b")
    hand.pass_time(PULSE_MS * 0.9)
    hand["b"].push({})
    hand.settle("b")
    assert hand.read() == []
    hand.pass_time(PULSE_MS * 0.2)
    assert [change[1:3] for change in hand.read()] == [(U, Reason.UNREACHABLE)]
    hand.settle()
    assert hand.statuses() == [(1, Status.OFFLINE)]


def test_pulses_are_no_answer() -> None:
    """A link that is cut one way lets pulses through and no questions: nothing is kept for ever by them."""
    hand = watching(1, a=OFFLINE, b=OFFLINE)
    hand["b"].states[hand.key(2)] = ONLINE
    hand.watch(2)
    hand.settle("b")
    assert hand.statuses() == [(2, Status.ONLINE)]
    hand["b"].say(hand.key(2), OFFLINE, EXPIRED)
    hand.settle("b")
    for _ in range(3):
        hand.pass_time(PULSE_MS / 2)
        hand["a"].push({})
        hand.deliver("a")
        hand["b"].push({})
        hand.settle("b")
    assert [change[1:3] for change in hand.read()] == [(U, Reason.UNREACHABLE)]


def test_a_node_without_watched_users_may_be_silent_for_ever() -> None:
    hand = watching(1)
    hand.unwatch(1)
    hand.settle()
    hand.watch(2)
    hand.settle()
    hand.read()
    hand.unwatch(2)
    hand.settle()
    sent = len(hand.sent)
    for _ in range(20):
        hand.pass_time(PULSE_MS)
    assert len(hand.sent) == sent


# --- Refusals -----------------------------------------------------------------------------------------------


def test_a_busy_node_is_asked_again_when_it_said_and_is_overloaded_until_then() -> None:
    hand = watching(1, a=OFFLINE)
    hand.watch(2)
    hand.refuse("a", NodeBusy("busy", retry_after=0.5))
    hand.settle("b")
    assert [change[1:3] for change in hand.read()] == [(U, Reason.OVERLOADED)]
    hand.pass_time(400)
    assert not hand["a"].asked
    hand.pass_time(200)
    hand.settle()
    assert hand.statuses() == [(2, Status.OFFLINE)]


def test_a_busy_node_that_was_only_probed_is_overloaded_too() -> None:
    hand = Hand()
    hand.watch(1)
    hand.refuse("a", NodeBusy("busy", retry_after=0.5))
    hand.settle("b")
    assert [change[1:3] for change in hand.read()] == [(U, Reason.OVERLOADED)]
    hand.pass_time(600)
    hand.settle()
    assert hand.statuses() == [(1, Status.OFFLINE)]


# --- Topologies ---------------------------------------------------------------------------------------------


def moving(**states: int) -> Hand:
    """A client that watches somebody at b and c, and hears that d takes the place of c."""
    hand = Hand("bc")
    for name in "bc":
        hand[name].states[hand.key(USER)] = states[name]
    hand.watch(USER)
    hand.settle()
    hand.read()
    old = hand.topology
    hand.follow(topology("bcd", epoch=2), old)
    hand["d"].states[hand.key(USER)] = states["d"]
    return hand


def all_follow(hand: Hand) -> None:
    for owner in hand.owners.values():
        owner.epoch = 2
        owner.push({})


def test_a_new_topology_changes_nothing_that_former_owners_know() -> None:
    hand = moving(b=ONLINE, c=ONLINE, d=COLD)
    all_follow(hand)
    hand.settle()
    hand["b"].say(hand.key(USER), OFFLINE, EXPIRED)
    hand.settle()
    assert hand.read() == []
    hand["c"].say(hand.key(USER), MOVED, EXPIRED)
    hand.settle()
    assert hand.statuses() == [(USER, Status.OFFLINE)]


def test_who_only_a_former_owner_heard_of_is_online() -> None:
    hand = moving(b=OFFLINE, c=OFFLINE, d=COLD)
    hand.settle()
    assert hand.read() == []
    hand["c"].say(hand.key(USER), ONLINE, HEARTBEAT)
    hand.settle()
    assert hand.statuses() == [(USER, Status.ONLINE)]


def test_former_owners_count_no_more_once_their_topology_is_over() -> None:
    hand = moving(b=OFFLINE, c=OFFLINE, d=COLD)
    all_follow(hand)
    hand.settle()
    hand["d"].say(hand.key(USER), OFFLINE)
    hand.settle()
    hand.follow(topology("bcd", epoch=2))
    hand.settle()
    assert not hand["c"].told, "it is told that it may stop"
    hand.lose("c")
    assert hand.read() == []


def test_a_node_that_does_not_follow_yet_cannot_deny_what_it_is_about_to_gain() -> None:
    hand = moving(b=OFFLINE, c=OFFLINE, d=MOVED)
    hand.settle()
    assert hand.read() == []


def test_a_node_ahead_of_the_client_is_waited_for() -> None:
    """Until the client follows, which takes a second, what was shown stays shown."""
    hand = watching(1, a=ONLINE, b=ONLINE)
    for owner in hand.owners.values():
        owner.epoch = 2
        owner.say(hand.key(1), MOVED)
    hand.settle()
    assert hand.read() == []
    for _ in range(3):
        hand.pass_time(PULSE_MS)
        for owner in hand.owners.values():
            owner.push({})
        hand.settle()
    assert [change[1:3] for change in hand.read()] == [(U, Reason.MOVED)]


def test_nobody_is_offline_while_an_unknown_topology_is_followed() -> None:
    hand = watching(1)
    hand.follow(hand.topology, unsettled=True)
    assert [change[1:3] for change in hand.read()] == [(U, Reason.MOVED)]
    hand.follow(hand.topology)
    assert hand.statuses() == [(1, Status.OFFLINE)]


# --- Slow readers -------------------------------------------------------------------------------------------


def test_a_slow_reader_gets_the_latest_state_and_a_version_that_says_what_it_missed() -> None:
    hand = watching(1, a=OFFLINE, b=OFFLINE)
    for state in (ONLINE, OFFLINE, ONLINE):
        hand["a"].say(hand.key(1), state, HEARTBEAT if state else EXPIRED)
        hand.settle()
    assert hand.read() == [Change(1, Status.ONLINE, Reason.NONE, Cause.HEARTBEAT, 4)]


def test_the_first_state_has_version_1_however_late_it_is_read() -> None:
    hand = Hand()
    hand.watch(1)
    hand.settle()
    hand["a"].say(hand.key(1), ONLINE, HEARTBEAT)
    hand.settle()
    assert hand.read() == [Change(1, Status.ONLINE, Reason.NONE, Cause.NONE, 1)]
    hand["a"].say(hand.key(1), OFFLINE, LEFT)
    hand.settle()
    assert hand.read() == [Change(1, Status.OFFLINE, Reason.NONE, Cause.LEFT, 2)]


def test_more_unread_changes_than_the_limit_end_the_watch_but_first_states_do_not() -> None:
    hand = Hand(limit=3)
    hand.watch(*range(10))
    hand.settle()
    assert hand.reader.waiting == 10
    hand.read()
    for user in range(4):
        hand["a"].say(hand.key(user), ONLINE, HEARTBEAT)
    hand.settle()
    assert hand.reader.overflowed == 4
    assert hand.core.idle
    hand.send()
    hand.settle()
    assert not hand["a"].told
