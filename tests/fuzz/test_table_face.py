"""Whatever is passed to the table's face, it answers or raises one of the allowed exceptions."""

import contextlib
from array import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsering_server import _table, _table_reference

ALLOWED = (TypeError, ValueError, BufferError)
KINDS: list[Any] = [_table.Table, _table_reference.Table]
words = np.arange(64, dtype=np.uint64)
grid = np.zeros((4, 4), dtype=np.uint64)
anything: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.text(max_size=9),
    st.floats(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.binary(max_size=80),
    st.binary(max_size=80).map(bytearray),
    st.binary(max_size=80).map(lambda data: memoryview(data)),
    st.lists(st.integers(), max_size=3),
    st.sampled_from(
        [words, words[::2], words[::-1], grid, grid.T, grid[:, 1], array("d", [1.0]), array("H", [1])]
    ),
    st.integers(0, 15).map(lambda at: memoryview(bytes(range(256)))[at : at + 64]),
    st.sampled_from([memoryview(bytes(64))[::2], words.astype(">u8"), object()]),
)
calls = st.sampled_from(
    ["heartbeat", "leave", "get", "get_ages", "set_slots", "count", "advance", "maintain"]
)


@pytest.mark.parametrize("kind", KINDS)
@given(name=calls, arguments=st.lists(anything, max_size=4))
def test_any_arguments_answer_or_raise(kind: Any, name: str, arguments: list[Any]) -> None:
    table = kind(ttl_ms=20_000, _lines=2)
    with contextlib.suppress(*ALLOWED):
        getattr(table, name)(*arguments)


@given(keys=anything, now=anything, age=anything)
def test_both_take_and_refuse_the_same(keys: Any, now: Any, age: Any) -> None:
    outcomes = []
    for kind in KINDS:
        try:
            outcomes.append(kind(ttl_ms=20_000).heartbeat(keys, now, age))
        except ALLOWED as error:
            outcomes.append(f"{type(error).__name__}: {error}")
    assert outcomes[0] == outcomes[1]


@given(options=st.dictionaries(st.sampled_from(["ttl_ms", "ticks_per_ttl", "now_ms", "users_max"]), anything))
def test_any_options_make_a_table_or_raise(options: dict[str, Any]) -> None:
    for kind in KINDS:
        with contextlib.suppress(*ALLOWED):
            kind(**options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shift", range(8))
def test_any_alignment_reads_the_same(kind: Any, shift: int) -> None:
    keys = array("Q", [1, 2**63, 2**64 - 1]).tobytes()
    table = kind(ttl_ms=20_000)
    assert table.heartbeat(memoryview(bytes(shift) + keys)[shift:], 0).accepted == 3
    assert table.get(keys, 0) == b"\x15"
