"""What systemd is told: everything each time, over a real socket, and nothing where it does not listen."""

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest
from support.manager_stub import ManagerStub

from pulsering_server.service_manager import Manager, State, watchdog_us

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd is on Linux only")

WARMING = State(ready=False, status="warming", left_ms=3000)
SERVING = State(ready=True, status="serving")


class Node:
    """How it is, for ``look``."""

    def __init__(self, state: State) -> None:
        self.state = state

    def look(self) -> State:
        return self.state


async def test_a_node_that_warms_up_asks_for_patience_and_then_says_ready(tmp_path: Path) -> None:
    node = Node(WARMING)
    async with ManagerStub(tmp_path) as stub:
        manager = Manager(node.look, stub.environ)
        manager.tell()
        assert await stub.next() == {"STATUS": "warming", "EXTEND_TIMEOUT_USEC": "13000000"}
        node.state = SERVING
        manager.tell()
        assert await stub.next() == {"STATUS": "serving", "READY": "1"}
        manager.close()


async def test_a_service_that_was_ready_once_stays_so_to_systemd(tmp_path: Path) -> None:
    """A node that is cold after a stall serves; taking READY back is no part of the protocol."""
    node = Node(SERVING)
    async with ManagerStub(tmp_path) as stub:
        manager = Manager(node.look, stub.environ)
        manager.tell()
        node.state = WARMING
        manager.tell()
        assert [(await stub.next())["READY"] for _ in range(2)] == ["1", "1"]
        manager.close()


async def test_reloading_carries_the_clock_that_systemd_compares(tmp_path: Path) -> None:
    node = Node(SERVING._replace(reloading=True))
    async with ManagerStub(tmp_path) as stub:
        manager = Manager(node.look, stub.environ)
        manager.tell()
        message = await stub.next()
        assert message.keys() == {"STATUS", "RELOADING", "MONOTONIC_USEC"}
        now_us = asyncio.get_running_loop().time() * 1e6
        assert 0 <= now_us - int(message["MONOTONIC_USEC"]) < 60e6
        manager.close()


async def test_the_end_is_told_whatever_else_there_is(tmp_path: Path) -> None:
    node = Node(SERVING._replace(reloading=True, stopping=True))
    async with ManagerStub(tmp_path, watchdog_s=5) as stub:
        manager = Manager(node.look, stub.environ)
        manager.tell()
        assert await stub.next() == {"STATUS": "serving", "STOPPING": "1", "WATCHDOG": "1"}
        manager.close()


async def test_the_watchdog_hears_from_the_loop_thrice_in_its_time(tmp_path: Path) -> None:
    async with ManagerStub(tmp_path, watchdog_s=0.3) as stub:
        manager = Manager(Node(SERVING).look, stub.environ)
        loop = asyncio.get_running_loop()
        running = asyncio.create_task(manager.run())
        began_s = loop.time()
        for _ in range(5):
            assert (await stub.next())["WATCHDOG"] == "1"
        assert loop.time() - began_s >= 4 * 0.3 / 3 * 0.9
        running.cancel()
        manager.close()


async def test_an_address_without_a_file_is_spoken_to_as_well(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("")
        name: bytes = listening.getsockname()
        manager = Manager(Node(SERVING).look, {"NOTIFY_SOCKET": "@" + name[1:].decode()})
        manager.tell()
        assert listening.recv(4096) == b"STATUS=serving\nREADY=1"
        manager.close()


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
async def test_where_nobody_listens_nobody_is_told(environ: dict[str, str]) -> None:
    manager = Manager(Node(SERVING).look, environ)
    assert not manager
    manager.tell()
    running = asyncio.create_task(manager.run())
    await asyncio.sleep(0)
    assert not running.done(), "a task that ends is a failure of the node"
    running.cancel()


async def test_a_manager_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    async with ManagerStub(tmp_path) as stub:
        manager = Manager(Node(SERVING).look, stub.environ)
        for _ in range(10_000):
            manager.tell()
        assert await stub.next() == {"STATUS": "serving", "READY": "1"}
        manager.close()


async def test_a_manager_that_is_gone_ends_nobody(tmp_path: Path) -> None:
    manager = Manager(Node(SERVING).look, {"NOTIFY_SOCKET": str(tmp_path / "gone")})
    manager.tell()
    manager.close()
    manager.tell()


def test_a_watchdog_that_is_for_another_process_is_not_ours() -> None:
    """Systemd names the process that it means; a wrapper's variables reach its children."""
    assert watchdog_us({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": str(os.getpid())}) == 5_000_000
    assert watchdog_us({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}) == 0
    assert watchdog_us({"WATCHDOG_USEC": "soon"}) == 0
    assert watchdog_us({}) == 0
