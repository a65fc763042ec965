"""What the simulation stands on: clocks that drift, a loop that never waits, and TCP that may be cut."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from sim.network import Link, Network
from sim.world import Machine, Process, World

SECOND = 1_000_000


class Place:
    """Two machines with a process each, and a network between them."""

    def __init__(self, ppm: int = 0) -> None:
        self.world = World(1)
        self.network = self.world.network = Network(self.world)
        self.here = self._process("here", ppm)
        self.there = self._process("there", 0)

    def _process(self, name: str, ppm: int) -> Process:
        machine = Machine(self.world, name, name, 5 * SECOND, ppm)
        self.network.machines[name] = machine
        return Process(self.world, machine, name)

    def links(self) -> tuple[Link, Link]:
        here, there = self.here.machine, self.there.machine
        return self.network.link(here, there), self.network.link(there, here)


class Echo(asyncio.Protocol):
    """Says everything back, and remembers it."""

    def __init__(self) -> None:
        self.heard = b""
        self.ended: list[Exception | None] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard += data
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.append(exc)


class Caller(Echo):
    """Only remembers."""

    def data_received(self, data: bytes) -> None:
        self.heard += data


def connected(place: Place) -> tuple[Caller, Echo]:
    """A connection from here to there."""
    caller, echo = Caller(), Echo()
    place.network.listen(place.there, lambda: echo, ("there", 1))
    place.here.loop.create_task(place.network.connect(place.here, lambda: caller, "there", 1))
    place.world.run(place.world.now_us + SECOND)
    return caller, echo


def run_for(place: Place, seconds: float) -> None:
    place.world.run(place.world.now_us + round(seconds * SECOND))


def said(place: Place, process: Process, speak: Callable[[], None]) -> None:
    process.loop.call_soon(speak)
    run_for(place, 0)


@pytest.mark.parametrize("ppm", [-450, 0, 450])
def test_a_timer_fires_when_its_own_clock_says_so(ppm: int) -> None:
    place, fired = Place(ppm), []
    clock = place.here.machine.clock
    due_s = clock.timer_s() + 100
    place.here.loop.call_at(due_s, lambda: fired.append((place.world.now_us, clock.timer_s())))
    run_for(place, 200)
    [(at_us, timer_s)] = fired
    assert at_us == pytest.approx(100 * SECOND * (1 - ppm / 1e6), abs=200)
    assert 0 <= timer_s - due_s < 3e-6


def test_a_clock_never_goes_back_and_sleep_stops_timers_only() -> None:
    place = Place(450)
    clock = place.here.machine.clock
    run_for(place, 10)
    before_us = clock.boot_us()
    clock.set_rate(-450)
    assert clock.boot_us() == before_us
    timer_s = clock.timer_s()
    clock.suspend(5 * SECOND)
    run_for(place, 5)
    assert clock.boot_us() - before_us == pytest.approx(5 * SECOND, abs=3_000)
    assert clock.timer_s() - timer_s == pytest.approx(0, abs=0.003)


def test_asyncio_runs_on_it_and_takes_no_real_time() -> None:
    place, ends = Place(), []

    async def work() -> None:
        async with asyncio.timeout(3600 * 24):
            done, _ = await asyncio.wait(
                [place.here.loop.create_task(asyncio.sleep(hours * 3600)) for hours in (3, 1, 2)],
                return_when=asyncio.FIRST_COMPLETED,
            )
        assert len(done) == 1
        ends.append(place.world.now_us)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.Event().wait()
        ends.append(place.world.now_us)

    place.here.loop.create_task(work())
    run_for(place, 4 * 3600)
    assert ends == [3600 * SECOND, 3660 * SECOND]


def test_bytes_arrive_in_order_and_an_end_is_told() -> None:
    place = Place()
    place.network.chopped = 0.5
    caller, echo = connected(place)
    texts = [b"%d " % number * 20 for number in range(50)]
    for text in texts:
        said(place, place.here, partial(caller.transport.write, text))
    run_for(place, 1)
    assert echo.heard == caller.heard == b"".join(texts)
    said(place, place.here, lambda: caller.transport.close())
    run_for(place, 1)
    assert caller.ended == echo.ended == [None]


def test_a_cut_link_stands_still_and_goes_on_where_it_was() -> None:
    place = Place()
    caller, echo = connected(place)
    link, _ = place.links()
    place.network.cut(link)
    said(place, place.here, lambda: caller.transport.write(b"one"))
    run_for(place, 30)
    said(place, place.here, lambda: caller.transport.write(b"two"))
    assert echo.heard == b""
    place.network.heal(link)
    run_for(place, 2)
    assert echo.heard == caller.heard == b"onetwo"


def test_nobody_listening_is_refused_and_nobody_there_is_silence() -> None:
    place, errors = Place(), []

    async def dial() -> None:
        try:
            async with asyncio.timeout(5):
                await place.network.connect(place.here, Caller, "there", 9)
        except (OSError, TimeoutError) as error:
            errors.append(type(error))

    place.here.loop.create_task(dial())
    run_for(place, 1)
    place.there.machine.up = False
    place.here.loop.create_task(dial())
    run_for(place, 10)
    assert errors == [ConnectionRefusedError, TimeoutError]


def test_a_paused_process_reads_what_came_meanwhile_before_its_timers_run() -> None:
    """Scenario 22: after a stall the sockets are drained before the wheel turns."""
    place, order = Place(), []
    caller, echo = connected(place)
    echo.data_received = lambda data: order.append("bytes")  # type: ignore[method-assign]
    place.there.loop.call_later(1, lambda: order.append("timer"))
    place.there.pause()
    said(place, place.here, lambda: caller.transport.write(b"hello"))
    run_for(place, 25)
    assert order == []
    place.there.resume()
    run_for(place, 1)
    assert order == ["bytes", "timer"]


@pytest.mark.parametrize("silently", [False, True])
def test_a_killed_process_is_heard_of_and_a_dead_machine_is_not(silently: bool) -> None:
    place = Place()
    caller, _ = connected(place)
    if silently:
        place.there.machine.up = False
    place.there.alive = False
    place.network.process_ended(place.there, silently=silently)
    run_for(place, 5)
    assert len(caller.ended) == (not silently)
    if silently:
        place.there.machine.up = True
        said(place, place.here, lambda: caller.transport.write(b"anybody?"))
        run_for(place, 5)
        assert isinstance(caller.ended[0], ConnectionResetError)


def test_an_exception_that_nobody_caught_is_a_problem_of_the_world() -> None:
    place = Place()
    place.here.loop.call_soon(lambda: 1 // 0)
    run_for(place, 1)
    assert "ZeroDivisionError" in place.world.problems[0]


def test_what_runs_in_a_circle_is_found() -> None:
    place = Place()

    def again() -> None:
        place.here.loop.call_at(place.here.loop.time(), again)

    place.here.loop.call_soon(again)
    with pytest.raises(RuntimeError, match="in no time"):
        run_for(place, 1)
