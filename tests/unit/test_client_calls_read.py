"""Reads, decided without a socket: who is asked, in which order, and what is concluded."""

import pytest
from support.call_driver import Hand, View, topology

from pulsering import Reason, Status
from pulsering._read_call import ReadCall
from pulsering.errors import CallTimeout, NodeBusy, NodeUnavailable, NoNodeReachable, Overloaded
from pulsering.ids import key_of, keys_of, slot_of

OFFLINE, ONLINE, COLD, MOVED = range(4)


def owners(view: View, user: int) -> list[str]:
    return [node.name for node in view.topology.owners_of(slot_of(key_of(user, 0)))]


def read(view: View, *users: int) -> Hand:
    return Hand(ReadCall(view, keys_of(users, 0)))


def verdict(hand: Hand) -> list[tuple[Status, Reason]]:
    assert isinstance(hand.call, ReadCall)
    assert hand.call.done
    return [(Status(s), Reason(r)) for s, r in zip(hand.call.statuses, hand.call.reasons, strict=True)]


ON = (Status.ONLINE, Reason.NONE)
OFF = (Status.OFFLINE, Reason.NONE)


def unknown(reason: Reason) -> tuple[Status, Reason]:
    return Status.UNKNOWN, reason


def test_online_from_the_first_owner_is_proof() -> None:
    view = View()
    first, _ = owners(view, 1)
    hand = read(view, 1)
    assert hand.nodes == [first]
    hand.state(first, ONLINE)
    assert verdict(hand) == [ON]


def test_offline_needs_every_warm_owner() -> None:
    view = View()
    first, second = owners(view, 1)
    hand = read(view, 1)
    hand.state(first, OFFLINE)
    assert not hand.call.done
    assert hand.nodes == [second]
    hand.state(second, OFFLINE)
    assert verdict(hand) == [OFF]


@pytest.mark.parametrize(("one", "other"), [(OFFLINE, ONLINE), (COLD, ONLINE), (MOVED, ONLINE)])
def test_the_second_owner_may_prove_online(one: int, other: int) -> None:
    """Scenario 27: a node that writers cannot reach does not hide who is online."""
    view = View()
    first, second = owners(view, 1)
    hand = read(view, 1)
    hand.state(first, one)
    hand.state(second, other)
    assert verdict(hand) == [ON]


@pytest.mark.parametrize(("one", "other"), [(COLD, OFFLINE), (OFFLINE, COLD)])
def test_a_cold_owner_has_no_say_beside_a_warm_one(one: int, other: int) -> None:
    """A restarted node leaves nobody unknown whom its other owner knows to be offline."""
    view = View()
    first, second = owners(view, 1)
    hand = read(view, 1)
    hand.state(first, one)
    hand.state(second, other)
    assert verdict(hand) == [OFF]


def test_cold_owners_alone_cannot_say_offline() -> None:
    """Scenario 25."""
    view = View()
    first, second = owners(view, 1)
    hand = read(view, 1)
    hand.state(first, COLD)
    hand.state(second, COLD)
    assert verdict(hand) == [unknown(Reason.COLD)]


def test_a_lost_owner_is_replaced_by_the_other() -> None:
    view = View()
    first, second = owners(view, 1)
    hand = read(view, 1)
    hand.fail(first)
    assert hand.nodes == [second]
    hand.state(second, OFFLINE)
    assert verdict(hand) == [OFF]


def test_owners_known_to_be_down_are_asked_last() -> None:
    view = View()
    first, second = owners(view, 1)
    view.dead = {first}
    hand = read(view, 1)
    assert hand.nodes == [second]


def test_a_silent_owner_loses_its_turn_but_its_late_answer_counts() -> None:
    view = View()
    first, second = owners(view, 1)
    hand = read(view, 1)
    hand.wake()
    assert hand.nodes == sorted([first, second])
    assert len(hand.call.take_late()) == 1
    assert hand.call.take_late() == ()
    hand.state(first, ONLINE)
    hand.fail(second)
    assert verdict(hand) == [ON]


def test_a_slow_owner_is_no_unreachable_one() -> None:
    """It may hold the heartbeat that the other missed: waited for, then unknown, never offline."""
    view = View()
    first, second = owners(view, 1)
    hand = read(view, 1)
    hand.wake()
    hand.state(second, OFFLINE)
    assert not hand.call.done
    hand.call.expire(hand.now)
    assert verdict(hand) == [unknown(Reason.UNREACHABLE)]

    hand = read(view, 1)
    hand.wake()
    hand.state(second, OFFLINE)
    hand.state(first, OFFLINE)
    assert verdict(hand) == [OFF]


def test_going_on_without_a_slow_node_costs_a_token_and_waits_without_one() -> None:
    """Scenario 41: slowness must not double the load."""
    view = View()
    first, _ = owners(view, 1)
    while view.budget.take():
        pass
    hand = read(view, 1)
    assert hand.wake() == []
    assert hand.nodes == [first]
    hand.state(first, ONLINE)
    assert verdict(hand) == [ON]


def test_both_owners_gone_is_unknown_with_the_reason_and_never_offline() -> None:
    """Scenario 25."""
    view = View()
    first, second = owners(view, 1)
    view.dead = {first, second}
    hand = read(view, 1)
    hand.fail(hand.nodes[0])
    hand.fail(hand.nodes[0])
    assert verdict(hand) == [unknown(Reason.UNREACHABLE)]
    assert isinstance(hand.call, ReadCall)
    assert hand.call.outage(0.0) is None, "the third node is fine: this is no outage"


def test_no_node_at_all_is_an_outage() -> None:
    view = View()
    view.dead = set("abc")
    hand = read(view, 1)
    hand.fail(hand.nodes[0])
    hand.fail(hand.nodes[0])
    assert isinstance(hand.call, ReadCall)
    assert isinstance(hand.call.outage(0.0), NoNodeReachable)


def test_a_quick_failure_is_repeated_on_the_same_owner_within_attempts() -> None:
    view = View("a", 1)
    hand = read(view, 1)
    for repeat in range(2):
        hand.fail("a")
        assert hand.waiting == {}
        tokens = view.budget.tokens
        hand.wake()
        assert hand.nodes == ["a"], repeat
        assert view.budget.tokens == tokens, "the token was taken when the repeat was decided"
    hand.fail("a")
    assert verdict(hand) == [unknown(Reason.UNREACHABLE)]
    assert len(hand.sent) == view.attempts


def test_attempts_stay_within_the_budget_when_everything_fails() -> None:
    """Scenario 41: at most 1.1 times the calls, after the tokens saved up."""
    view = View("a", 1)
    sent = 0
    saved = view.budget.tokens
    for _ in range(1000):
        view.budget.earn()
        hand = read(view, 1)
        while not hand.call.done:
            if hand.waiting:
                hand.fail("a")
            else:
                hand.wake()
        sent += len(hand.sent)
    assert sent <= 1100 + saved + 1


def test_one_attempt_means_no_repeat() -> None:
    view = View("a", 1)
    view.attempts = 1
    hand = read(view, 1)
    hand.fail("a")
    assert verdict(hand) == [unknown(Reason.UNREACHABLE)]


def test_a_busy_node_is_a_reason_of_its_own() -> None:
    view = View("a", 1)
    view.attempts = 1
    hand = read(view, 1)
    hand.fail("a", NodeBusy("busy", node="a"))
    assert verdict(hand) == [unknown(Reason.OVERLOADED)]
    assert isinstance(hand.call, ReadCall)
    assert isinstance(hand.call.outage(0.0), Overloaded)


@pytest.mark.parametrize(("retry_after", "least"), [(0.0, 0.0), (0.05, 0.05), (1e6, 0.08)])
def test_a_busy_node_is_left_alone_for_as_long_as_it_asks_and_the_patience_lasts(
    retry_after: float, least: float
) -> None:
    view = View("a", 1)
    hand = read(view, 1)
    hand.fail("a", NodeBusy("busy", node="a", retry_after=retry_after))
    assert hand.call.wake_at is not None
    assert least <= hand.call.wake_at - hand.now <= least + 0.01
    hand.wake()
    hand.state("a", ONLINE)
    assert verdict(hand) == [ON]


def test_replicas_1_one_node_down_is_unknown_for_exactly_its_users() -> None:
    """Scenario 29: order and length as asked, duplicates included."""
    view = View("abc", 1)
    view.dead = {"b"}
    users = [*range(200), *range(50)]
    hand = read(view, *users)
    for node in list(hand.nodes):
        if node == "b":
            hand.fail(node)
        else:
            hand.state(node, ONLINE)
    expected = [unknown(Reason.UNREACHABLE) if owners(view, user) == ["b"] else ON for user in users]
    assert verdict(hand) == expected


def test_the_deadline_settles_for_what_is_known() -> None:
    """Scenario 40."""
    view = View("abc", 1)
    users = range(100)
    hand = read(view, *users)
    hand.state("a", ONLINE)
    hand.expire()
    assert verdict(hand) == [
        ON if owners(view, user) == ["a"] else unknown(Reason.UNREACHABLE) for user in users
    ]
    assert len(hand.call.take_late()) == 2


def test_silence_of_the_only_node_is_a_timeout() -> None:
    """Scenario 40."""
    hand = read(View("a", 1), 1)
    hand.wake()
    assert not hand.call.done, "only a late answer can help now"
    hand.expire()
    assert isinstance(hand.call, ReadCall)
    error = hand.call.outage(hand.now)
    assert isinstance(error, CallTimeout)
    assert error.attempts == (("a", "no answer in time"),)


def test_large_batches_are_cut_into_frames() -> None:
    view = View("a", 1)
    view.keys_per_frame = 100
    hand = read(view, *range(250))
    assert [send.count for send in hand.sent] == [100, 100, 50]


def test_a_stale_client_is_right_after_one_refresh() -> None:
    """Scenario 32."""
    view = View("ab", 1)
    [old] = owners(view, 1)
    view.topology = topology("ab", 1)
    hand = read(view, 1)
    hand.state(old, MOVED, epoch=7)
    assert hand.call.wants_topology
    new = "c" if old == "a" else "d"
    view.topology = topology(new, 1, epoch=7)
    hand.refreshed()
    assert hand.nodes == [new]
    hand.state(new, ONLINE, epoch=7)
    assert verdict(hand) == [ON]


def test_what_was_proven_before_a_refresh_is_not_asked_again() -> None:
    """Scenario 32."""
    view = View("ab", 1)
    users = range(40)
    at_a = [user for user in users if owners(view, user) == ["a"]]
    hand = read(view, *users)
    hand.state("a", ONLINE)
    hand.state("b", MOVED, epoch=2)
    view.topology = topology("ac", 1, epoch=2)
    hand.refreshed()
    asked = sum(send.count for send in hand.waiting)
    assert asked == len(users) - len(at_a)
    for node in list(hand.nodes):
        hand.state(node, OFFLINE, epoch=2)
    assert verdict(hand) == [ON if user in at_a else OFF for user in users]


@pytest.mark.parametrize("said", [OFFLINE, ONLINE, COLD, MOVED])
def test_scenario_31_offline_by_an_owner_of_before_does_not_outlive_its_topology(said: int) -> None:
    """Whatever it is that the newer topology is heard of with: since then others were told of who beats."""
    view, after = View("ab", 1), View("bc", 1)
    moves = next(user for user in range(1000) if (owners(view, user), owners(after, user)) == (["a"], ["c"]))
    stays = next(user for user in range(1000) if owners(view, user) == owners(after, user) == ["b"])
    hand = read(view, moves, stays)
    hand.state("a", OFFLINE)
    hand.state("b", said, epoch=2)
    view.topology = topology("bc", 1, epoch=2)
    hand.refreshed()
    for node in list(hand.nodes):
        hand.state(node, ONLINE, epoch=2)
    assert verdict(hand) == [ON, ON]


def test_two_nodes_that_disagree_make_no_loop() -> None:
    """Scenario 32."""
    view = View("ab", 1)
    [old] = owners(view, 1)
    hand = read(view, 1)
    hand.state(old, MOVED, epoch=2)
    view.topology = topology("ab", 1, epoch=2)
    hand.refreshed()
    hand.state(old, MOVED, epoch=3)
    assert verdict(hand) == [unknown(Reason.MOVED)]
    assert len(hand.sent) == 2


def test_moved_without_a_newer_topology_anywhere_is_not_worth_a_refresh() -> None:
    """Scenario 31: an older node that disowns a slot knows nothing that we do not."""
    view = View("ab", 1)
    [old] = owners(view, 1)
    hand = read(view, 1)
    hand.state(old, MOVED, epoch=1)
    assert verdict(hand) == [unknown(Reason.MOVED)]


def test_former_owners_are_asked_for_one_ttl_after_a_change() -> None:
    """Scenario 30: nothing is copied; the last heartbeat may only be where the slot was."""
    view = View("ab", 1)
    view.retired = (topology("ab", 1),)
    view.topology = topology("c", 1, epoch=2)
    [former] = [node.name for node in view.retired[0].owners_of(slot_of(key_of(1, 0)))]
    hand = read(view, 1)
    assert hand.nodes == ["c"]
    hand.state("c", COLD, epoch=2)
    assert hand.nodes == [former]
    hand.state(former, ONLINE)
    assert verdict(hand) == [ON]


def test_an_empty_read_is_done_at_once() -> None:
    hand = read(View())
    assert hand.call.done
    assert verdict(hand) == []


def test_ages_keep_the_youngest() -> None:
    view = View("a", 1)
    call = ReadCall(view, keys_of([1], 0), want_ages=True)
    hand = Hand(call)
    assert hand.to("a").want_ages
    hand.state("a", ONLINE)
    assert call.ages == bytearray([0])


def test_a_failure_says_who_and_why() -> None:
    view = View("a", 1)
    view.attempts = 1
    hand = read(view, 1)
    hand.fail("a", NodeUnavailable("a: connection lost", node="a"))
    assert isinstance(hand.call, ReadCall)
    error = hand.call.outage(0.0)
    assert isinstance(error, NoNodeReachable)
    assert "connection lost" in str(error)
    assert error.retryable


# --- Hedged reads ---


def hedged(view: View, *users: int) -> Hand:
    view.hedge = 0.02
    hand = read(view, *users)
    assert hand.call.wake_at == pytest.approx(hand.now + 0.02)
    return hand


def test_a_hedge_asks_the_next_owner_beside_a_silent_one_and_ends_the_call_with_its_proof() -> None:
    view = View()
    first, second = owners(view, 1)
    hand = hedged(view, 1)
    hand.wake()
    assert hand.nodes == sorted((first, second))
    hand.state(second, ONLINE)
    assert verdict(hand) == [ON]
    assert not hand.call.take_late(), "slower than most is not silent"


def test_a_hedge_that_says_offline_waits_for_the_first_owner() -> None:
    """P3: offline is said only when every owner that can be reached says so."""
    view = View()
    first, second = owners(view, 1)
    hand = hedged(view, 1)
    hand.wake()
    hand.state(second, OFFLINE)
    assert not hand.call.done
    hand.state(first, ONLINE)
    assert verdict(hand) == [ON]


def test_after_a_hedge_the_patience_is_what_it_was() -> None:
    view = View()
    _, second = owners(view, 1)
    hand = hedged(view, 1)
    hand.wake()
    hand.state(second, OFFLINE)
    hand.wake()
    assert hand.now == pytest.approx(100.0 + view.patience)
    assert len(hand.call.take_late()) == 1
    hand.call.expire(hand.now)
    assert verdict(hand) == [unknown(Reason.UNREACHABLE)]


def test_a_call_hedges_once_and_only_with_a_token_of_the_budget() -> None:
    view = View("abc", 3)
    hand = hedged(view, 1)
    tokens = view.budget.tokens
    assert len(hand.wake()) == 1
    assert view.budget.tokens == tokens - 1
    assert hand.call.wake_at == pytest.approx(100.0 + view.patience)

    view.budget.tokens = 0
    hand = hedged(view, 1)
    assert hand.wake() == []
    assert len(hand.nodes) == 1
    assert hand.call.wake_at == pytest.approx(100.0 + view.patience)


def test_there_is_nothing_to_hedge_with_one_owner() -> None:
    view = View("a", 1)
    view.hedge = 0.02
    hand = read(view, 1)
    assert hand.call.wake_at == pytest.approx(hand.now + view.patience)
