"""The synthetic population beats evenly, churns in balance, and asks where answers change."""

import itertools

import numpy as np

from pulsering_bench.population import PRESENT_SHARE, Population

STEPS = 40


def population(users: int = 10_000, *, first: int = 100) -> Population:
    return Population(users, STEPS, first=first, rng=np.random.default_rng(5))


def test_as_many_beat_in_an_interval_as_asked_for_and_churn_keeps_it_so() -> None:
    people = population()
    for interval in range(6):
        steps = range(interval * STEPS, (interval + 1) * STEPS)
        beats = sum(len(people.step(index, 0.0).beats) for index in steps)
        assert 9_500 < beats < 10_500


def test_each_step_carries_its_even_share() -> None:
    people = population()
    sizes = [len(people.step(index, 0.0).beats) for index in range(STEPS)]
    assert max(sizes) < 1.25 * min(sizes)


def test_nobody_beats_twice_in_an_interval_or_says_goodbye_without_a_beat() -> None:
    people = population(1_000)
    there: set[int] = set()
    beaten: set[int] = set()
    for index in range(5 * STEPS):
        step = people.step(index, 0.0)
        if index % STEPS == 0:
            beaten.clear()
        beats, goodbyes = set(step.beats.tolist()), set(step.goodbyes.tolist())
        assert not beats & goodbyes
        assert not beats & beaten
        assert goodbyes <= there
        assert min(beats | goodbyes, default=100) >= 100
        beaten |= beats
        there = (there | beats) - goodbyes


def test_people_fall_silent_leave_and_return() -> None:
    people = population(1_000)
    passes = [
        {int(row) for i in range(STEPS) for row in people.step(p * STEPS + i, 0.0).beats} for p in range(6)
    ]
    gone = [before - after for before, after in itertools.pairwise(passes)]
    back = [after - before for before, after in itertools.pairwise(passes)]
    assert all(len(rows) > 10 for rows in gone + back)


def test_a_sample_asks_anybody_strangers_and_who_is_about_to_expire() -> None:
    people = population()
    for index in range(2 * STEPS):
        silent_since = float(index - STEPS)
        people.step(index, silent_since)
    ttl, now = 12.5, 20 + 12.5
    rows = people.sample(1_000, now, ttl) - 100
    assert len(rows) == 1_000
    assert rows.min() >= 0
    assert np.count_nonzero(rows >= people.people) == 50
    # Step STEPS+20 found its silent ones, whose last beat was at 20: a tenth of the sample.
    low, high = people.people * 20 // STEPS, people.people * 21 // STEPS
    assert np.count_nonzero((rows >= low) & (rows < high)) > 100


def test_the_same_seed_plays_the_same_people() -> None:
    one, other = population(), population()
    assert all(np.array_equal(one.step(i, 0.0).beats, other.step(i, 0.0).beats) for i in range(STEPS))


def test_a_handful_of_users_is_a_population_too() -> None:
    people = population(3)
    for index in range(3 * STEPS):
        people.step(index, 0.0)
    assert len(people.sample(10, 1.0, 1.0)) == 10
    assert people.rows == people.people + people.strangers == round(3 / PRESENT_SHARE) + 1
