"""Durations: buckets that double, and what a node says about the time its frames took."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.node_driver import World, pack

from pulsering import limits, messages
from pulsering.wire import Op
from pulsering_server import _datapath_reference
from pulsering_server.durations import BUCKETS, Durations

KEYS = messages.encode_keys_request(1, 0, pack([1, 2, 3]))


@pytest.mark.parametrize(
    ("ns", "bucket"),
    [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (1023, 10), (1024, 11), (2**30, BUCKETS - 1)],
)
def test_each_bucket_begins_where_the_one_before_ends(ns: int, bucket: int) -> None:
    durations = Durations()
    durations.record(ns)
    assert durations.buckets[bucket] == durations.count == 1


@pytest.mark.parametrize("ns", [2**31, 2**63])
def test_the_last_bucket_takes_whatever_is_longer(ns: int) -> None:
    durations = Durations()
    durations.record(ns)
    assert durations.buckets[-1] == 1
    assert durations.total_ns == ns


@given(st.lists(st.integers(0, 2**30), min_size=1), st.floats(0, 1))
def test_the_bound_holds_for_its_share_and_is_no_more_than_twice_too_large(
    recorded: list[int], share: float
) -> None:
    durations = Durations()
    for ns in recorded:
        durations.record(ns)
    bound = durations.bound_ns(share)
    assert sum(ns < bound for ns in recorded) >= share * len(recorded)
    assert bound == 1 or sum(ns < bound // 2 for ns in recorded) < share * len(recorded)


@pytest.mark.parametrize("path", ["native", "python"])
def test_a_node_counts_how_long_the_frames_took_that_it_did(path: str) -> None:
    """By op; what was refused is not counted, as refusing is quick and would hide what is slow."""
    world = World()
    core = world.cores["a"]
    if path == "python":
        core.data_path = _datapath_reference.DataPath(core.table, 0, 0, core.busy_body)
    peer = world.connect()
    for op, times in ((Op.HEARTBEAT, 3), (Op.GET, 2), (Op.LEAVE, 1)):
        for _ in range(times):
            peer.ask(op, KEYS)
    core.note_load(world.now_ms, waited=False)
    late = peer.frame(Op.GET, KEYS)
    world.advance(limits.GET_AGE_MS_MAX + 10)
    assert peer.deliver(late)[0].op == Op.ERROR
    first = {op: durations.count for op, durations in core.stats.service.items()}
    assert first == {Op.HEARTBEAT: 3, Op.LEAVE: 1, Op.GET: 2}
    again = core.stats.service
    assert {op: durations.count for op, durations in again.items()} == first, "reading counts nothing twice"
    assert all(durations.total_ns > 0 for durations in again.values())
