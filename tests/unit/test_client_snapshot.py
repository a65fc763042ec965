"""Snapshots answer in the order and length of the question."""

from array import array

import pytest

from pulsering import Reason, Snapshot, Status
from pulsering.snapshot import kept_ids

IDS = (1, "two", 1, b"four", 5)
STATUSES = bytes([Status.ONLINE, Status.OFFLINE, Status.ONLINE, Status.UNKNOWN, Status.OFFLINE])
REASONS = bytes([0, 0, 0, Reason.COLD, 0])


def snapshot() -> Snapshot:
    return Snapshot(IDS, STATUSES, REASONS, bytearray([0, 255, 4, 255, 255]), 0.25)


def test_snapshot_is_a_sequence_in_the_order_asked_duplicates_included() -> None:
    """Scenario 29."""
    answer = snapshot()
    assert len(answer) == 5
    assert answer[0] is Status.ONLINE
    assert answer[-2] is Status.UNKNOWN
    assert list(answer) == [Status.ONLINE, Status.OFFLINE, Status.ONLINE, Status.UNKNOWN, Status.OFFLINE]
    assert answer[1:3] == (Status.OFFLINE, Status.ONLINE)
    assert Status.UNKNOWN in answer
    with pytest.raises(IndexError):
        answer[5]


def test_views_hold_the_callers_ids() -> None:
    answer = snapshot()
    assert answer.online == (1, 1)
    assert answer.offline == ("two", 5)
    assert answer.unknown == (b"four",)
    assert answer.counts == {Status.OFFLINE: 2, Status.ONLINE: 2, Status.UNKNOWN: 1}


def test_reasons_stand_beside_the_unknown() -> None:
    answer = snapshot()
    assert answer.reasons[3] is Reason.COLD
    assert answer.reasons[0] is Reason.NONE
    assert answer.unknown_reasons == {Reason.COLD: 1}


def test_ages_are_seconds_and_only_there_if_asked_for() -> None:
    assert snapshot().ages == (0.0, None, 1.0, None, None)
    with pytest.raises(ValueError, match="ages=True"):
        _ = Snapshot((1,), b"\1", b"\0").ages


def test_repr_counts_and_does_not_list_users() -> None:
    assert repr(snapshot()) == "<Snapshot of 5: 2 online, 2 offline, 1 unknown>"


def test_snapshots_compare_by_what_they_say() -> None:
    assert snapshot() == snapshot()
    assert snapshot() != Snapshot((1, 2), b"\0\0", b"\0\0")
    assert snapshot() != list(snapshot())


def test_numpy_sees_the_statuses_without_a_copy() -> None:
    numpy = pytest.importorskip("numpy")
    view = numpy.asarray(snapshot())
    assert view.dtype == numpy.uint8
    assert view.tolist() == list(STATUSES)
    assert not view.flags.writeable
    assert numpy.array(snapshot(), dtype="int64").tolist() == list(STATUSES)


def test_kept_ids_do_not_change_with_the_callers_list() -> None:
    ids = [1, 2]
    kept = kept_ids(ids)
    ids[0] = 9
    assert list(kept) == [1, 2]
    numbers = array("Q", [1, 2])
    kept = kept_ids(numbers)
    numbers[0] = 9
    assert list(kept) == [1, 2]
    assert kept_ids(range(3)) == (0, 1, 2)
    assert kept_ids(str(number) for number in range(2)) == ("0", "1")
