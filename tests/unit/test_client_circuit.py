"""Circuit, back-off and retry budget: pure, so time and chance are arguments."""

import itertools
import random

from pulsering import limits
from pulsering._backoff import Backoff, RetryBudget, reconnect_ms_max
from pulsering._circuit import Circuit, CircuitState


def open_circuit(now: float = 0.0) -> Circuit:
    circuit = Circuit(random.Random(1))
    for _ in range(limits.CIRCUIT_FAILURES):
        circuit.record_failure(now)
    assert circuit.state is CircuitState.OPEN
    return circuit


def test_circuit_opens_after_five_failures_in_a_row() -> None:
    """Scenario 35."""
    circuit = Circuit(random.Random(1))
    for _ in range(limits.CIRCUIT_FAILURES - 1):
        circuit.record_failure(0.0)
        assert circuit.acquire(0.0)
    circuit.record_success()
    for _ in range(limits.CIRCUIT_FAILURES - 1):
        circuit.record_failure(0.0)
    assert circuit.allows(0.0)
    circuit.record_failure(0.0)
    assert not circuit.allows(0.0)
    assert not circuit.acquire(0.0)


def test_open_circuit_lets_single_probes_through_ever_more_rarely() -> None:
    """Scenario 35: of a request each millisecond for a minute, a handful are let through."""
    circuit = open_circuit()
    probes = []
    for ms in range(60_000):
        now = ms / 1000
        if circuit.acquire(now):
            probes.append(now)
            circuit.record_failure(now + 0.001)
    assert 10 < len(probes) < 40
    assert limits.CIRCUIT_PROBE_MS_MIN / 2000 <= probes[0] <= limits.CIRCUIT_PROBE_MS_MIN / 1000
    assert max(b - a for a, b in itertools.pairwise(probes)) <= limits.CIRCUIT_PROBE_MS_MAX / 1000 + 0.01


def test_looking_does_not_use_up_the_probe() -> None:
    circuit = open_circuit()
    assert all(circuit.allows(1.0) for _ in range(10))
    assert circuit.acquire(1.0)
    assert not circuit.acquire(1.0)


def test_a_probe_without_outcome_does_not_block_the_next() -> None:
    circuit = open_circuit()
    assert circuit.acquire(1.0)
    assert circuit.acquire(11.0)


def test_a_successful_probe_closes() -> None:
    circuit = open_circuit()
    assert circuit.acquire(1.0)
    circuit.record_success()
    assert circuit.state is CircuitState.CLOSED
    assert circuit.acquire(1.0)
    assert circuit.acquire(1.0)


def test_a_handshake_is_no_answer_yet() -> None:
    """A node that greets and then is silent must not look healthy for five more timeouts."""
    circuit = open_circuit()
    circuit.record_connected(0.001)
    assert circuit.state is CircuitState.OPEN
    assert circuit.acquire(0.001)
    assert not circuit.acquire(0.002)


def test_quarantine_opens_at_once_and_long() -> None:
    """Scenario 44."""
    circuit = Circuit(random.Random(1))
    circuit.quarantine(0.0)
    assert not circuit.allows(limits.CIRCUIT_PROBE_MS_MAX / 2000 - 0.001)
    assert circuit.allows(limits.CIRCUIT_PROBE_MS_MAX / 1000)


def test_backoff_is_jittered_in_full_and_bounded() -> None:
    delays = []
    for seed in range(200):
        backoff = Backoff(50, 5000, random.Random(seed))
        delays.append([backoff.next() for _ in range(12)])
    for attempt, column in enumerate(zip(*delays, strict=True)):
        bound = min(0.05 * 2**attempt, 5.0)
        assert 0 <= min(column) < bound * 0.1
        assert bound * 0.9 < max(column) <= bound


def test_reconnects_of_a_thousand_clients_spread_out() -> None:
    """Scenario 42: of the second attempts and later ones, no 100 ms holds more than 10 %."""
    moments = []
    for seed in range(1000):
        backoff = Backoff(limits.RECONNECT_MS_MIN, limits.RECONNECT_MS_MAX, random.Random(seed))
        moments.append(sum(backoff.next() for _ in range(6)))
    buckets = [0] * 100
    for moment in moments:
        buckets[int(moment * 10)] += 1
    assert max(buckets) <= 100


def test_budget_lets_a_tenth_more_through() -> None:
    """Scenario 41."""
    budget = RetryBudget()
    retries = 0
    for _ in range(10_000):
        budget.earn()
        while budget.take():
            retries += 1
    assert 1000 <= retries <= 1010


def test_backoff_starts_small_again() -> None:
    backoff = Backoff(50, 5000, random.Random(1))
    assert backoff.longest() >= 2.5
    backoff.reset()
    assert backoff.next() <= 0.05


def test_clients_are_back_long_before_a_node_that_was_started_is_warm() -> None:
    """After the longest back-off and the longest attempt to connect, its ttl is not over."""
    for ttl_ms in (limits.TTL_MS_MIN, 2_000, 6_000, limits.TTL_MS, limits.TTL_MS_MAX):
        assert reconnect_ms_max(ttl_ms) <= min(ttl_ms / 4, limits.RECONNECT_MS_MAX)
        assert reconnect_ms_max(ttl_ms) >= 2 * limits.RECONNECT_MS_MIN
    assert reconnect_ms_max(limits.TTL_MS) == limits.RECONNECT_MS_MAX
