"""Watch set and twin driven side by side: the same news for everybody, and the kernel equals a recount."""

from array import array
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pulsering_server import _table, _table_reference, _watch, _watch_reference
from pulsering_server.table import NOT_OWNED, SLOTS

KEYS = [i * 0x9E3779B97F4A7C15 % 2**64 for i in range(60)]
batches = st.lists(st.sampled_from(KEYS), max_size=30)
steps = st.one_of(st.just(0), st.integers(1, 60), st.integers(1, 1_500), st.integers(1, 10**5))
ages = st.one_of(st.just(0), st.integers(0, 400))
people = st.integers(0, 7)


def packed(keys: list[int]) -> bytes:
    return array("Q", keys).tobytes()


class Twins(RuleBasedStateMachine):
    """One second of ttl, so that small steps of time reach every edge of it."""

    @initialize(ticks=st.integers(20, 80), now=st.integers(0, 10**6), most=st.sampled_from([60, 10**4]))
    def start(self, ticks: int, now: int, most: int) -> None:
        self.ticks, self.now = ticks, now
        self.tables: list[Any] = [self.table(module) for module in (_table, _table_reference)]
        self.sets: list[Any] = [
            module.WatchSet(table, watches_max=most, per_subscriber=most // 2)
            for module, table in zip((_watch, _watch_reference), self.tables, strict=True)
        ]
        self.numbers: dict[int, list[int]] = {}

    def table(self, module: Any) -> Any:
        return module.Table(ttl_ms=1_000, ticks_per_ttl=self.ticks, now_ms=self.now)

    @rule(who=people)
    def come_or_go(self, who: int) -> None:
        if who in self.numbers:
            for each, number in zip(self.sets, self.numbers.pop(who), strict=True):
                each.close(number)
        else:
            self.numbers[who] = [each.open() for each in self.sets]

    @rule(who=people, keys=batches, step=steps)
    def watch(self, who: int, keys: list[int], step: int) -> None:
        if who not in self.numbers:
            self.come_or_go(who)
        self.now += step
        first, second = (
            each.watch(number, packed(keys), self.now)
            for each, number in zip(self.sets, self.numbers[who], strict=True)
        )
        assert first == second

    @rule(who=people, keys=batches)
    def stop(self, who: int, keys: list[int]) -> None:
        for each, number in zip(self.sets, self.numbers.get(who, ()), strict=False):
            each.stop(number, packed(keys))

    @rule(keys=batches, step=steps, age=ages)
    def heartbeat(self, keys: list[int], step: int, age: int) -> None:
        self.now += step
        first, second = (table.heartbeat(packed(keys), self.now, age) for table in self.tables)
        assert first == second

    @rule(keys=batches, step=steps, age=ages, grace=st.one_of(st.just(0), st.integers(0, 2_000)))
    def leave(self, keys: list[int], step: int, age: int, grace: int) -> None:
        self.now += step
        first, second = (table.leave(packed(keys), self.now, age, grace) for table in self.tables)
        assert first == second

    @rule(step=steps, budget=st.integers(1, 100))
    def turn(self, step: int, budget: int) -> None:
        self.now += step
        for each in self.sets:
            while each.turn(self.now, budget):
                pass

    @rule(hole=st.integers(0, 7), absent=st.sampled_from(b"\0\2\3"))
    def set_slots(self, hole: int, absent: int) -> None:
        groups = array("H", [NOT_OWNED if slot % 8 == hole else 0 for slot in range(SLOTS)]).tobytes()
        for table, each in zip(self.tables, self.sets, strict=True):
            table.set_slots(groups, bytes([absent, 0]) * (SLOTS // 2), self.now)
            each.look_again()
            while each.turn(self.now, 1000):
                pass

    @rule()
    def start_over(self) -> None:
        self.tables = [self.table(module) for module in (_table, _table_reference)]
        for table, each in zip(self.tables, self.sets, strict=True):
            each.attach(table)

    @rule(who=people)
    def take(self, who: int) -> None:
        told = []
        for each, number in zip(self.sets, self.numbers.get(who, ()), strict=False):
            keys, states, causes = each.take(number, 1000)
            found = array("Q", keys).tolist()
            read = [states[i // 4] >> i % 4 * 2 & 3 for i in range(len(found))]
            told.append(sorted(zip(found, read, causes, strict=True)))
        assert told[:1] == told[1:]

    @invariant()
    def the_same_facts(self) -> None:
        if not hasattr(self, "sets"):
            return
        kernel, twin = self.sets
        for fact in ("users", "watches", "subscribers", "changes", "coalesced"):
            assert getattr(kernel, fact) == getattr(twin, fact), fact
        kernel._verify()

    @rule()
    def the_same_are_ready(self) -> None:
        first, second = (
            {who for who, pair in self.numbers.items() if pair[side] in ready}
            for side, ready in enumerate([each.ready(100) for each in self.sets])
        )
        assert first == second


TestTwins = pytest.mark.timeout(300)(Twins.TestCase)
TestTwins.settings = settings(max_examples=60, stateful_step_count=40)
