"""Durations: buckets that double, and what a node says about the time its frames took."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.node_driver import World, pack

from pulsering import limits, messages
from pulsering.wire import Op
from pulsering_server import _datapath_reference
from pulsering_server.durations import BUCKETS, Durations, quantile

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
    assert durations.total == ns


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1), st.floats(0, 1))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(recorded: list[int], share: float) -> None:
    durations = Durations()
    for ns in recorded:
        durations.record(ns)
    found = quantile(durations.buckets, share)
    assert found is not None
    true = sorted(recorded)[max(0, math.ceil(share * len(recorded)) - 1)]
    assert (1 << true.bit_length()) >> 1 <= found <= 1 << true.bit_length()


def test_quantiles_rise_with_their_share_and_there_is_none_of_nothing() -> None:
    durations = Durations()
    assert quantile(durations.buckets, 0.5) is None
    for ns in (1, 5, 5, 5, 1000):
        durations.record(ns)
    shares = [quantile(durations.buckets, share / 20) or 0 for share in range(21)]
    assert shares == sorted(shares)
    assert shares[-1] == 1024


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
    assert all(durations.total > 0 for durations in again.values())
