"""Machines that are none: what each kind of broken cable lets through, and whose clock it is."""

import sys
import time
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable

import psutil  # type: ignore[import-untyped]
import pytest
from chaos.namespaces import Fabric, Host, why_not

REASON = why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON or "none")

AHEAD_S = 100_000
KNOCK = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 1), 0.3)
except OSError as error:
    print(type(error).__name__, end="")
"""
THERE = "ConnectionRefusedError"
SILENT = "TimeoutError"
Break = Callable[[Fabric], Awaitable[None]]


@pytest.fixture
async def fabric() -> AsyncIterator[Fabric]:
    async with Fabric() as made:
        for number, name in enumerate("abc"):
            await made.add(name, ahead_s=AHEAD_S * number)
        yield made


async def said_on(host: Host, *program: str) -> str:
    process = await create_subprocess_exec(*host.command(*program), stdout=PIPE)
    out, _ = await process.communicate()
    return out.decode()


async def knock(fabric: Fabric, sender: str, receiver: str) -> str:
    """What becomes of a connection to a host where nobody listens."""
    address = fabric.hosts[receiver].address
    return await said_on(fabric.hosts[sender], sys.executable, "-S", "-c", KNOCK, address)


@pytest.mark.parametrize(
    ("break_it", "mend_it", "to_it", "from_it"),
    [
        (Fabric.swallow, Fabric.swallow_no_more, SILENT, SILENT),
        (Fabric.disconnect, Fabric.connect, SILENT, "OSError"),
        (lambda fabric, name: fabric.throttle(name, "1mbit"), Fabric.throttle_no_more, THERE, THERE),
    ],
    ids=["swallowed", "disconnected", "throttled"],
)
async def test_a_broken_cable_breaks_one_host_until_it_is_mended(
    fabric: Fabric,
    break_it: Callable[[Fabric, str], Awaitable[None]],
    mend_it: Callable[[Fabric, str], Awaitable[None]],
    to_it: str,
    from_it: str,
) -> None:
    assert await knock(fabric, "a", "b") == THERE
    await break_it(fabric, "b")
    assert await knock(fabric, "a", "b") == to_it
    assert await knock(fabric, "b", "a") == from_it
    assert await knock(fabric, "a", "c") == THERE
    await mend_it(fabric, "b")
    assert await knock(fabric, "a", "b") == THERE
    assert await knock(fabric, "b", "c") == THERE


async def test_packets_are_lost_between_two_hosts_and_no_others(fabric: Fabric) -> None:
    await fabric.lose("a", "b", lost=True)
    assert await knock(fabric, "a", "b") == SILENT
    assert await knock(fabric, "c", "b") == THERE
    await fabric.lose("a", "b", lost=False)
    assert await knock(fabric, "a", "b") == THERE


async def test_a_host_stands_in_for_another_on_itself_alone(fabric: Fabric) -> None:
    edge = await fabric.add("edge", fronted=False)
    await fabric.stand_in_for("edge", ("a",))
    await fabric.swallow("a")
    assert await knock(fabric, "edge", "a") == THERE, "it is itself"
    assert await knock(fabric, "b", "a") == SILENT
    await fabric.swallow_no_more("a")
    reached = await said_on(edge, sys.executable, "-S", "-c", KNOCK, fabric.hosts["a"].back_address)
    assert reached == THERE


async def test_each_host_has_a_boot_clock_of_its_own(fabric: Fabric) -> None:
    program = "import time; print(time.clock_gettime(time.CLOCK_BOOTTIME), time.monotonic())"
    for number, name in enumerate("abc"):
        boot_s, monotonic_s = map(
            float, (await said_on(fabric.hosts[name], sys.executable, "-c", program)).split()
        )
        assert boot_s == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME) + number * AHEAD_S, abs=20)
        assert monotonic_s == pytest.approx(time.monotonic() + number * AHEAD_S, abs=20)


async def test_nothing_is_left_of_it() -> None:
    async with Fabric() as fabric:
        await fabric.add("a")
        holders = psutil.Process().children()
        assert len(holders) == 2
    assert not psutil.wait_procs(holders, timeout=10)[1]
