"""A network in memory: TCP as its users know it, over links that are cut, slow, one-way and healed again.

A connection is two flows. A flow keeps order, whatever happens; while its link is cut it stands still, and
when the link heals it goes on, as TCP does. What a process has not read waits for it, also while it is
paused: its machine acknowledges without it. A process that is killed has its connections closed by its
machine; a machine that dies says nothing, and answers what still comes with a reset once it is back.
Invariant: bytes arrive whole, once and in order, or the connection ends.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from sim.world import Machine, Process, World

__all__ = ["FakeSocketModule", "Link", "Network"]

KERNEL_BYTES: Final = 256 << 10
"""What the two kernels hold of a flow before a writer sees its buffer grow."""

CHOP_BYTES: Final = 11
"""A write that is chopped is cut in its first frame's header."""


class Link:
    """The way from one machine to another, one direction."""

    def __init__(self, delay_us: int) -> None:
        self.delay_us = delay_us
        self.jitter_us = delay_us // 4
        self.cut = False
        self.flows: dict[Flow, None] = {}


class Item(NamedTuple):
    """Something under way: bytes, or a word of TCP's own."""

    due_us: int
    sent_us: int
    what: str
    data: bytes


class Flow:
    """One direction of a connection."""

    def __init__(self, network: "Network", link: Link, number: int) -> None:
        self.number = number
        self.waiting_bytes = 0
        self.receive: Callable[[Item], None] = lambda _: None
        self.on_space: Callable[[], None] = lambda: None
        self._network = network
        self._link = link
        self._items: deque[Item] = deque()
        self._last_us = 0
        self._last_word = ""
        link.flows[self] = None

    def send(self, what: str, data: bytes = b"") -> None:
        """Put something on its way."""
        if self._last_word == "RST" or (self._last_word == "FIN" and what != "RST"):
            return
        if what in ("FIN", "RST"):
            self._last_word = what
        world, link = self._network.world, self._link
        delay_us = link.delay_us + (world.rng.randrange(link.jitter_us) if link.jitter_us else 0)
        self._last_us = max(self._last_us, world.now_us + delay_us)
        self._items.append(Item(self._last_us, world.now_us, what, data))
        self.waiting_bytes += len(data)
        if not link.cut:
            world.at(self._last_us, self.pump)

    def pump(self) -> None:
        """Deliver what is due, if the link lets it."""
        items, now_us = self._items, self._network.world.now_us
        while items and items[0].due_us <= now_us and not self._link.cut:
            item = items.popleft()
            self.waiting_bytes -= len(item.data)
            if item.data:
                self._network.world.trace_bytes(self.number, item.data)
            self.receive(item)
        if not items and self._last_word:
            self._link.flows.pop(self, None)
        self.on_space()

    def drop(self) -> None:
        """Lose what is under way: its sender has forgotten it."""
        self._items.clear()
        self.waiting_bytes = 0


class Connection:
    """Two endpoints and the flows between them, from the first SYN on."""

    def __init__(
        self, network: "Network", client: "Process", host: str, port: int, waiter: "asyncio.Future[Endpoint]"
    ) -> None:
        server = network.machines[host]
        self.network = network
        self.waiter = waiter
        self._where = (host, port)
        self._there = server
        self._acknowledged = False
        self.out = Flow(network, network.link(client.machine, server), network.next_number())
        self.back = Flow(network, network.link(server, client.machine), network.next_number())
        self.near = Endpoint(self, client, self.out, self.back, (host, port))
        self.far: Endpoint | None = None
        self.out.receive = self._at_server
        self.back.receive = self._at_client
        self.out.send("SYN")

    def _at_server(self, item: Item) -> None:
        if not self._there.up:
            return
        if item.what == "SYN":
            listening = self.network.servers.get(self._where)
            if listening is None:
                self.back.send("RST")
                return
            process, factory = listening
            self.far = Endpoint(self, process, self.back, self.out, ("client", self.out.number))
            self.back.send("ACK")
            process.post(lambda: self._accept(factory))
        elif self.far is None or self.far.gone:
            if item.what == "DATA":
                self.back.send("RST")
        else:
            self.far.receive(item)

    def _accept(self, factory: Callable[[], Any]) -> None:
        assert self.far is not None
        self.far.open(factory())

    def _at_client(self, item: Item) -> None:
        if not self.near.process.machine.up:
            return
        if self.near.gone:
            if item.what == "DATA":
                self.out.send("RST")
        elif self._acknowledged:
            self.near.receive(item)
        else:
            self._acknowledged = item.what == "ACK"
            self.near.process.post(lambda: self._settle(item.what == "ACK"))

    def _settle(self, connected: bool) -> None:
        if self.waiter.done():
            self.near.vanish("RST")
        elif connected:
            self.waiter.set_result(self.near)
        else:
            self.near.gone = True
            self.waiter.set_exception(ConnectionRefusedError(111, "Connection refused"))


class Endpoint(asyncio.Transport):
    """One end of a connection: the transport that a protocol holds."""

    def __init__(
        self, connection: Connection, process: "Process", out: Flow, back: Flow, peer: tuple[str, int]
    ) -> None:
        super().__init__()
        self.process = process
        self._connection = connection
        self.gone = False
        """The process or its kernel has forgotten it."""
        self.connected = False
        self._protocol: Any = None
        self._out = out
        self._peer = peer
        self._unread: deque[Item] = deque()
        self._reading = True
        self._posted = False
        self._heard = False
        self._closing = False
        self._paused = False
        self._high, self._low = 64 << 10, 16 << 10
        out.on_space = self._on_space
        process.world.network.endpoints.setdefault(process, {})[self] = None

    def open(self, protocol: Any) -> None:
        """Tell the protocol that it is connected."""
        self._protocol = protocol
        self.connected = True
        protocol.connection_made(self)
        self._read_soon()

    def receive(self, item: Item) -> None:
        """Keep what came until the process reads it; a reset throws away what was not read."""
        if item.what == "RST":
            self._unread.clear()
        self._unread.append(item)
        self._read_soon()

    def _read_soon(self) -> None:
        if self._unread and self._protocol is not None and self._reading and not self._posted:
            self._posted = True
            self.process.post(self._read)

    def _read(self) -> None:
        self._posted = False
        if self._closing or not self._reading or not self._unread:
            return
        if self._unread[0].what == "DATA":
            if not self._heard:
                self._note_hello(self._unread[0])
            chunks = []
            while self._unread and self._unread[0].what == "DATA":
                chunks.append(self._unread.popleft().data)
            self._hand_over(b"".join(chunks))
            self._read_soon()
        elif self._unread.popleft().what == "FIN":
            if not self._protocol.eof_received():
                self.close()
        else:
            self._closing = self.gone = True
            self._lose(ConnectionResetError(104, "Connection reset by peer"))

    def _note_hello(self, item: Item) -> None:
        """Remember how late the first bytes are read: a node cannot but take that for no delay at all."""
        self._heard = True
        network = self.process.world.network
        network.hello_us_max = max(network.hello_us_max, self.process.world.now_us - item.sent_us)

    def _hand_over(self, data: bytes) -> None:
        protocol = self._protocol
        if not isinstance(protocol, asyncio.BufferedProtocol):
            protocol.data_received(data)
            return
        buffer = memoryview(protocol.get_buffer(-1))
        size = min(len(data), len(buffer))
        buffer[:size] = data[:size]
        if size < len(data):
            self._unread.appendleft(Item(0, 0, "DATA", data[size:]))
        protocol.buffer_updated(size)

    # -- called by the protocol ------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        if self._closing or not data or not self.process.alive:
            return
        data = bytes(data)
        network = self.process.world.network
        if network.chopped and self.process.world.rng.random() < network.chopped:
            self._out.send("DATA", data[:CHOP_BYTES])
            data = data[CHOP_BYTES:]
        if data:
            self._out.send("DATA", data)
        if self.get_write_buffer_size() > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def _on_space(self) -> None:
        if self._paused and not self._closing and self.get_write_buffer_size() <= self._low:
            self._paused = False
            self.process.post(self._resume)

    def _resume(self) -> None:
        if not self._closing and not self._paused:
            self._protocol.resume_writing()

    def get_write_buffer_size(self) -> int:
        return max(0, self._out.waiting_bytes - KERNEL_BYTES)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 64 << 10 if high is None else high
        self._low = self._high // 4 if low is None else low

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._read_soon()

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self.vanish("RST" if self._unread else "FIN")
            self.process.loop.call_soon(self._lose, None)

    def abort(self) -> None:
        if not self._closing:
            self._closing = True
            self.vanish("RST")
            self.process.loop.call_soon(self._lose, None)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._peer if name == "peername" else default

    def _lose(self, error: Exception | None) -> None:
        self._forget()
        self._protocol.connection_lost(error)

    def _forget(self) -> None:
        self.process.world.network.endpoints.get(self.process, {}).pop(self, None)

    # -- called by the network -------------------------------------------------------------------------------

    def vanish(self, word: str | None) -> None:
        """End this side as its kernel does, with FIN, RST, or without a word."""
        if self.gone:
            return
        self.gone = True
        if word != "FIN":
            self._out.drop()
        if word is not None:
            self._out.send(word)

    def break_off(self, machine: "Machine") -> None:
        """The network breaks the connection if it is to this machine, and tells both ends."""
        far = self._connection.far
        if far is None or far.process.machine is not machine or not self.connected:
            return
        for end, out in ((self, self._out), (far, far._out)):
            out.drop()
            if not end.gone:
                end.receive(Item(0, 0, "RST", b""))


class Server:
    """What ``create_server`` returns."""

    def __init__(self, network: "Network", where: tuple[str, int]) -> None:
        self._network = network
        self._where = where

    def close(self) -> None:
        self._network.servers.pop(self._where, None)


class Network:
    """All machines, links, listeners and connections."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.machines: dict[str, Machine] = {}
        self.servers: dict[tuple[str, int], tuple[Process, Callable[[], Any]]] = {}
        self.endpoints: dict[Process, dict[Endpoint, None]] = {}
        self.hello_us_max = 0
        """The longest that a connection's first bytes were under way until they were read."""
        self.chopped = 0.0
        """Share of writes that arrive in two pieces."""
        self._links: dict[tuple[str, str], Link] = {}
        self._numbers = 0

    def next_number(self) -> int:
        """A number for a flow."""
        self._numbers += 1
        return self._numbers

    def link(self, source: "Machine", target: "Machine") -> Link:
        """The link from one machine to another."""
        key = source.name, target.name
        if key not in self._links:
            self._links[key] = Link(self.world.rng.randrange(100, 2_000))
        return self._links[key]

    def cut(self, link: Link) -> None:
        """Let nothing through."""
        link.cut = True

    def heal(self, link: Link) -> None:
        """Let everything through again; what stood still goes on when TCP tries again."""
        if link.cut:
            link.cut = False
            for flow in list(link.flows):
                self.world.after(link.delay_us + self.world.rng.randrange(1_000_000), flow.pump)

    async def connect(self, process: "Process", factory: Callable[[], Any], host: str, port: int) -> Any:
        """Shake hands as TCP does; ``OSError`` if nobody listens, for ever if nobody answers."""
        waiter: asyncio.Future[Endpoint] = process.loop.create_future()
        connection = Connection(self, process, host, port, waiter)
        try:
            endpoint = await waiter
        except BaseException:
            connection.near.vanish("RST")
            connection.near._forget()
            raise
        protocol = factory()
        endpoint.open(protocol)
        return endpoint, protocol

    def listen(self, process: "Process", factory: Callable[[], Any], where: tuple[str, int]) -> Server:
        """Take connections to an address."""
        if where in self.servers:
            raise OSError(98, "Address already in use")
        self.servers[where] = process, factory
        return Server(self, where)

    def reset_between(self, machine: "Machine", others: "list[Machine]") -> None:
        """Break all connections between a machine and others."""
        for process, endpoints in list(self.endpoints.items()):
            if process.machine in others:
                for endpoint in list(endpoints):
                    endpoint.break_off(machine)

    def process_ended(self, process: "Process", *, silently: bool) -> None:
        """Close what a process had open, or forget it with the whole machine."""
        for where, (owner, _) in list(self.servers.items()):
            if owner is process:
                del self.servers[where]
        for endpoint in list(self.endpoints.pop(process, {})):
            word = None if silently else "RST" if self.world.rng.random() < 0.5 else "FIN"
            endpoint.vanish(word)


class FakeSocket:
    """As much of a socket as the listener wants before it hands it to the loop."""

    def __init__(self, *_: Any) -> None:
        self._where: tuple[str, int] = ("", 0)

    def setsockopt(self, *_: Any) -> None: ...

    def setblocking(self, _: bool) -> None: ...

    def bind(self, where: tuple[str, int]) -> None:
        self._where = where

    def getsockname(self) -> tuple[str, int]:
        return self._where

    def close(self) -> None: ...


class FakeSocketModule:
    """The module ``socket``, with sockets that are none."""

    socket = FakeSocket

    def __getattr__(self, name: str) -> Any:
        return getattr(socket, name)
