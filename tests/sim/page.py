"""A page of friends in the simulated world: a service that watches everybody, and what it shows.

It opens a watch as soon as its client is open, notes each change it is told of, and once a second what it
shows. Now and then it takes users off and puts them back, or begins anew. While its process stands still
nobody looks at it, so what it shows then is not noted, nor for a moment after it goes on: what has come
meanwhile has to be read first.
"""

import random
from typing import TYPE_CHECKING, Any, Final

from sim.history import Shown, Told
from sim.plan import MS, SECOND

from pulsering.errors import PresenceError

if TYPE_CHECKING:
    from sim.cluster import ClientProcess
    from sim.run import Run

    from pulsering import PresenceClient, Watch

__all__ = ["Page"]

LATE_US: Final = 20 * MS
"""A look that comes this much late: the process stood still."""

AWAKE_US: Final = 2 * SECOND
"""From then until what it shows counts again."""

CHURN: Final = 0.05
"""How often, of looks, somebody is taken off and put back, or all begins anew."""


class Page:
    """What one client shows, over all of its watches."""

    def __init__(self, run: "Run", name: str, number: int) -> None:
        self._run = run
        self._name = name
        self._rng = random.Random(run.plan.seed * 31 + number)
        self._users = tuple(sorted({user for action in run.plan.actions for user in action.users}))
        self._client: PresenceClient | None = None
        self._watch: Watch | None = None
        self._watches = number << 32
        self._shown: dict[int, int] = {}
        self._awake_us = 0

    def begin(self) -> None:
        """Look once a second, if that can be."""
        self._run.world.after(SECOND, self._next_look)

    def _next_look(self) -> None:
        world, service = self._run.world, self._run.clients[self._name]
        if world.now_us >= self._run.plan.ends_at_us:
            return
        if service.process.alive and service.client is not None:
            asked_us = world.now_us
            service.process.post(lambda: self._look(service, asked_us))
        self.begin()

    def _look(self, service: "ClientProcess", asked_us: int) -> None:
        world = self._run.world
        if world.now_us - asked_us > LATE_US:
            self._awake_us = world.now_us + AWAKE_US
        if service.client is None:
            return
        if self._client is not service.client or self._watch is None:
            self._open(service)
        elif world.now_us >= self._awake_us:
            users = tuple(self._shown)
            self._note(Shown(world.now_us, self._watches, users, bytes(self._shown.values())))
            if self._rng.random() < CHURN:
                self._change_mind(service)

    def _open(self, service: "ClientProcess") -> None:
        client = self._client = service.client
        assert client is not None
        self._watches += 1
        self._shown = {}
        number, shown = self._watches, self._shown
        watch = self._watch = service.process.loop.inside(lambda: client.watch(self._users))
        service.process.loop.create_task(self._follow(watch, number, shown))

    async def _follow(self, watch: "Watch", number: int, shown: dict[int, int]) -> None:
        world = self._run.world
        try:
            async for change in watch:
                assert isinstance(change.id, int)
                shown[change.id] = change.status
                status, reason, cause = map(int, change[1:4])
                self._note(Told(world.now_us, number, change.id, status, reason, cause, change.version))
        except PresenceError as error:
            world.trace("watch", number, type(error).__name__)
            if self._watch is watch:
                self._watch = None

    def _change_mind(self, service: "ClientProcess") -> None:
        loop, watch = service.process.loop, self._watch
        assert watch is not None
        if self._rng.random() < 0.3:
            self._watch = None
            loop.create_task(watch.aclose())
            return
        some = self._rng.sample(self._users, k=min(5, len(self._users)))
        for user in some:
            self._shown.pop(user, None)
            self._note(Told(self._run.world.now_us, self._watches, user, 0, 0, 0, 0))
        loop.inside(lambda: watch.remove(some))
        loop.inside(lambda: watch.add(some))

    def _note(self, record: Any) -> None:
        self._run.records.append(record)
        self._run.world.trace(record)
