"""Writes and counts, decided without a socket."""

import pytest
from support.call_driver import Hand, View, topology

from pulsering import HeartbeatReport, messages
from pulsering._count_call import CountCall
from pulsering._write_call import WriteCall
from pulsering.errors import CallTimeout, NodeUnavailable, NoNodeReachable, Overloaded
from pulsering.ids import key_of, keys_of, slot_of
from pulsering.wire import Op


def owners(view: View, user: int) -> list[str]:
    return [node.name for node in view.topology.owners_of(slot_of(key_of(user, 0)))]


def write(view: View, *users: int) -> tuple[Hand, WriteCall]:
    call = WriteCall(view, keys_of(users, 0), Op.HEARTBEAT)
    return Hand(call), call


def test_every_owner_gets_every_key() -> None:
    view = View()
    hand, call = write(view, 1)
    assert hand.nodes == sorted(owners(view, 1))
    hand.accept(hand.nodes[0])
    assert not call.done
    hand.accept(hand.nodes[0])
    assert call.report == HeartbeatReport(1, 1, 0, 0, 0, 0)


def test_one_owner_that_took_it_acknowledges_and_the_report_says_reduced() -> None:
    """Scenario 24."""
    view = View()
    first, second = owners(view, 1)
    hand, call = write(view, 1)
    hand.fail(first)
    hand.accept(second)
    assert call.done
    assert call.report == HeartbeatReport(1, 1, 1, 0, 0, 0)
    assert call.report.degraded == 1.0


def test_a_silent_second_owner_costs_the_patience_and_no_more() -> None:
    view = View()
    first, second = owners(view, 1)
    hand, call = write(view, 1)
    hand.accept(first)
    hand.wake()
    assert call.done
    assert hand.now <= 100.0 + view.patience
    assert len(call.take_late()) == 1
    assert hand.nodes == [second]
    assert call.report.reduced == 1


def test_after_the_patience_the_first_acknowledgement_ends_the_call() -> None:
    view = View()
    hand, call = write(view, 1)
    hand.wake()
    assert not call.done
    hand.accept(hand.nodes[0])
    assert call.done
    assert call.report.accepted == 1


def test_a_frame_taken_in_part_acknowledges_nobody() -> None:
    """P2: nobody may be told that a heartbeat arrived which did not."""
    view = View("a", 1)
    hand, call = write(view, 1, 2, 3)
    hand.accept("a", refused=1)
    assert call.done
    assert call.report == HeartbeatReport(3, 0, 0, 0, 1, 0)
    assert call.report.unacknowledged == 3
    assert isinstance(call.failure(0.0), Overloaded)


def test_stale_heartbeats_are_not_acknowledged() -> None:
    """Scenario 16."""
    hand, call = write(View("a", 1), 1)
    hand.accept("a", stale=1)
    assert call.report.accepted == 0
    assert "ttl" in str(call.failure(0.0))


def test_what_nobody_took_is_sent_again_after_a_moment() -> None:
    view = View()
    hand, call = write(view, 1)
    for node in list(hand.nodes):
        hand.fail(node)
    assert not call.done
    hand.wake()
    assert hand.nodes == sorted(owners(view, 1))
    for node in list(hand.nodes):
        hand.accept(node)
    assert call.report == HeartbeatReport(1, 1, 0, 0, 0, 0)


def test_nothing_is_repeated_to_nodes_that_have_long_been_dead() -> None:
    view = View()
    view.dead = set("abc")
    hand, call = write(view, 1)
    for node in list(hand.nodes):
        hand.fail(node)
    assert call.done
    assert isinstance(call.failure(0.0), NoNodeReachable)


def test_two_dead_owners_of_three_nodes_is_not_the_whole_cluster() -> None:
    view = View()
    view.dead = set(owners(view, 1))
    hand, call = write(view, 1)
    for node in list(hand.nodes):
        hand.fail(node)
    error = call.failure(0.0)
    assert isinstance(error, NodeUnavailable)
    assert not isinstance(error, NoNodeReachable)


def test_silence_until_the_deadline_is_a_timeout() -> None:
    """Scenario 40."""
    hand, call = write(View("a", 1), 1)
    hand.expire()
    assert call.done
    assert isinstance(call.failure(hand.now), CallTimeout)
    assert len(call.take_late()) == 1


def test_moved_keys_go_to_their_new_owner_once() -> None:
    """Scenario 32."""
    view = View("ab", 1)
    [old] = owners(view, 1)
    hand, call = write(view, 1)
    hand.accept(old, moved=1, epoch=2)
    assert call.wants_topology
    view.topology = topology("c", 1, epoch=2)
    hand.refreshed()
    assert hand.nodes == ["c"]
    hand.accept("c", epoch=2)
    assert call.report == HeartbeatReport(1, 1, 0, 0, 0, 0)


def test_nodes_that_disagree_end_the_call_with_moved() -> None:
    """Scenario 32."""
    view = View("ab", 1)
    [old] = owners(view, 1)
    hand, call = write(view, 1)
    hand.accept(old, moved=1, epoch=2)
    view.topology = topology("ab", 1, epoch=2)
    hand.refreshed()
    hand.accept(old, moved=1, epoch=2)
    assert call.done
    assert call.report.moved == 1
    assert "own" in str(call.failure(0.0))


def test_grace_travels_with_a_leave() -> None:
    call = WriteCall(View("a", 1), keys_of([1], 0), Op.LEAVE, grace_ms=5000)
    hand = Hand(call)
    request = messages.decode_keys_request(hand.to("a").body)
    assert (request.argument, bytes(request.keys)) == (5000, keys_of([1], 0))


# --- Count ----------------------------------------------------------------------------------------------


def answer(hand: Hand, node: str, online: int, *, warming: int = 0, epoch: int = 1) -> None:
    hand.reply(node, messages.CountReply(epoch, warming, online))


def test_count_is_the_sum_over_all_nodes() -> None:
    call = CountCall(View())
    hand = Hand(call)
    for node, online in zip("abc", (1, 20, 300), strict=True):
        answer(hand, node, online)
    assert call.done
    assert call.count == (321, True, (), ())


def test_count_asks_the_others_again_past_a_node_that_does_not_answer() -> None:
    call = CountCall(View())
    hand = Hand(call)
    answer(hand, "a", 1)
    answer(hand, "b", 1)
    hand.fail("c")
    assert hand.nodes == ["a", "b"]
    assert messages.decode_count_request(hand.to("a").body) == (1, ("c",))
    answer(hand, "a", 2)
    answer(hand, "b", 3)
    assert call.count == (5, True, ("c",), ())


def test_count_passes_over_a_warming_node_where_another_owner_is_warm() -> None:
    """Scenario 26: a node that has just started knows only who beat since."""
    call = CountCall(View())
    hand = Hand(call)
    answer(hand, "a", 0, warming=900)
    answer(hand, "b", 1)
    answer(hand, "c", 1)
    assert hand.nodes == ["b", "c"]
    answer(hand, "b", 2)
    answer(hand, "c", 3)
    assert call.count == (5, True, (), ("a",))


def test_count_is_a_lower_bound_when_a_shard_is_missing() -> None:
    call = CountCall(View("abc", 1))
    hand = Hand(call)
    answer(hand, "a", 1)
    answer(hand, "b", 2)
    hand.wake()
    answer(hand, "a", 1)
    answer(hand, "b", 2)
    assert call.count == (3, False, ("c",), ())


def test_count_of_nodes_with_another_topology_is_not_exact() -> None:
    call = CountCall(View("ab", 1))
    hand = Hand(call)
    answer(hand, "a", 1)
    answer(hand, "b", 2, epoch=2)
    assert call.count == (3, False, (), ())


@pytest.mark.parametrize("how", ["down", "silent"])
def test_count_without_any_answer_is_an_outage(how: str) -> None:
    view = View()
    if how == "down":
        view.dead = set("abc")
    call = CountCall(view)
    hand = Hand(call)
    if how == "silent":
        hand.expire()
    assert call.done
    assert isinstance(call.outage(0.0), NoNodeReachable if how == "down" else CallTimeout)


def test_count_rounds_are_bounded() -> None:
    names = "abcdefgh"
    call = CountCall(View(names, 2))
    hand = Hand(call)
    while not call.done:
        hand.fail(hand.nodes[0])
        for node in list(hand.nodes):
            if node in hand.nodes:
                answer(hand, node, 1)
    assert not call.count.exact
    assert len(hand.sent) < 4 * len(names)


def test_scenario_31_what_a_node_only_gained_does_not_cost_it_the_rest() -> None:
    """Two nodes that stay behind refuse the slots of the one that left, in frames of their own."""
    view = View("bc")
    view.topology = topology("bc", epoch=2)
    view.retired = (topology("bcd"),)
    users = range(60)
    before = [{node.name for node in view.retired[0].owners_of(slot_of(key_of(u, 0)))} for u in users]
    hand = Hand(WriteCall(view, keys_of(users, 0), Op.HEARTBEAT))
    while hand.waiting:
        send, *_ = hand.waiting
        del hand.waiting[send]
        refused = [user for user in send.positions if send.node not in before[user]]
        assert len(refused) in (0, send.count), "never both in one frame"
        reply = messages.WriteReply(1, send.count - len(refused), 0, 0, len(refused))
        hand.call.on_reply(send, reply, hand.now)
    assert isinstance(hand.call, WriteCall)
    assert hand.call.done
    assert hand.call.report.accepted == len(users)
    assert hand.call.report.moved == sum(name not in owners for owners in before for name in "bc")


def writing_through_a_change() -> tuple[Hand, WriteCall, set[str], set[str]]:
    """A user is written as d joins: the call, the owners of now, and who owns the user no more."""
    view = View("bc")
    view.topology, view.retired = topology("bcd", epoch=2), (topology("bc"),)
    user = next(user for user in range(1000) if "d" in owners(view, user))
    hand, call = write(view, user)
    now = set(owners(view, user))
    return hand, call, now, {"b", "c"} - now


def test_scenario_31_a_reader_that_knows_only_the_former_owners_hears_of_a_heartbeat_from_them() -> None:
    hand, call, now, gone = writing_through_a_change()
    assert gone
    assert set(hand.nodes) == now | gone
    for node in list(hand.nodes):
        hand.accept(node)
    assert call.done
    assert call.report == HeartbeatReport(1, 1, 0, 0, 0, 0), "copies are those of the owners of now"


@pytest.mark.parametrize("outcome", ["took it", "has heard of the change", "is lost"])
def test_scenario_31_what_former_owners_say_of_a_write_counts_for_nothing(outcome: str) -> None:
    hand, call, now, gone = writing_through_a_change()
    for node in gone:
        if outcome == "is lost":
            hand.fail(node)
        else:
            hand.accept(node, moved=outcome != "took it", epoch=2)
    assert not call.done
    for node in now:
        hand.accept(node, epoch=2)
    assert call.done
    assert call.report == HeartbeatReport(1, 1, 0, 0, 0, 0)
    assert not call.wants_topology
