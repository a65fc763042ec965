"""What a node of several cores tells of them together, and whom it believes."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from support.raw_peer import PATIENCE_S

from pulsering_server.core_reports import CoreReport, in_common
from pulsering_server.service_manager import Manager, State

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd is on Linux only")

WARM = State(ready=True, status="serving, epoch 1")
COLD = State(ready=False, status="warming, epoch 1", left_ms=2000)


def test_a_node_is_ready_when_all_its_cores_are() -> None:
    assert in_common([WARM, WARM], stopping=False).ready
    together = in_common([WARM, COLD, WARM], stopping=False)
    assert together == State(ready=False, status="3 cores: 2 serving, 1 warming", left_ms=2000)


def test_a_node_reloads_while_one_of_its_cores_does() -> None:
    assert in_common([WARM, WARM._replace(reloading=True)], stopping=False).reloading


def test_a_node_is_stopped_by_who_stops_it_not_by_a_core_that_drains() -> None:
    assert not in_common([WARM, WARM._replace(stopping=True)], stopping=False).stopping
    assert in_common([WARM, WARM], stopping=True).stopping


class Core:
    """A report, and a manager as the core's process would have it; here both are this process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.state = COLD
        self._changed = asyncio.Event()
        self.report = CoreReport(lambda: self.pid, 60_000_000, self._changed.set)
        self.manager = Manager(lambda: self.state, self.report.environ)

    async def say(self, state: State) -> State:
        """Tell a state; what is known once something has changed."""
        self.state = state
        self._changed.clear()
        self.manager.tell()
        await asyncio.wait_for(self._changed.wait(), PATIENCE_S)
        return self.report.state


@pytest_asyncio.fixture
async def core() -> AsyncIterator[Core]:
    made = Core()
    yield made
    made.manager.close()
    made.report.close()


async def test_what_a_core_says_is_known(core: Core) -> None:
    heard = await core.say(COLD)
    assert (heard.ready, heard.status) == (False, COLD.status)
    assert heard.left_ms >= COLD.left_ms
    assert await core.say(WARM) == WARM
    reloading = await core.say(WARM._replace(reloading=True))
    assert (reloading.ready, reloading.reloading) == (True, True), "it serves meanwhile"
    assert (await core.say(WARM._replace(stopping=True))).stopping


async def test_a_core_that_ended_is_not_ready_and_its_silence_is_no_hang(core: Core) -> None:
    await core.say(WARM)
    core.report.forget("drained")
    assert not core.report.state.ready
    assert not core.report.overdue


async def test_another_process_cannot_speak_for_a_core(core: Core) -> None:
    """The address can be seen by whoever is on the machine."""
    await core.say(WARM)
    lie = (
        "import socket, sys; "
        "liar = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
        "liar.sendto(b'READY=1\\nSTATUS=lies', '\\0' + sys.argv[1])"
    )
    address = core.report.environ["NOTIFY_SOCKET"].removeprefix("@")
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", lie, address, stderr=subprocess.PIPE)
    _, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert not err
    truth = WARM._replace(status="the truth, which came later")
    assert await core.say(truth) == truth
    assert core.report.state.status != "lies"
