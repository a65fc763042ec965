"""Kernel and twin driven side by side: they answer the same, and the kernel equals a recount."""

import random
from array import array
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pulsering_server import _table, _table_reference
from pulsering_server.table import NOT_OWNED, SLOTS

SPREAD = 0x9E3779B97F4A7C15
KEYS = (
    [i * SPREAD % 2**64 for i in range(100, 600)]
    + list(range(100))
    + [i << 22 for i in range(1, 100)]
    + [2**64 - 1]
)
batches = st.one_of(
    st.lists(st.sampled_from(KEYS), max_size=20),
    st.tuples(st.integers(0, 450), st.integers(1, 300)).map(lambda span: KEYS[span[0] : span[0] + span[1]]),
)
steps = st.one_of(st.just(0), st.integers(1, 60), st.integers(1, 1_500), st.integers(1, 10**6))
long_steps = st.integers(1, 10**8)
ages = st.one_of(st.just(0), st.integers(0, 40), st.integers(0, 2_500))


def packed(keys: list[int]) -> bytes:
    return array("Q", keys).tobytes()


class Twins(RuleBasedStateMachine):
    """One second of ttl, so that small steps of time reach every edge of it."""

    @initialize(
        ticks=st.integers(20, 80),
        users_max=st.sampled_from([0, 0, 150]),
        lines=st.sampled_from([2, 5, 64]),
        now=st.integers(0, 10**6),
        last_seen_ms=st.sampled_from([0, 60_000, 7 * 86_400_000]),
    )
    def start(self, ticks: int, users_max: int, lines: int, now: int, last_seen_ms: int) -> None:
        options = {"ttl_ms": 1_000, "ticks_per_ttl": ticks, "users_max": users_max, "now_ms": now}
        options["last_seen_ms"] = last_seen_ms
        self.kernel = _table.Table(**options, _lines=lines)
        self.twin = _table_reference.Table(**options)
        self.now = now

    @rule(keys=batches, step=steps, age=ages)
    def heartbeat(self, keys: list[int], step: int, age: int) -> None:
        self.now += step
        b = packed(keys)
        assert self.kernel.heartbeat(b, self.now, age) == self.twin.heartbeat(b, self.now, age)

    @rule(keys=batches, step=steps, age=ages, grace=st.one_of(st.just(0), st.integers(0, 2_000)))
    def leave(self, keys: list[int], step: int, age: int, grace: int) -> None:
        self.now += step
        b = packed(keys)
        assert self.kernel.leave(b, self.now, age, grace) == self.twin.leave(b, self.now, age, grace)

    @rule(
        group=st.integers(0, 3),
        modulus=st.integers(1, 5),
        hole=st.integers(0, 7),
        absent=st.sampled_from(b"\0\2\3"),
    )
    def set_slots(self, group: int, modulus: int, hole: int, absent: int) -> None:
        groups = array(
            "H", [NOT_OWNED if s % 8 == hole else group + s % modulus for s in range(SLOTS)]
        ).tobytes()
        states = bytes([absent, 0]) * (SLOTS // 2)
        self.kernel.set_slots(groups, states, self.now)
        self.twin.set_slots(groups, states, self.now)

    @rule(step=steps, lines=st.one_of(st.integers(0, 100), st.just(10**6)))
    def maintain(self, step: int, lines: int) -> None:
        self.now += step
        self.kernel.maintain(self.now, lines)
        self.twin.maintain(self.now, lines)

    @rule(step=long_steps)
    def long_pause(self, step: int) -> None:
        """A day and more, in which nobody sweeps."""
        self.now += step
        self.kernel.advance(self.now)
        self.twin.advance(self.now)

    @rule()
    def populate(self) -> None:
        while self.kernel.populate_due:
            self.kernel.populate()
        assert not self.twin.populate_due

    @rule(back=st.integers(0, 5_000))
    def time_never_goes_back(self, back: int) -> None:
        now = max(0, self.now - back)
        assert self.kernel.count(now) == self.twin.count(now)

    @invariant()
    def same_answers(self) -> None:
        if not hasattr(self, "kernel"):
            return
        b = packed(KEYS)
        states = self.kernel.get(b, self.now)
        assert states == self.twin.get(b, self.now)
        assert self.kernel.get_ages(b, self.now) == self.twin.get_ages(b, self.now)
        if self.kernel.last_seen is not None:
            assert self.kernel.get_last_seen(b, self.now) == self.twin.get_last_seen(b, self.now)
            self.kernel.last_seen._verify()  # type: ignore[attr-defined]  # not part of the face
        counts = self.kernel.count(self.now)
        assert counts == self.twin.count(self.now)
        self.kernel._verify()  # type: ignore[attr-defined]  # not part of the face
        # Scenario 10: the count is the number of users who read as online.
        online = sum((byte >> shift & 3) == 1 for byte in states for shift in (0, 2, 4, 6))
        assert online == sum(counts) == self.kernel.online == self.twin.online


TestTwins = pytest.mark.timeout(300)(Twins.TestCase)
TestTwins.settings = settings(max_examples=25, stateful_step_count=25)


@pytest.mark.parametrize("seed", range(2))
def test_a_change_of_layout_under_way_loses_and_invents_nobody(seed: int) -> None:
    """From 2^16 lines on a line holds nine users instead of six: grow and shrink over that, half-way too."""
    dice = random.Random(seed)
    keys = [dice.getrandbits(64) for _ in range(500_000)] + [0]
    kernel, twin = _table.Table(ttl_ms=1_000, _lines=61_000), _table_reference.Table(ttl_ms=1_000)
    now, layouts = 0, set()
    for step in range(45):
        now += dice.randrange(25)
        batch, age = packed(dice.sample(keys, 20_000)), dice.randrange(300)
        assert kernel.heartbeat(batch, now, age) == twin.heartbeat(batch, now, age)
        if step % 3 == 0:
            batch = packed(dice.sample(keys, 3_000))
            assert kernel.leave(batch, now, 0, 100) == twin.leave(batch, now, 0, 100)
        if kernel.stats()["migrating"] or step % 15 == 14:
            assert kernel.get(batch, now) == twin.get(batch, now)
            layouts.add(kernel.stats()["line_capacity"])
            kernel._verify()  # type: ignore[attr-defined]  # not part of the face
        kernel.maintain(now, dice.randrange(2_000))
    while kernel.stats()["shrink_steps"] == 0:
        now += 5
        kernel.maintain(now, 3_000)
        assert kernel.online == twin.count(now)[0]
    kernel._verify()  # type: ignore[attr-defined]  # not part of the face
    assert layouts == {6, 9}


def unmixed(mixed: int) -> int:
    """The key that the table mixes into ``mixed``."""
    half = mixed * 0xF1DE83E19937733D % 2**64
    return half ^ half >> 32


@pytest.mark.parametrize("shift", [16, 22, 26])
@pytest.mark.parametrize("lines", [5, 700])
def test_layouts_of_large_tables_grow_and_shrink_too(shift: int, lines: int) -> None:
    """Where mixed keys have ``64 - shift`` bits, a small table can have the lines of one of ``2^shift``."""
    dice = random.Random(shift * lines)
    keys = [unmixed(dice.getrandbits(64 - shift) << shift) for _ in range(lines * 60)]
    kernel, twin = (
        _table.Table(ttl_ms=1_000, _lines=lines, _shift=shift),
        _table_reference.Table(ttl_ms=1_000),
    )
    now, grown = 0, False
    while not kernel.stats()["shrink_steps"]:
        now += dice.randrange(30)
        crowd = keys if now < 2_000 else keys[: len(keys) // 20]
        batch, age = packed(dice.sample(crowd, len(crowd) // 20)), dice.randrange(300)
        assert kernel.heartbeat(batch, now, age) == twin.heartbeat(batch, now, age)
        leaving = packed(dice.sample(keys, len(keys) // 200))
        assert kernel.leave(leaving, now, 0, 100) == twin.leave(leaving, now, 0, 100)
        assert kernel.get(packed(keys), now) == twin.get(packed(keys), now)
        kernel._verify()  # type: ignore[attr-defined]  # not part of the face
        kernel.maintain(now, dice.randrange(lines))
        grown = grown or kernel.stats()["growth_steps"] > 0
    assert grown


@pytest.mark.parametrize("number", [300, 1_000, 4_000])
def test_ids_that_crowd_into_few_lines_are_all_kept_while_it_grows(number: int) -> None:
    """More of them come back from the annex at once than a line of the new order has places."""
    keys = [int.from_bytes((i * SPREAD % 2**64).to_bytes(8, "little"), "big") for i in range(number)]
    kernel, twin = _table.Table(ttl_ms=1_000, _lines=2), _table_reference.Table(ttl_ms=1_000)
    assert kernel.heartbeat(packed(keys), 0) == twin.heartbeat(packed(keys), 0)
    assert kernel.get(packed(keys), 0) == twin.get(packed(keys), 0)
    kernel._verify()  # type: ignore[attr-defined]  # not part of the face


@pytest.mark.parametrize("make", [_table.Table, _table_reference.Table])
def test_a_group_without_users_that_is_named_no_more_is_not_counted(make: Callable[..., Any]) -> None:
    table = make(ttl_ms=1_000)
    table.set_slots(array("H", [3] * SLOTS).tobytes(), bytes(SLOTS), 0)
    table.heartbeat(packed([1]), 0)
    table.leave(packed([1]), 0)
    table.set_slots(array("H", [0] * SLOTS).tobytes(), bytes(SLOTS), 0)
    assert sum(table.count(0)) == 0
