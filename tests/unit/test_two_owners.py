"""A client's decisions and the nodes' answers together, on one virtual clock: what a caller is told."""

import pytest
from support.call_driver import Hand, View
from support.node_driver import TICK_MS, TTL_MS, Peer, World

from pulsering import Status, limits, messages
from pulsering._read_call import ReadCall
from pulsering.errors import NodeUnavailable
from pulsering.wire import Op
from pulsering_server.stats import Close

KEY = 42


class Pair:
    """Two owners of every user, and the connections to them; ``cut`` names those that cannot be reached."""

    def __init__(self) -> None:
        self.world = World("ab", replicas=2, now_ms=0)
        self.world.warm()
        self.cut: set[str] = set()
        self.start_ms = self.world.now_ms
        self.peers = {name: self.world.connect(name) for name in "ab"}

    def at(self, seconds: float) -> None:
        """Let time pass until so long after the start."""
        self.world.advance(round(seconds * 1000) - (self.world.now_ms - self.start_ms))

    def beat(self) -> None:
        """A heartbeat to whoever can be reached."""
        for name in self.peers.keys() - self.cut:
            self.peers[name].beat(KEY)

    def status(self, *, first: str, strict: bool = False) -> Status:
        """What a read says that begins with one of the two."""
        view = View("ab")
        view.topology = self.world.topology
        view.down = {"ab"[first == "a"]}  # known to be down is asked last
        hand = Hand(ReadCall(view, KEY.to_bytes(8, "little"), strict=strict))
        view.down = set()
        while not hand.call.done:
            [node] = hand.nodes
            if node in self.cut:
                hand.fail(node, NodeUnavailable("cut off", node=node))
            else:
                hand.reply(node, _answer(self.peers[node], hand.to(node).body))
        assert isinstance(hand.call, ReadCall)
        return Status(hand.call.statuses[0])


def _answer(peer: Peer, body: bytes) -> messages.GetReply:
    return messages.decode_get_reply(peer.ask(Op.GET, body).body, 1, want_ages=False)


@pytest.mark.parametrize("first", ["a", "b"])
def test_scenario_28_what_a_node_missed_while_it_was_cut_off_its_other_owner_knows(first: str) -> None:
    """u@0 at both; a is cut off; u beats at b until 30; a returns at 35: ON@36, OFF@50.25 on every path."""
    pair = Pair()
    pair.beat()
    pair.cut = {"a"}
    for second in (10, 20, 30):
        pair.at(second)
        pair.beat()
    pair.at(35)
    pair.cut = set()
    pair.at(36)
    assert pair.status(first=first) is Status.ONLINE
    pair.at(50)
    assert pair.status(first=first) is Status.ONLINE
    pair.at(50.25)
    assert pair.status(first=first) is Status.OFFLINE


@pytest.mark.parametrize("first", ["a", "b"])
def test_scenario_27_a_node_that_writers_cannot_reach_hides_nobody(first: str) -> None:
    pair = Pair()
    pair.cut = {"a"}
    pair.beat()
    pair.at(10)
    pair.beat()
    pair.cut = set()
    pair.at(25)
    assert pair.status(first=first) is Status.ONLINE


@pytest.mark.parametrize("first", ["a", "b"])
def test_two_faults_are_more_than_two_owners_cover_and_a_strict_read_says_so(first: str) -> None:
    """The writer cannot reach a, the reader cannot reach b: a knows no better than that nobody is there."""
    pair = Pair()
    pair.cut = {"a"}
    pair.beat()
    pair.cut = {"b"}
    assert pair.status(first=first) is Status.OFFLINE
    assert pair.status(first=first, strict=True) is Status.UNKNOWN


@pytest.mark.parametrize("first", ["a", "b"])
@pytest.mark.parametrize("strict", [False, True])
def test_scenario_19_a_suspect_node_changes_no_answer_of_a_pair(first: str, strict: bool) -> None:
    """Its wall clock leapt: it forgets, the other owner answers; only a strict read loses certainty."""
    pair = Pair()
    pair.world.cores["a"].start_over("the wall clock leapt", pair.world.now_ms)
    assert pair.status(first=first, strict=strict) is (Status.UNKNOWN if strict else Status.OFFLINE)
    pair.cut = {"a"}
    pair.beat()
    pair.cut = set()
    assert pair.status(first=first, strict=strict) is Status.ONLINE


def test_scenario_12_a_reporter_whose_link_goes_dead_takes_its_users_along_in_time() -> None:
    """No goodbye, no FIN: OFF within ttl and a tick of the last beat, and its connection is let go."""
    world = World(now_ms=0)
    world.warm()
    reporter, reader = world.connect(), world.connect()
    reporter.beat(KEY)
    world.advance(TTL_MS)
    assert reader.is_online(KEY) == "ON"
    world.advance(TICK_MS)
    assert reader.is_online(KEY) == "OFF"
    world.advance(limits.IDLE_TIMEOUT_MS - TTL_MS - TICK_MS)
    assert reporter.session.expire(world.now_ms) == b""
    assert reporter.session.closed is Close.IDLE
