"""The listener under many peers at once, on real sockets: what they hold, and who pays for whom (nobody)."""

import asyncio
import random
from contextlib import AsyncExitStack

from support.loops import on_each_loop
from support.node_driver import frames_in, pack, refusal
from support.raw_peer import PATIENCE_S, RawPeer
from support.served import Served, served

from pulsering import limits, messages
from pulsering.wire import ErrorCode, Op
from pulsering_server.stats import Close


async def peers_of(node: Served, stack: AsyncExitStack, count: int, **options: int) -> list[RawPeer]:
    return [await stack.enter_async_context(node.peer(**options)) for _ in range(count)]


@on_each_loop
async def test_peers_that_never_read_hold_little_and_end_alone() -> None:
    """Scenario 52, with 10 peers instead of 50: far below 4 MiB each, the others served, closed in time."""
    asked = messages.encode_keys_request(1, messages.WANT_AGES, bytes(8 * 1024))
    async with served() as node, node.peer() as other, AsyncExitStack() as stack:
        await other.greet()
        peers = await peers_of(node, stack, 10, receive_buffer_bytes=4096)
        for peer in peers:
            await peer.greet()
            peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
            peer.writer.write(b"".join(peer.request(Op.GET, asked) for _ in range(1000)))
        await node.until(lambda: node.stats.pauses == len(peers))
        most = max(connection.held_bytes for connection in node.listener._connections)
        assert most <= limits.OUTPUT_PAUSE_BYTES + 2 * limits.RECEIVE_BYTES < limits.OUTPUT_CLOSE_BYTES
        assert node.listener.held_bytes <= len(peers) * most
        for _ in range(100):
            await other.ask(Op.PING)
        node.world.advance(limits.OUTPUT_TIMEOUT_MS)
        await node.until(lambda: node.stats.connections_closed[Close.UNREAD] == len(peers))
        assert node.listener.held_bytes == 0
        await other.ask(Op.PING)


@on_each_loop
async def test_strangers_who_never_read_get_a_few_words() -> None:
    """Scenario 52, before HELLO: each is told once and closed, at far less than 16 KiB."""
    asked = messages.encode_keys_request(1, 0, bytes(8 * 400))
    async with served() as node, AsyncExitStack() as stack:
        peers = await peers_of(node, stack, 50)
        for peer in peers:
            peer.writer.write(b"".join(peer.request(Op.GET, asked) for _ in range(100)))
        for peer in peers:
            said = await peer.rest()
            if said:  # a reset may overtake the words: the peer was still sending
                assert refusal(frames_in(said)[0]).code == ErrorCode.HELLO_REQUIRED
            assert len(said) < 16 << 10
        await node.until(lambda: node.stats.connections_closed[Close.HELLO_REQUIRED] == len(peers))
        assert node.listener.held_bytes == 0
        assert node.stats.keys_read == 0


@on_each_loop
async def test_a_byte_now_and_then_keeps_no_frame_alive() -> None:
    """Scenario 53, with 100 peers instead of 2,000: a byte each 4 s of a large frame; closed within 10 s."""
    async with served() as node, AsyncExitStack() as stack:
        peers = await peers_of(node, stack, 100)
        frames = []
        for peer in peers:
            await peer.greet()
            frames.append(peer.request(Op.GET, messages.encode_keys_request(1, 0, bytes(8 * 8192))))
        start_ms = node.world.now_ms
        for sent in range(3):
            received = node.stats.bytes_received
            left = node.stats.connections_open
            for peer, frame in zip(peers, frames, strict=True):
                await peer.say(frame[sent : sent + 1])
            if left == len(peers):
                await node.until(lambda since=received: node.stats.bytes_received == since + len(peers))  # type: ignore[misc]
                assert node.listener.held_bytes <= 3 * len(peers)
            node.world.advance(4_000)
            late = node.world.now_ms - start_ms >= limits.FRAME_TIMEOUT_MS
            await node.until(lambda late=late: not late or node.stats.connections_open == 0)  # type: ignore[misc]
        assert node.world.now_ms - start_ms <= 12_000
        assert node.stats.connections_closed[Close.FRAME_TIMEOUT] == len(peers)


@on_each_loop
async def test_frames_of_many_peers_cut_anywhere_never_mix() -> None:
    """All connections are read into one buffer: what one sent must be used up before the next is read."""
    rng = random.Random(8)
    count, frames = 20, 30
    async with served() as node, AsyncExitStack() as stack:
        peers = await peers_of(node, stack, count)
        for peer in peers:
            await peer.greet()

        async def talk(number: int, peer: RawPeer) -> None:
            sizes = [rng.choice([1, 2, 9, 100, 8192]) for _ in range(frames)]
            keys = [pack(range(number << 40, (number << 40) + size)) for size in sizes]
            data = b"".join(
                peer.request(Op.HEARTBEAT, messages.encode_keys_request(1, 0, each)) for each in keys
            )
            while data:
                cut = rng.choice([1, 7, 16, 17, 1000, 65_000, 300_000])
                await peer.say(data[:cut])
                data = data[cut:]
                await asyncio.sleep(0)
            for index, size in enumerate(sizes):
                reply = await peer.frame()
                assert reply.request_id == index + 2
                assert messages.decode_write_reply(reply.body, size).accepted == size

        async with asyncio.timeout(4 * PATIENCE_S):
            await asyncio.gather(*(talk(number, peer) for number, peer in enumerate(peers)))
        assert node.listener.held_bytes == 0
        assert node.stats.connections_closed[Close.BAD_FRAME] == 0


@on_each_loop
async def test_a_firehose_of_full_frames_leaves_a_turn_to_each_of_the_others() -> None:
    """The largest frames are bounded by their keys: a ping waits for a turn of it, not for its end."""
    asked = messages.encode_keys_request(1, 0, bytes(8 * limits.KEYS_PER_FRAME))
    async with served() as node, node.peer() as firehose, node.peer() as other:
        await firehose.greet()
        await other.greet()
        frames = 200
        firehose.writer.write(b"".join(firehose.request(Op.GET, asked) for _ in range(frames)))
        await node.until(lambda: node.stats.requests[Op.GET] > 0)
        before = node.stats.requests[Op.GET]
        await other.ask(Op.PING)
        during = node.stats.requests[Op.GET] - before
        assert during < frames - before, "the other had to wait for all of it"
        async with asyncio.timeout(4 * PATIENCE_S):
            for _ in range(frames):
                await firehose.frame()
