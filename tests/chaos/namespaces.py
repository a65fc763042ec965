"""Machines of a test: network namespaces on one bridge, each with a boot clock of its own.

Nothing has a name that the machine would remember. A namespace lives as long as the process that holds it, a
``cat`` that ends with the one who started it, so whatever happens nothing is left behind, and many tours run
side by side. The bridge is in a namespace of its own; a host is one cable to it. Invariant: a host's clock
and addresses stay when a program on it is killed, as they do on a machine.

Only ``ip``, ``tc``, ``unshare`` and ``nsenter`` are used. Packets are lost without iptables: a black hole is
a cable that is in no bridge, and one way only is a neighbour believed to have another hardware address.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from types import TracebackType
from typing import Final, NamedTuple, Self

__all__ = ["Fabric", "FabricFailed", "Host", "as_root", "why_not"]

NETWORK: Final = "10.77.0"
"""Where clients look for nodes."""
BACK: Final = "10.77.1"
"""The same hosts by other addresses, which nobody is told of: what a proxy in front of them uses."""
_TOOLS: Final = ("ip", "nsenter", "setpriv", "unshare")
_NOBODY: Final = "02:00:00:00:00:fe"
_START_S: Final = 10.0
_TRIAL: Final = "ip link add name b type bridge && ip link add x type veth peer name y && echo trial"
_HOLD: Final = 'ip link set lo up && echo held && exec cat "$@"'


class FabricFailed(RuntimeError):
    """A namespace, a cable or a rule could not be made; the message is what the tool said."""


class Host(NamedTuple):
    """One machine: its place on the network and the process that holds it."""

    name: str
    number: int
    holder: Process

    @property
    def address(self) -> str:
        """Where it is found."""
        return f"{NETWORK}.{self.number}"

    @property
    def back_address(self) -> str:
        """The other one."""
        return f"{BACK}.{self.number}"

    def command(self, *program: str) -> tuple[str, ...]:
        """What runs a program on this host, under its clock; it is killed when the one who starts it ends."""
        spaces = f"/proc/{self.holder.pid}/ns"
        enter = ("nsenter", f"--net={spaces}/net", f"--time={spaces}/time_for_children")
        return (*enter, "setpriv", "--pdeathsig", "KILL", *program)


def as_root() -> tuple[str, ...]:
    """What makes somebody who is not root one, in a namespace of users; nothing for root."""
    return () if os.geteuid() == 0 else ("unshare", "--user", "--map-root-user")


def why_not() -> str:
    """Why this user cannot have such machines here; empty if it can."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"no {', '.join(missing)} on this machine"
    unshare = (*as_root(), "unshare", "--net", "--time", "--boottime", "1", "--monotonic", "1")
    try:
        trial = subprocess.run(
            [*unshare, "sh", "-c", _TRIAL], capture_output=True, text=True, check=False, timeout=_START_S
        )
    except subprocess.TimeoutExpired:
        return "a network namespace was not there in time"
    if trial.stdout.strip() == "trial":
        return ""
    said = trial.stderr.strip().splitlines() or [f"exit code {trial.returncode}"]
    return f"no network and time namespaces for this user: {said[-1]}"


async def _run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT)
    try:
        out, _ = await asyncio.wait_for(process.communicate(), _START_S)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise FabricFailed(f"{' '.join(command)}: {out.decode('utf-8', 'replace').strip()}")
    return out.decode()


class Fabric:
    """``async with Fabric() as fabric``: a bridge, and hosts on it as they are added."""

    def __init__(self) -> None:
        self.hosts: dict[str, Host] = {}
        self._bridge: Process
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            self._bridge = await self._hold()
            await self._in_bridge("ip", "link", "add", "name", "bridge", "type", "bridge")
            await self._in_bridge("ip", "link", "set", "bridge", "up")
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def add(self, name: str, *, ahead_s: int = 0, fronted: bool = True) -> Host:
        """A host whose boot clock is so far ahead; without ``fronted`` it has its other address only."""
        host = Host(name, 11 + len(self.hosts), await self._hold(ahead_s))
        port, pid = f"port-{name}", str(host.holder.pid)
        peer = ("peer", "name", "eth0", "address", _hardware(host), "netns", pid)
        await self._in_bridge("ip", "link", "add", port, "type", "veth", *peer)
        await self._in_bridge("ip", "link", "set", port, "master", "bridge", "up")
        self.hosts[name] = host
        if fronted:
            await self.on(host, "ip", "address", "add", f"{host.address}/24", "dev", "eth0")
        await self.on(host, "ip", "address", "add", f"{host.back_address}/24", "dev", "eth0")
        await self.connect(name)
        for other in self.hosts.values():
            await self._believe(other, host, _hardware(host))
        return host

    async def stand_in_for(self, name: str, hosts: tuple[str, ...]) -> None:
        """Have the addresses of other hosts end at this one: what a proxy on it listens to."""
        for other in hosts:
            address = f"{self.hosts[other].address}/32"
            await self.on(self.hosts[name], "ip", "address", "add", address, "dev", "lo")

    async def on(self, host: Host, *command: str) -> str:
        """What a command on that host says."""
        return await _run("nsenter", f"--net=/proc/{host.holder.pid}/ns/net", *command)

    # -- what happens to cables ------------------------------------------------------------------------------

    async def disconnect(self, name: str) -> None:
        """Take the interface down: senders on the host are told at once, others hear nothing."""
        await self.on(self.hosts[name], "ip", "link", "set", "eth0", "down")

    async def connect(self, name: str) -> None:
        """Bring it up, with the neighbours that it forgot."""
        host = self.hosts[name]
        await self.on(host, "ip", "link", "set", "eth0", "up")
        for other in self.hosts.values():
            await self._believe(host, other, _hardware(other))

    async def swallow(self, name: str) -> None:
        """Lose all packets, both ways, without a word to anybody."""
        await self._in_bridge("ip", "link", "set", f"port-{name}", "nomaster")

    async def swallow_no_more(self, name: str) -> None:
        """Let packets pass again."""
        await self._in_bridge("ip", "link", "set", f"port-{name}", "master", "bridge")

    async def lose(self, sender: str, receiver: str, *, lost: bool) -> None:
        """Lose what one host sends to another, without a word; or no longer."""
        to = self.hosts[receiver]
        await self._believe(self.hosts[sender], to, _NOBODY if lost else _hardware(to))

    async def throttle(self, name: str, rate: str) -> None:
        """Let so much through, both ways; what waits longer than a second is dropped."""
        shape = ("root", "tbf", "rate", rate, "burst", "4kb", "latency", "1s")
        await self.on(self.hosts[name], "tc", "qdisc", "replace", "dev", "eth0", *shape)
        await self._in_bridge("tc", "qdisc", "replace", "dev", f"port-{name}", *shape)

    async def throttle_no_more(self, name: str) -> None:
        """As fast as it was."""
        await self.on(self.hosts[name], "tc", "qdisc", "delete", "dev", "eth0", "root")
        await self._in_bridge("tc", "qdisc", "delete", "dev", f"port-{name}", "root")

    # -- namespaces ------------------------------------------------------------------------------------------

    async def _in_bridge(self, *command: str) -> None:
        await _run("nsenter", f"--net=/proc/{self._bridge.pid}/ns/net", *command)

    async def _believe(self, host: Host, other: Host, hardware: str) -> None:
        """Fixed neighbours: a lost question after one would be an error for senders, and soon."""
        if host is other:
            return
        for address in (other.address, other.back_address):
            neighbour = (address, "lladdr", hardware, "dev", "eth0", "nud", "permanent")
            await self.on(host, "ip", "neighbour", "replace", *neighbour)

    async def _hold(self, ahead_s: int = 0) -> Process:
        clock = ("--time", "--boottime", str(ahead_s), "--monotonic", str(ahead_s))
        holder = await asyncio.create_subprocess_exec(
            *("unshare", "--net", *clock, "sh", "-c", _HOLD), stdin=PIPE, stdout=PIPE, stderr=STDOUT
        )
        self._stack.push_async_callback(_let_go, holder)
        assert holder.stdout is not None
        line = await asyncio.wait_for(holder.stdout.readline(), _START_S)
        if line != b"held\n":
            raise FabricFailed(f"no namespaces: {line.decode('utf-8', 'replace').strip()}")
        return holder


def _hardware(host: Host) -> str:
    return f"02:00:00:00:00:{host.number:02x}"


async def _let_go(holder: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        holder.kill()
    await holder.communicate()
