"""When a core that ended is started again: soon, then ever later, and soon again once it served."""

import itertools

from pulsering import limits
from pulsering_server.supervisor import Restarts


def test_a_core_that_cannot_start_is_tried_ever_less() -> None:
    restarts = Restarts()
    delays = [restarts.after(0) for _ in range(20)]
    assert delays[0] == limits.RESTART_MS_MIN
    assert all(later in (2 * delay, limits.RESTART_MS_MAX) for delay, later in itertools.pairwise(delays))
    assert delays[-1] == limits.RESTART_MS_MAX


def test_a_core_that_served_is_started_soon() -> None:
    restarts = Restarts()
    for _ in range(20):
        restarts.after(0)
    assert restarts.after(limits.RESTART_MS_MAX) == limits.RESTART_MS_MIN


def test_a_core_that_served_for_a_moment_is_not_taken_for_a_sound_one() -> None:
    restarts = Restarts()
    delays = [restarts.after(limits.RESTART_MS_MAX - 1) for _ in range(3)]
    assert delays == sorted(set(delays))
