"""Round trips node by node: of questions that were due, whoever was slow."""

import random
import struct

import pytest
from support.call_driver import topology

from pulsering.ids import slot_of
from pulsering_server.cli.latency import Round, percentile
from pulsering_server.cli.line import keys_owned


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 1.0), (0.5, 50.0), (0.9, 90.0), (0.99, 99.0), (0.999, 100.0), (1.0, 100.0)]
)
def test_a_percentile_is_the_value_that_so_many_are_not_above(share: float, value: float) -> None:
    assert percentile([float(number) for number in range(1, 101)], share) == value


def test_nothing_has_no_percentile() -> None:
    assert percentile([], 0.5) is None
    assert Round([], 3).document() == {
        "answered": 0,
        "lost": 3,
        **dict.fromkeys(("p50_ms", "p90_ms", "p99_ms", "p999_ms", "min_ms", "max_ms")),
    }


def test_a_page_is_of_users_whose_first_owner_is_the_node() -> None:
    followed = topology("abc", replicas=2)
    for name in "abc":
        keys = struct.unpack("<200Q", keys_owned(followed, name, 200, random.Random(1)))
        assert {followed.owners_of(slot_of(key))[0].name for key in keys} == {name}
        assert len(set(keys)) == 200
