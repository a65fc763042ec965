"""The listener on real sockets and a clock of the test's own: what it bounds, and that it lets go of all."""

import asyncio
import contextlib
from contextlib import AsyncExitStack

from support.loops import on_each_loop
from support.node_driver import frames_in, pack, refusal
from support.raw_peer import PATIENCE_S, RawPeer
from support.served import Served, served

from pulsering import limits, messages
from pulsering.wire import ErrorCode, Op
from pulsering_server.stats import Close


@on_each_loop
async def test_requests_are_answered_in_order() -> None:
    async with served() as node, node.peer() as peer:
        assert (await peer.greet()).node == "a"
        await peer.say(b"".join(peer.request(Op.PING) for _ in range(500)))
        assert [(await peer.frame()).request_id for _ in range(500)] == list(range(2, 502))
        beat = await peer.ask(Op.HEARTBEAT, messages.encode_keys_request(1, 0, pack([1, 2])))
        assert messages.decode_write_reply(beat.body, 2).accepted == 2


@on_each_loop
async def test_a_connection_too_many_is_told_busy_and_counted() -> None:
    """Scenario 54, its gentle side: those inside are served, the one outside is told so."""
    async with served(connections=2) as node, node.peer() as first, node.peer() as second:
        await first.greet()
        await second.greet()
        async with node.peer() as third:
            error = await third.error()
            assert (error.code, error.after_ms) == (ErrorCode.BUSY, limits.RECONNECT_MS_MAX)
            assert await third.rest() == b""
        await first.ask(Op.PING)
        await second.close()
        await node.until(lambda: node.stats.connections_open == 1)
        async with node.peer() as fourth:
            await fourth.greet()
        assert node.stats.connections_closed[Close.BUSY] == 1


@on_each_loop
async def test_strangers_are_answered_closed_and_counted() -> None:
    """Scenario 50, over TCP."""
    strangers = {
        Close.FOREIGN_HTTP: b"GET / HTTP/1.1\r\nHost: presence\r\n\r\n",
        Close.FOREIGN_TLS: b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(160),
        Close.FOREIGN_REDIS: b"*1\r\n$4\r\nPING\r\n",
        Close.FOREIGN_OTHER: b"\x00\x01\x02\x03",
    }
    async with served() as node:
        for reason, said in strangers.items():
            async with node.peer() as peer:
                await peer.say(said)
                assert b"this port is a Pulsering node" in await peer.rest()
            await node.until(lambda reason=reason: node.stats.connections_closed[reason] == 1)  # type: ignore[misc]


@on_each_loop
async def test_what_is_behind_a_bad_frame_is_never_answered() -> None:
    async with served() as node, node.peer() as peer:
        await peer.greet()
        await peer.say(b"\x00" + peer.request(Op.PING) * 100)
        (last,) = frames_in(await peer.rest())
        assert refusal(last).code == ErrorCode.BAD_FRAME
        await node.until(lambda: node.stats.connections_closed[Close.BAD_FRAME] == 1)
        assert node.stats.requests[Op.PING] == 0


@on_each_loop
async def test_one_sweep_ends_all_who_are_overdue() -> None:
    """Scenario 53: no HELLO, half a frame, nothing at all: each has its time and its reason."""
    async with served() as node, node.peer() as mute, node.peer() as slow, node.peer() as idle:
        await slow.greet()
        await idle.greet()
        await slow.say(slow.request(Op.PING)[:-1])
        await node.until(lambda: node.stats.connections_open == 3)
        await node.until(lambda: node.stats.bytes_received > 16 * 3 + 30)
        node.world.advance(limits.HELLO_TIMEOUT_MS)
        assert (await mute.error()).code == ErrorCode.HELLO_TIMEOUT
        node.world.advance(limits.FRAME_TIMEOUT_MS)
        assert (await slow.error()).code == ErrorCode.FRAME_TIMEOUT
        await idle.ask(Op.PING)
        node.world.advance(limits.IDLE_TIMEOUT_MS)
        assert await idle.rest() == b""
        assert node.stats.connections_closed[Close.HELLO_TIMEOUT] == 1
        assert node.stats.connections_closed[Close.FRAME_TIMEOUT] == 1
        await node.until(lambda: node.stats.connections_closed[Close.IDLE] == 1)


async def ask_without_reading(node: Served, peer: RawPeer) -> None:
    """Ask for topologies until the node stops reading."""
    await peer.greet()
    peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
    asked = b"".join(peer.request(Op.TOPOLOGY) for _ in range(2_000))
    async with asyncio.timeout(PATIENCE_S):
        while node.stats.pauses == 0:
            peer.writer.write(asked)
            await asyncio.sleep(0)
            if peer.writer.transport.get_write_buffer_size() > 4 << 20:
                await asyncio.sleep(0)
                asked = b""


@on_each_loop
async def test_a_peer_that_does_not_read_is_not_read_and_in_the_end_closed() -> None:
    """Scenario 52: what lies unread stays bounded, others are served, and the time for it is bounded too."""
    async with served() as node, node.peer(receive_buffer_bytes=4096) as peer, node.peer() as other:
        await other.greet()
        await ask_without_reading(node, peer)
        (connection,) = [c for c in node.listener._connections if c._paused_ms is not None]
        unread = connection._transport.get_write_buffer_size() + sum(map(len, connection._output))
        assert unread <= 2 * limits.OUTPUT_PAUSE_BYTES
        received = node.stats.bytes_received
        for _ in range(100):
            await other.ask(Op.PING)
        assert node.stats.bytes_received - received == 100 * 17, "only the other peer was read"
        node.world.advance(limits.OUTPUT_TIMEOUT_MS)
        await node.until(lambda: node.stats.connections_closed[Close.UNREAD] == 1)
        await other.ask(Op.PING)


@on_each_loop
async def test_a_peer_that_reads_again_gets_every_answer() -> None:
    async with served() as node, node.peer(receive_buffer_bytes=4096) as peer:
        await peer.greet()
        peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
        count = 0
        async with asyncio.timeout(PATIENCE_S):
            while node.stats.pauses == 0:
                peer.writer.write(peer.request(Op.TOPOLOGY))
                count += 1
                await asyncio.sleep(0)
        peer.reader._transport.resume_reading()  # type: ignore[attr-defined]
        peer.reader._paused = False  # type: ignore[attr-defined]
        assert [(await peer.frame()).request_id for _ in range(count)] == list(range(2, count + 2))


@on_each_loop
async def test_a_firehose_does_not_starve_the_others() -> None:
    """One connection with thousands of frames at hand yields after each slice."""
    async with served() as node, node.peer() as firehose, node.peer() as other:
        await firehose.greet()
        await other.greet()
        frames = 20_000
        data = b"".join(firehose.request(Op.PING) for _ in range(frames))
        drinking = asyncio.create_task(_drink(firehose, frames))
        await firehose.say(data)
        await other.ask(Op.PING)
        assert node.stats.requests[Op.PING] < frames, "the other had to wait for all of it"
        async with asyncio.timeout(PATIENCE_S * 2):
            await drinking


async def _drink(peer: RawPeer, frames: int) -> None:
    for _ in range(frames):
        await peer.frame()


@on_each_loop
async def test_draining_ends_when_the_last_peer_has_left() -> None:
    """Scenario 56: GOAWAY to all; who never said HELLO is closed, who leaves is not waited for."""
    async with served() as node, node.peer() as idle, node.peer() as half_open:
        await idle.greet()
        await node.until(lambda: node.stats.connections_open == 2)
        draining = asyncio.create_task(node.listener.drain(int(PATIENCE_S * 1000)))
        away = await idle.frame()
        assert (away.op, messages.decode_error(away.body).code) == (Op.GOAWAY, ErrorCode.DRAINING)
        assert (await half_open.error()).code == ErrorCode.DRAINING
        vitals = messages.decode_vitals((await idle.ask(Op.PING)).body)
        assert vitals.draining
        assert not draining.done()
        await idle.close()
        assert await draining == 0
        with contextlib.suppress(ConnectionError):
            async with node.peer():
                raise AssertionError("a draining node accepted a connection")


@on_each_loop
async def test_draining_ends_in_time_whoever_stays() -> None:
    async with served() as node, node.peer() as peer:
        await peer.greet()
        assert await node.listener.drain(10) == 1


@on_each_loop
async def test_a_fault_of_ours_costs_one_connection_not_the_node() -> None:
    async with served() as node, node.peer() as victim, node.peer() as other:
        await victim.greet()
        await other.greet()

        def fail(*_: object) -> None:
            raise ZeroDivisionError

        node.core.vitals = fail  # type: ignore[assignment]
        await victim.say(victim.request(Op.PING))
        assert await victim.rest() == b""
        assert (await other.ask(Op.TOPOLOGY)).op == Op.TOPOLOGY
        assert node.stats.connections_closed[Close.FAULT] == 1


@on_each_loop
async def test_lengths_without_content_from_many_connections() -> None:
    """Scenario 47, over TCP: 200 connections announce 4 GB each; every one gets its error."""
    async with served() as node, AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(node.peer()) for _ in range(200)]
        for peer in peers:
            await peer.greet()
        for peer in peers:
            frame = bytearray(peer.request(Op.GET, bytes(8)))
            frame[8:12] = b"\xff" * 4
            await peer.say(bytes(frame))
        for peer in peers:
            assert (await peer.error()).code == ErrorCode.FRAME_TOO_LARGE


@on_each_loop
async def test_an_overloaded_node_serves_whoever_is_in_time() -> None:
    """Scenario 55, over TCP: late gets hear when to come again, heartbeats are taken; then all is normal."""
    keys = messages.encode_keys_request(1, 0, pack([1, 2]))
    async with served() as node, node.peer() as peer:
        await peer.greet()
        node.idle = False
        await node.until(lambda: node.core.overload.pressed)
        assert (await peer.ask(Op.GET, keys)).op == Op.GET
        late = b"".join(peer.request(op, keys) for op in [Op.GET, Op.HEARTBEAT] * 100)
        node.world.advance(2 * limits.GET_AGE_MS_MAX)
        await peer.say(late)
        for _ in range(100):
            error = await peer.error()
            assert (error.code, error.after_ms) == (ErrorCode.BUSY, limits.BUSY_AFTER_MS)
            beat = await peer.frame()
            assert messages.decode_write_reply(beat.body, 2).accepted == 2
        node.idle = True
        node.world.advance(limits.OVERLOAD_MS)
        await node.until(lambda: not node.core.overload.pressed)
        assert (await peer.ask(Op.GET, keys)).op == Op.GET
        assert node.stats.overloads == 1


@on_each_loop
async def test_beyond_what_all_may_hold_who_holds_most_is_cut_off() -> None:
    """Scenario 52, all together: half-sent frames of many peers count as one; the small ones stay."""
    async with served(buffers_bytes=1 << 20) as node, AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(node.peer()) for _ in range(5)]
        sizes = [100_000, 200_000, 300_000, 400_000, 1_000]
        for peer, size in zip(peers, sizes, strict=True):
            await peer.greet()
            received = node.stats.bytes_received
            whole = peer.request(Op.GET, messages.encode_keys_request(1, 0, bytes(8 * 100_000)))
            await peer.say(whole[:size])
            await node.until(lambda since=received, size=size: node.stats.bytes_received == since + size)  # type: ignore[misc]
        assert node.listener.held_bytes == sum(sizes)
        await peers[1].say(bytes(50_000))
        assert await peers[3].rest() == b""
        await node.until(lambda: node.stats.connections_closed[Close.BUFFERS] == 1)
        assert node.listener.held_bytes == sum(sizes) + 50_000 - 400_000
        await peers[0].close()
        await node.until(lambda: node.listener.held_bytes == sum(sizes) + 50_000 - 500_000)
        assert node.stats.connections_open == 3
