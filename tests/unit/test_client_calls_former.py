"""Reads around a change of topology, and the strict ones: whose word it takes to call somebody offline."""

import itertools

import pytest
from support.call_driver import Hand, View, topology

from pulsering import Reason, Status, routing
from pulsering._read_call import ReadCall
from pulsering._retired import RETIRED_MAX, Retired
from pulsering.errors import NodeBusy
from pulsering.ids import key_of, keys_of, slot_of
from pulsering.routing import Evidence, both, reasons_of, statuses_of

OFFLINE, ONLINE, COLD, MOVED = range(4)
ON = (Status.ONLINE, Reason.NONE)
OFF = (Status.OFFLINE, Reason.NONE)
USER = next(
    user
    for user in itertools.count()
    if {node.name for node in topology("bc").owners_of(slot_of(key_of(user, 0)))} == {"b", "c"}
    and {node.name for node in topology("bcd").owners_of(slot_of(key_of(user, 0)))} == {"b", "d"}
)
"""Somebody who moves from b and c to b and d when d comes."""


def unknown(reason: Reason) -> tuple[Status, Reason]:
    return Status.UNKNOWN, reason


def read(view: View, *users: int, strict: bool = False) -> Hand:
    return Hand(ReadCall(view, keys_of(users, 0), strict=strict))


def verdict(hand: Hand) -> tuple[Status, Reason]:
    assert isinstance(hand.call, ReadCall)
    assert hand.call.done
    return Status(hand.call.statuses[0]), Reason(hand.call.reasons[0])


def changing() -> View:
    """A client that has just heard that d joined b and c."""
    view = View("bcd")
    view.topology = topology("bcd", epoch=2)
    view.retired = (topology("bc"),)
    return view


def answer(hand: Hand, **states: int) -> None:
    """Let whoever is asked answer with its state at epoch 2, until the call is done."""
    while not hand.call.done:
        hand.state(hand.nodes[0], states[hand.nodes[0]], epoch=2)


# --- Former owners ------------------------------------------------------------------------------------------


def test_scenario_30_who_only_a_former_owner_heard_of_is_online() -> None:
    hand = read(changing(), USER)
    answer(hand, b=OFFLINE, d=COLD, c=ONLINE)
    assert verdict(hand) == ON


def test_scenario_30_offline_needs_both_the_owners_of_now_and_those_of_before() -> None:
    hand = read(changing(), USER)
    answer(hand, b=OFFLINE, d=OFFLINE, c=MOVED)
    assert verdict(hand) == OFF
    assert sorted(send.node for send in hand.sent) == ["b", "b", "c", "d"]


@pytest.mark.parametrize("asked_before", ["b", "c"])
def test_former_owners_that_cannot_be_reached_leave_the_others_word(asked_before: str) -> None:
    """A dead node that is taken out of the topology makes nobody unknown: its other owner knows."""
    hand = read(changing(), USER)
    while not hand.call.done:
        node = hand.nodes[0]
        former = len(hand.sent) > 2
        if former and node != asked_before:
            hand.fail(node)
        else:
            hand.state(node, MOVED if node == "c" else OFFLINE, epoch=2)
    assert verdict(hand) == OFF


def test_no_former_owner_at_all_is_unknown_though_the_new_one_is_warm() -> None:
    """P3: whom the old topology's followers told of, nobody could say."""
    hand = read(changing(), USER)
    while not hand.call.done:
        node = hand.nodes[0]
        if node == "d":
            hand.state(node, OFFLINE, epoch=2)
        else:
            hand.fail(node)
    assert verdict(hand) == unknown(Reason.UNREACHABLE)


def test_a_former_owner_that_is_cold_has_no_say() -> None:
    """It disowns the slot, and cannot know what it missed while it was its owner."""
    hand = read(changing(), USER)
    while not hand.call.done:
        node = hand.nodes[0]
        if node == "d":
            hand.state(node, OFFLINE, epoch=2)
        elif node == "b":
            hand.fail(node)
        else:
            hand.state(node, MOVED, epoch=2, warming_ms=3_000)
    assert verdict(hand) == unknown(Reason.COLD)


def test_slots_that_stayed_are_asked_once() -> None:
    stays = next(
        user
        for user in range(1000)
        if topology("bcd").owners_of(slot_of(key_of(user, 0)))
        == topology("bc").owners_of(slot_of(key_of(user, 0)))
    )
    hand = read(changing(), stays)
    answer(hand, b=OFFLINE, c=OFFLINE, d=OFFLINE)
    assert verdict(hand) == OFF
    assert len(hand.sent) == 2


def test_scenario_31_a_node_that_does_not_know_yet_that_it_owns_a_slot_has_no_say() -> None:
    """It follows the older topology, so its word is that of a cold owner: the others decide."""
    hand = read(changing(), USER)
    while not hand.call.done:
        node = hand.nodes[0]
        hand.state(node, {"b": OFFLINE, "c": OFFLINE, "d": MOVED}[node], epoch=1)
    assert verdict(hand) == OFF


def test_scenario_31_while_an_unknown_topology_is_about_nobody_is_called_offline() -> None:
    view = View("a", 1)
    view.unsettled = True
    hand = read(view, 1)
    hand.state("a", OFFLINE)
    assert verdict(hand) == unknown(Reason.MOVED)

    hand = read(view, 1)
    hand.state("a", ONLINE)
    assert verdict(hand) == ON


def test_a_deadline_before_all_owners_were_asked_is_not_offline() -> None:
    """P3: the second owner was there to be asked, and may know better."""
    view = View("abc", 2)
    users = range(60)
    hand = read(view, *users)
    silent, *others = hand.nodes
    for node in others:
        hand.state(node, OFFLINE)
    hand.expire()
    assert isinstance(hand.call, ReadCall)
    assert set(hand.call.statuses) == {Status.UNKNOWN}
    assert set(hand.call.reasons) == {Reason.UNREACHABLE}
    assert silent not in others


def test_at_a_deadline_owners_that_are_down_do_not_count_as_unasked() -> None:
    view = View("abc", 3)
    view.dead = {"b", "c"}
    hand = read(view, 1)
    while hand.nodes and hand.nodes != ["a"]:
        hand.fail(hand.nodes[0])
    hand.state("a", OFFLINE)
    while not hand.call.done:
        hand.fail(hand.nodes[0])
    assert verdict(hand) == OFF


# --- Two answers in one -------------------------------------------------------------------------------------

ASKED = 64


def test_offline_is_what_present_and_former_owners_both_say() -> None:
    def of(evidence: int) -> tuple[Status, Reason]:
        return Status(statuses_of(bytes([evidence]))[0]), Reason(reasons_of(bytes([evidence]))[0])

    for now, then in itertools.product(range(256), [*range(64), 128, 129]):
        together = of(both(bytes([now]), bytes([then | ASKED]))[0])
        if (now | then) & Evidence.ONLINE:
            assert together == ON
        else:
            assert together == of(then if of(now) == OFF else now)
        assert of(both(bytes([now]), bytes(1))[0]) == of(now), "nobody was asked"


# --- Strict reads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("other", ["unreachable", "cold", "offline", "online"])
def test_a_strict_read_says_offline_only_if_every_owner_does(strict: bool, other: str) -> None:
    view = View()
    hand = read(view, 1, strict=strict)
    hand.state(hand.nodes[0], OFFLINE)
    if other == "unreachable":
        hand.fail(hand.nodes[0])
    else:
        hand.state(hand.nodes[0], {"cold": COLD, "offline": OFFLINE, "online": ONLINE}[other])
    lax = ON if other == "online" else OFF
    strictly = {"unreachable": unknown(Reason.UNREACHABLE), "cold": unknown(Reason.COLD)}
    assert verdict(hand) == (strictly.get(other, lax) if strict else lax)


def test_a_strict_read_wants_every_former_owner_too() -> None:
    hand = read(changing(), USER, strict=True)
    while not hand.call.done:
        node = hand.nodes[0]
        if node == "c":
            hand.fail(node)
        else:
            hand.state(node, OFFLINE, epoch=2)
    assert verdict(hand) == unknown(Reason.UNREACHABLE)


def test_strictness_takes_nothing_from_a_proof() -> None:
    for bits in range(256):
        strictly = Status(statuses_of(bytes([bits]).translate(routing.STRICT))[0])
        lax = Status(statuses_of(bytes([bits]))[0])
        assert strictly is lax or (lax is Status.OFFLINE and strictly is Status.UNKNOWN)


# --- When to ask again --------------------------------------------------------------------------------------


def test_an_unknown_of_cold_owners_tells_when_the_first_will_know() -> None:
    hand = read(View(), 1)
    hand.state(hand.nodes[0], COLD, warming_ms=9_000)
    hand.state(hand.nodes[0], COLD, warming_ms=4_000)
    assert verdict(hand) == unknown(Reason.COLD)
    assert isinstance(hand.call, ReadCall)
    assert hand.call.retry_after() == [4.0]


def test_a_busy_node_tells_when_to_ask_again() -> None:
    view = View("a", 1)
    view.attempts = 1
    hand = read(view, 1)
    hand.fail("a", NodeBusy("busy", node="a", retry_after=0.25))
    assert isinstance(hand.call, ReadCall)
    assert hand.call.retry_after() == [0.25]


def test_what_is_known_needs_no_asking_again() -> None:
    """The node is warming, but these two are known; the third lost its connection and nobody said when."""
    view = View("a", 1)
    view.attempts = 1
    hand = read(view, 1, 2)
    hand.state("a", ONLINE, COLD, warming_ms=5_000)
    assert isinstance(hand.call, ReadCall)
    assert hand.call.retry_after() == [None, 5.0]
    hand = read(view, 1)
    hand.fail("a")
    assert isinstance(hand.call, ReadCall)
    assert hand.call.retry_after() == [None]


# --- For how long -------------------------------------------------------------------------------------------


def test_a_topology_is_retired_until_one_ttl_after_the_last_word_from_who_follows_it() -> None:
    """Scenario 31: half the nodes have the new file, half the old, for a minute."""
    retired, old = Retired(), topology("ab")
    retired.retire(old, 100.0, 20.25)
    assert retired.active(120.0) == (old,)
    for now in range(100, 160):
        assert not retired.heard(1, float(now), 20.25)
    assert retired.active(179.0) == (old,)
    assert retired.ends_at(170.0) == 159 + 20.25
    assert retired.active(180.0) == ()
    assert not retired.unsettled(180.0)


def test_an_epoch_that_was_only_heard_of_is_unsettled_until_it_is_known_or_over() -> None:
    retired = Retired()
    assert retired.heard(1, 100.0, 20.25)
    assert retired.unsettled(110.0)
    assert retired.active(110.0) == ()
    retired.learn(topology("xyz", epoch=5))
    assert retired.unsettled(110.0), "another epoch than that"
    retired.learn(topology("ab"))
    assert not retired.unsettled(110.0)
    assert retired.active(110.0) == (topology("ab"),)
    assert retired.heard(2, 111.0, 20.25)
    assert retired.unsettled(131.0)
    assert not retired.unsettled(131.5)


def test_an_old_topology_of_other_keys_is_no_reason_to_doubt() -> None:
    """Nobody can be asked for them: a node that was started with such a file is of no use, and of no harm."""
    retired = Retired()
    retired.heard(1, 100.0, 20.25)
    retired.dismiss(2)
    assert retired.unsettled(100.0)
    retired.dismiss(1)
    assert not retired.heard(1, 110.0, 20.25)
    assert not retired.unsettled(110.0)
    assert retired.active(110.0) == ()


def test_a_node_that_invents_epochs_costs_nothing_but_certainty() -> None:
    """P5: a few are kept, whatever is said, and more of them are the same as an unknown one."""
    retired = Retired()
    for epoch in range(1, 10_000):
        retired.heard(epoch, 100.0, 20.25)
        retired.learn(topology("ab", epoch=epoch))
    assert len(retired.active(100.0)) == RETIRED_MAX
    assert retired.unsettled(100.0)
    assert not retired.unsettled(121.0)
