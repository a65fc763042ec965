"""Overload: who is refused, when, and that it ends; the decision alone, then as a node's peers see it."""

import pytest
from support.node_driver import ONLINE, Peer, World, pack, refusal

from pulsering import limits, messages
from pulsering.wire import ErrorCode, Frame, Op
from pulsering_server import _datapath_reference
from pulsering_server.overload import Overload

GET_LATE_MS = limits.GET_AGE_MS_MAX + 10
WRITE_LATE_MS = limits.WRITE_AGE_MS_MAX + 10


def pressed() -> Overload:
    overload = Overload()
    overload.note(0, waited=False)
    return overload


# -- the decision --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("age_ms", [0, GET_LATE_MS, WRITE_LATE_MS, 1 << 40])
def test_a_node_with_time_to_spare_refuses_nothing(age_ms: int) -> None:
    overload = Overload()
    overload.note(0, waited=True)
    assert overload.admits_get(age_ms)
    assert overload.admits_write(age_ms)


def test_a_pressed_node_refuses_late_gets_first_and_much_later_heartbeats() -> None:
    overload = pressed()
    assert overload.admits_get(limits.GET_AGE_MS_MAX)
    assert not overload.admits_get(GET_LATE_MS)
    assert overload.admits_write(GET_LATE_MS)
    assert overload.admits_write(limits.WRITE_AGE_MS_MAX)
    assert not overload.admits_write(WRITE_LATE_MS)


def test_pressure_outlasts_a_breath_and_then_ends() -> None:
    overload = pressed()
    overload.note(limits.OVERLOAD_MS - 1, waited=True)
    assert overload.pressed
    overload.note(limits.OVERLOAD_MS, waited=True)
    assert not overload.pressed
    assert overload.admits_get(GET_LATE_MS)


def test_pressure_lasts_while_the_node_never_waits() -> None:
    overload = pressed()
    for now_ms in range(0, 10 * limits.OVERLOAD_MS, limits.LOAD_PROBE_MS):
        overload.note(now_ms, waited=False)
        assert overload.pressed


# -- as peers see it -----------------------------------------------------------------------------------------


@pytest.fixture(params=["native", "python"])
def world(request: pytest.FixtureRequest) -> World:
    world = World()
    world.warm()
    core = world.cores["a"]
    if request.param == "python":
        core.data_path = _datapath_reference.DataPath(core.table, 0, 0, core.busy_body)
    return world


KEYS = messages.encode_keys_request(1, 0, pack([1, 2, 3]))


def ask_late(peer: Peer, op: Op, late_ms: int) -> Frame:
    """One request that was ``late_ms`` under way, or in a queue."""
    data = peer.frame(op, KEYS)
    peer.world.advance(late_ms)
    (reply,) = peer.deliver(data)
    return reply


def test_under_overload_late_gets_are_told_when_to_come_again(world: World) -> None:
    """Scenario 55: the excess is refused at once; what came in time is answered, heartbeats before gets."""
    core, peer = world.cores["a"], world.connect()
    peer.beat(1)
    core.note_load(world.now_ms, waited=False)
    assert peer.is_online(1) == ONLINE
    busy = ask_late(peer, Op.GET, GET_LATE_MS)
    error = messages.decode_error(busy.body)
    assert (error.code, error.after_ms) == (ErrorCode.BUSY, limits.BUSY_AFTER_MS)
    assert "node a is overloaded" in error.message
    assert ask_late(peer, Op.HEARTBEAT, GET_LATE_MS).op == Op.HEARTBEAT
    assert ask_late(peer, Op.LEAVE, GET_LATE_MS).op == Op.LEAVE
    for op in (Op.HEARTBEAT, Op.LEAVE):
        assert refusal(ask_late(peer, op, WRITE_LATE_MS)).code == ErrorCode.BUSY
    assert peer.session.closed is None
    assert core.stats.errors[ErrorCode.BUSY] == 3
    assert core.stats.requests[Op.GET] == 2
    assert core.stats.overloads == 1


def test_a_refused_request_does_nothing(world: World) -> None:
    peer = world.connect()
    world.cores["a"].note_load(world.now_ms, waited=False)
    ask_late(peer, Op.HEARTBEAT, WRITE_LATE_MS)
    stats = world.cores["a"].stats
    assert (sum(stats.heartbeats.values()), stats.keys_read) == (0, 0)
    assert world.cores["a"].table.entries == 0


def test_each_of_a_pile_of_late_requests_gets_its_own_refusal(world: World) -> None:
    peer = world.connect()
    world.cores["a"].note_load(world.now_ms, waited=False)
    data = b"".join(peer.frame(Op.GET, KEYS) for _ in range(1000))
    world.advance(GET_LATE_MS)
    replies = peer.deliver(data)
    assert [reply.request_id for reply in replies] == list(range(2, 1002))
    assert {refusal(reply).code for reply in replies} == {ErrorCode.BUSY}


def test_pings_are_answered_however_late(world: World) -> None:
    """A client that hears nothing would take an overloaded node for a dead one."""
    peer = world.connect()
    world.cores["a"].note_load(world.now_ms, waited=False)
    data = peer.frame(Op.PING, b"\x90")
    world.advance(10 * WRITE_LATE_MS)
    (reply,) = peer.deliver(data)
    assert reply.op == Op.PING


def test_after_overload_all_is_as_before(world: World) -> None:
    """Scenario 55: normal 2 s later."""
    core, peer = world.cores["a"], world.connect()
    core.note_load(world.now_ms, waited=False)
    assert refusal(ask_late(peer, Op.GET, GET_LATE_MS)).code == ErrorCode.BUSY
    world.advance(limits.OVERLOAD_MS)
    core.note_load(world.now_ms, waited=True)
    assert ask_late(peer, Op.GET, WRITE_LATE_MS).op == Op.GET


def test_what_was_sent_while_the_node_stood_still_is_not_refused(world: World) -> None:
    """Scenario 22: after SIGSTOP the node has waited, and the heartbeats in its sockets still count."""
    core, peer = world.cores["a"], world.connect()
    data = peer.frame(Op.HEARTBEAT, KEYS)
    world.stand_still(3_000)
    core.note_load(world.now_ms, waited=True)
    (reply,) = peer.deliver(data)
    assert messages.decode_write_reply(reply.body, 3).accepted == 3
