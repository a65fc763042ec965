"""A rolling restart as docs/deploy.md has it, and a reload, under load: nobody notices.

Scenario 37 for callers of all kinds: those that beat, those that read pages, those that ask for one user, and
those that have just come. ``tests/chaos`` restarts nodes too, among other faults, and judges every answer.
"""

import asyncio
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from e2e.poll import until
from support.manager_stub import ManagerStub

from pulsering import PresenceClient, Status
from pulsering.errors import UnknownPresence
from pulsering_server.local_cluster import LocalCluster

TTL_MS = 2_000
TIMEOUT_S = 2.0
LIVE = range(300)
"""Users whose heartbeats never stop."""
NEVER = range(10_000, 10_300)
"""Users who never had one."""

UNKNOWN_SHARE_MAX = 0.001


class Callers:
    """What they saw, until told to ``stop``. An error of a call is noted, and the caller goes on."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.errors: list[str] = []
        self.unacknowledged = 0
        self.live: Counter[Status] = Counter()
        self.never: Counter[Status] = Counter()
        self.rounds: Counter[str] = Counter()

    async def beat(self, presence: PresenceClient) -> None:
        self.unacknowledged += (await presence.heartbeat_many(LIVE)).unacknowledged

    async def read(self, presence: PresenceClient) -> None:
        self.live.update(await presence.get_many(LIVE))
        self.never.update(await presence.get_many(NEVER))

    async def ask_for_one(self, presence: PresenceClient) -> None:
        user = LIVE[self.rounds["ask_for_one"] % len(LIVE)]
        await presence.heartbeat(user)
        try:
            self.live[Status.ONLINE if await presence.is_online(user) else Status.OFFLINE] += 1
        except UnknownPresence:
            self.live[Status.UNKNOWN] += 1

    async def come(self, _presence: PresenceClient) -> None:
        async with PresenceClient.from_url(self.url, timeout=TIMEOUT_S) as new:
            await self.read(new)

    async def keep(self, work: Callable[[PresenceClient], Awaitable[None]], presence: PresenceClient) -> None:
        while True:
            try:
                await work(presence)
            except Exception as error:
                self.errors.append(f"{work.__name__}: {error!r}")
            self.rounds[work.__name__] += 1

    async def more(self, rounds: int) -> None:
        """Until each has gone round so often again."""
        goal = {name: self.rounds[name] + rounds for name in ("beat", "read", "ask_for_one", "come")}

        async def reached() -> bool:
            return all(self.rounds[name] >= least for name, least in goal.items())

        await until(reached)


@asynccontextmanager
async def calling(cluster: LocalCluster) -> AsyncIterator[Callers]:
    """A warm cluster in use."""
    callers = Callers(cluster.url)
    async with PresenceClient.from_url(cluster.url, timeout=TIMEOUT_S) as presence:
        await presence.heartbeat_many(LIVE)
        works = (callers.beat, callers.read, callers.ask_for_one, callers.come)
        running = [asyncio.create_task(callers.keep(work, presence)) for work in works]
        try:
            await callers.more(3)
            yield callers
            await callers.more(3)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


async def test_a_rolling_restart_and_a_reload_are_seen_by_nobody(tmp_path: Path) -> None:
    """One node after the other, the next when the last one says READY.

    Of two nodes, so that each restart leaves every user with one owner.
    """
    cluster = LocalCluster(2, ttl_ms=TTL_MS)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(cluster.stop)
        managers = {}
        for name, node in cluster.nodes.items():
            (tmp_path / name).mkdir()
            managers[name] = await stack.enter_async_context(ManagerStub(tmp_path / name))
            await node.start(service=managers[name].environ)
        for manager in managers.values():
            await manager.until(lambda message: "serving" in message["STATUS"])
        async with calling(cluster) as callers:
            for name, node in cluster.nodes.items():
                assert await node.terminate(12.0) == 0
                await managers[name].until(lambda message: "STOPPING" in message)  # past all READY before it
                await node.start(service=managers[name].environ)
                await managers[name].until(lambda message: "READY" in message)
                await callers.more(1)
            text = cluster.config_path.read_text("utf-8")
            new = cluster.config_path.with_suffix(".new")
            new.write_text(
                re.sub("name: b,", "name: b, weight: 2,", text.replace("epoch: 1", "epoch: 2")), "utf-8"
            )
            new.replace(cluster.config_path)
            for node in cluster.nodes.values():
                node.signal(signal.SIGHUP)
            for manager in managers.values():
                await manager.until(lambda message: "epoch 2" in message["STATUS"] and "READY" in message)
        stalled = any("node.stalled" in node.log() for node in cluster.nodes.values())
    assert callers.errors == []
    assert callers.unacknowledged == 0
    assert callers.live[Status.OFFLINE] == 0
    assert callers.never[Status.ONLINE] == 0
    if not stalled:  # a machine without time for its nodes makes them say unknown, rightly
        for answers in (
            callers.live,
            callers.never,
        ):  # of who has just come and is connected to a cold one only
            assert answers[Status.UNKNOWN] <= UNKNOWN_SHARE_MAX * answers.total(), answers
