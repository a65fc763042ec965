"""The simulated world: true time, machines with clocks of their own, and processes that take turns.

One heap of events, ordered by true time and then by when they were scheduled, is all that moves the world. A
process runs its event loop (``virtual_loop``) in turns at such events, and only there; between them nothing
happens anywhere, so ten idle minutes cost nothing. Time is whole microseconds. Invariant: everything follows
from the seed: no real clock, no real randomness, no order that depends on hashes or addresses.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from sim.virtual_loop import VirtualLoop
from xxhash import xxh64

if TYPE_CHECKING:
    from sim.network import Network

__all__ = ["Clock", "Machine", "Process", "World"]

WALL_MS: Final = 1_700_000_000_000

EVENTS_MAX: Final = 100_000
"""Events, or turns of one process, without time passing: beyond it something runs in a circle."""


class Clock:
    """A machine's clocks: one since boot, which counts suspended time, and one for timers, which does not.

    Both run at ``1 + ppm / 10^6`` of true time and never go back.
    """

    def __init__(self, world: "World", origin_us: int, ppm: int) -> None:
        self._world = world
        self._since_us = world.now_us
        self._boot_us = origin_us
        self._suspended_us = 0
        self._told_us, self._told_s = -1, 0.0
        self.ppm = ppm

    def boot_us(self) -> int:
        """Microseconds since boot."""
        passed_us = self._world.now_us - self._since_us
        return self._boot_us + passed_us + passed_us * self.ppm // 1_000_000

    def boot_ms(self) -> int:
        """Milliseconds since boot: what nodes and clients tell ages by."""
        return self.boot_us() // 1000

    def wall_ms(self) -> int:
        """Milliseconds of the wall clock, which no sleep stops."""
        return WALL_MS + self._world.now_us // 1000

    def timer_s(self) -> float:
        """Seconds that an event loop sees."""
        now_us = self._world.now_us
        if now_us != self._told_us:
            self._told_us = now_us
            self._told_s = (self.boot_us() - self._suspended_us) / 1_000_000
        return self._told_s

    def true_us(self, timer_s: float) -> int:
        """When this clock's timer shows ``timer_s``, in true time, if nothing is done to it before."""
        timer_us = math.ceil(timer_s * 1_000_000)
        timer_us += timer_us / 1_000_000 < timer_s  # a product that was rounded down
        left_us = timer_us + self._suspended_us - self._boot_us
        return self._since_us + -(-left_us * 1_000_000 // (1_000_000 + self.ppm))

    def set_rate(self, ppm: int) -> None:
        """Run faster or slower from now on."""
        self._boot_us = self.boot_us()
        self._since_us = self._world.now_us
        self._told_us = -1
        self.ppm = ppm

    def suspend(self, for_us: int) -> None:
        """Take out of the timers' time what a sleep of the machine will last."""
        self._suspended_us += for_us
        self._told_us = -1


class Machine:
    """Something with a clock and a network card; processes come and go on it."""

    def __init__(self, world: "World", name: str, address: str, origin_us: int, ppm: int) -> None:
        self.name = name
        self.address = address
        self.clock = Clock(world, origin_us, ppm)
        self.up = True


class Process:
    """One process: a loop that gets turns.

    What the network has for it waits in ``inbox``, as it would in sockets, while it is paused or busy.
    """

    def __init__(self, world: "World", machine: Machine, name: str) -> None:
        self.world = world
        self.machine = machine
        self.name = name
        self.loop = VirtualLoop(self)
        self.inbox: deque[Callable[[], None]] = deque()
        self.alive = True
        self.paused = False
        self.turn_us = 0
        """What each turn takes; 0 is a processor that is always free."""
        self.waits = 0
        """How often it had nothing to do."""
        self._busy_until_us = 0
        self._wake_us: int | None = None

    def post(self, callback: Callable[[], None]) -> None:
        """Let the network have a say in the next turn."""
        if self.alive:
            self.inbox.append(callback)
            self.poke()

    def poke(self) -> None:
        """There is something to do now."""
        self.wake(self.world.now_us)

    def wake(self, at_us: int) -> None:
        """There will be something to do at ``at_us``."""
        if at_us < self.world.now_us:
            at_us = self.world.now_us
        if at_us < self._busy_until_us:
            at_us = self._busy_until_us
        if self.alive and not self.paused and (self._wake_us is None or at_us < self._wake_us):
            self._wake_us = at_us
            self.world.at(at_us, self._on_wake)

    def _on_wake(self) -> None:
        if self._wake_us != self.world.now_us:
            return  # an earlier turn has made this one needless
        self._wake_us = None
        if self.paused or not self.alive:
            return
        inbox, loop = self.inbox, self.loop
        for _ in range(EVENTS_MAX):
            loop.take_turn(inbox)
            if self.turn_us:
                self._busy_until_us = self.world.now_us + self.turn_us
                break
            if not inbox and not loop.ready:
                break
        else:
            raise RuntimeError(f"{self.name} ran {EVENTS_MAX} turns in no time")
        self.schedule()

    def schedule(self) -> None:
        """Ask for the next turn."""
        if self.inbox or self.loop.ready:
            self.poke()
            return
        self.waits += 1
        due_s = self.loop.next_timer_s()
        if due_s is not None:
            self.wake(self.machine.clock.true_us(due_s))

    def pause(self) -> None:
        """Stop running, as by SIGSTOP: timers and what the network brings wait."""
        self.paused = True
        self._wake_us = None

    def resume(self) -> None:
        """Go on."""
        if self.paused:
            self.paused = False
            self.schedule()

    def end(self) -> None:
        """Be no more, on the spot: nothing it was about to do happens."""
        self.alive = False
        self._wake_us = None
        self.inbox.clear()
        self.loop.wind_up()


class World:
    """True time, the heap of what will happen, and the digest of what has."""

    def __init__(self, seed: int) -> None:
        self.now_us = 0
        self.rng = random.Random(seed)
        self.problems: list[str] = []
        """Exceptions that nobody caught, and other faults of ours."""
        self.network: Network
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self._digest = xxh64()

    @property
    def now_ms(self) -> int:
        """True time in whole milliseconds."""
        return self.now_us // 1000

    @property
    def trace_hash(self) -> int:
        """64 bits that differ as soon as anything in the history does."""
        return self._digest.intdigest()

    def trace(self, *facts: object) -> None:
        """Make these facts part of the history's hash."""
        self._digest.update(f"{self.now_us}{facts}".encode())

    def trace_bytes(self, where: int, data: bytes) -> None:
        """Make bytes that a connection delivered part of it."""
        self._digest.update(b"%d %d " % (self.now_us, where) + data)

    def at(self, at_us: int, callback: Callable[..., None], *args: Any) -> None:
        """Do this then."""
        self._sequence += 1
        if at_us < self.now_us:
            at_us = self.now_us
        heapq.heappush(self._heap, (at_us, self._sequence, callback, args))

    def after(self, us: int, callback: Callable[..., None], *args: Any) -> None:
        """Do this so much later."""
        self.at(self.now_us + us, callback, *args)

    def run(self, until_us: int) -> None:
        """Let everything happen that happens until then."""
        heap = self._heap
        moment_us, events = -1, 0
        while heap and heap[0][0] <= until_us:
            self.now_us, _, callback, args = heapq.heappop(heap)
            callback(*args)
            events += 1
            if self.now_us != moment_us:
                moment_us, events = self.now_us, 0
            elif events > EVENTS_MAX:
                raise RuntimeError(f"{EVENTS_MAX} events in no time, at {moment_us} us: {callback}")
        self.now_us = until_us
