"""``presence.watch`` over ``memory://``, with a clock in the test's hand, in asyncio and in blocking code."""

import asyncio
import gc
import threading

import pytest

from pulsering import Cause, Change, ClientClosed, PresenceClient, Reason, Status, Watch
from pulsering.sync import PresenceClient as BlockingClient
from pulsering.testing import MemoryCluster


async def some(watch: Watch, count: int) -> list[Change]:
    async with asyncio.timeout(10):
        return [await anext(watch) for _ in range(count)]


async def test_time_that_is_moved_turns_dots_and_no_faults_are_made_of_it() -> None:
    cluster = MemoryCluster()
    async with PresenceClient.from_url(cluster.url) as presence, presence.watch([1]) as watch:
        await some(watch, 1)
        await presence.heartbeat(1)
        cluster.clock.advance(19)
        await presence.heartbeat(1)
        cluster.clock.advance(19)
        cluster.clock.advance(2)
        assert [change[1:] for change in await some(watch, 2)] == [
            (Status.ONLINE, Reason.NONE, Cause.HEARTBEAT, 2),
            (Status.OFFLINE, Reason.NONE, Cause.EXPIRED, 3),
        ]
        cluster.go_cold()
        assert [change[1:3] for change in await some(watch, 1)] == [(Status.UNKNOWN, Reason.COLD)]
        cluster.stop()
        assert [change[1:3] for change in await some(watch, 1)] == [(Status.UNKNOWN, Reason.UNREACHABLE)]
        cluster.start()
        await some(watch, 1)


def test_a_blocking_watch_tells_another_thread_s_changes_in_order() -> None:
    with BlockingClient.from_url("memory://") as presence, presence.watch(["ann"]) as watch:
        beating = threading.Thread(target=lambda: [presence.heartbeat("ann"), presence.leave("ann")])
        assert next(watch).status is Status.OFFLINE
        beating.start()
        last = next(watch)
        while last.status is not Status.OFFLINE or last.version < 3:
            last = next(watch)
        beating.join()
        assert (last.cause, last.version) == (Cause.LEFT, 3)


def test_what_a_blocking_reader_took_and_let_lie_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It took both states in one trip; before it read the second, that one was no longer true."""
    monkeypatch.setattr("pulsering.sync.FRESH_S", -1.0)
    with BlockingClient.from_url("memory://") as presence, presence.watch([1, 2]) as watch:
        first = next(watch)
        other = 3 - int(first.id)
        presence.heartbeat(other)
        second = next(watch)
        assert (second.id, second.status) in ((other, Status.ONLINE), (other, Status.OFFLINE))
        while second.status is not Status.ONLINE:
            second = next(watch)


def test_closing_a_blocking_client_ends_a_watch_that_waits() -> None:
    presence = BlockingClient.from_url("memory://")
    presence.open()
    watch = presence.watch([1])
    next(watch)
    outcomes: list[BaseException] = []

    def read() -> None:
        try:
            next(watch)
        except BaseException as error:
            outcomes.append(error)

    reading = threading.Thread(target=read)
    reading.start()
    presence.close()
    reading.join(10)
    assert [type(error) for error in outcomes] == [ClientClosed]
    watch.close()


def test_a_blocking_watch_that_is_dropped_watches_nobody() -> None:
    with BlockingClient.from_url("memory://") as presence:
        for change in presence.watch([1]):
            assert change.version == 1
            break
        gc.collect()
        while presence.stats()["users_watched"]:
            pass
