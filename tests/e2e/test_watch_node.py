"""Watching over real sockets: order, pulses, slow readers, many at once, and what is left when they go."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from support.node_driver import TICK_MS, TTL_MS, pack
from support.raw_peer import RawPeer
from support.served import Served, served

from pulsering import limits, messages
from pulsering.status import Cause
from pulsering.wire import Frame, Op
from pulsering_server.table import COMPILED

ONLINE = 1


def watch_body(*keys: int, want: int = messages.WATCH) -> bytes:
    return messages.encode_keys_request(1, want, pack(keys))


def beat_body(*keys: int) -> bytes:
    return messages.encode_keys_request(1, 0, pack(keys))


def is_push(frame: Frame) -> bool:
    return frame.op == Op.WATCH and frame.is_reply and not frame.request_id


async def next_change(peer: RawPeer) -> messages.WatchPush:
    """The next push with something in it."""
    while True:
        frame = await peer.frame()
        if is_push(frame) and (push := messages.decode_watch_push(frame.body)).causes:
            return push


async def told(peer: RawPeer) -> tuple[list[int], list[Cause]]:
    push = await next_change(peer)
    return memoryview(bytes(push.keys)).cast("Q").tolist(), [Cause(cause) for cause in push.causes]


def tick(node: Served, ms: int) -> None:
    """Let time pass, and the node live through it."""
    node.world.advance(ms)


async def test_a_change_by_one_peer_is_pushed_to_another() -> None:
    async with served() as node, node.peer() as watcher, node.peer() as other:
        node.world.warm()
        await watcher.greet()
        await other.greet()
        assert not is_push(await watcher.ask(Op.WATCH, watch_body(1, 2)))
        await other.ask(Op.HEARTBEAT, beat_body(1))
        assert await told(watcher) == ([1], [Cause.HEARTBEAT])
        await other.ask(Op.LEAVE, beat_body(1))
        assert await told(watcher) == ([1], [Cause.LEFT])
        await other.ask(Op.HEARTBEAT, beat_body(2))
        assert await told(watcher) == ([2], [Cause.HEARTBEAT])
        tick(node, TTL_MS + 2 * TICK_MS)
        assert await told(watcher) == ([2], [Cause.EXPIRED])


async def test_the_reply_comes_before_any_push_about_its_keys() -> None:
    """Also where all is said in one breath: what is in the snapshot is not pushed again."""
    async with served() as node, node.peer() as peer:
        node.world.warm()
        await peer.greet()
        await peer.say(
            peer.request(Op.WATCH, watch_body(1))
            + peer.request(Op.HEARTBEAT, beat_body(1, 2))
            + peer.request(Op.WATCH, watch_body(2))
            + peer.request(Op.LEAVE, beat_body(2))
        )
        frames = [await peer.frame() for _ in range(5)]
        assert [is_push(frame) for frame in frames] == [False, False, False, False, True]
        assert messages.decode_watch_reply(frames[2].body, 1).states == bytes([ONLINE])
        push = messages.decode_watch_push(frames[4].body)
        assert sorted(memoryview(bytes(push.keys)).cast("Q").tolist()) == [1, 2]


async def test_who_watches_hears_a_pulse_and_who_does_not_hears_nothing() -> None:
    async with served() as node, node.peer() as watcher, node.peer() as other:
        await watcher.greet()
        await other.greet()
        await watcher.ask(Op.WATCH, watch_body())
        for _ in range(3):
            tick(node, limits.WATCH_PULSE_MS_MAX)
            frame = await watcher.frame()
            assert is_push(frame)
            assert not messages.decode_watch_push(frame.body).causes
        assert (await other.ask(Op.PING)).op == Op.PING


async def test_who_does_not_read_holds_little_and_hears_the_latest() -> None:
    """The kernel takes some, then it is coalesced: memory does not grow with what happened."""
    keys = range(8_000)
    async with (
        served(buffers_bytes=1 << 20) as node,
        node.peer(receive_buffer_bytes=4096) as slow,
        node.peer() as other,
    ):
        node.world.warm()
        await slow.greet()
        await other.greet()
        await slow.ask(Op.WATCH, watch_body(*keys))
        watched = node.core.watchers.set
        while watched.coalesced < 100_000:
            await other.ask(Op.HEARTBEAT, beat_body(*keys))
            await other.ask(Op.LEAVE, beat_body(*keys))
            assert node.listener.held_bytes < 4 * limits.OUTPUT_PAUSE_BYTES
        await other.ask(Op.HEARTBEAT, beat_body(*keys))
        last: dict[int, int] = {}
        pushed = 0
        while pushed < sum(watched.changes) - watched.coalesced:
            push = await next_change(slow)
            for i, key in enumerate(memoryview(bytes(push.keys)).cast("Q").tolist()):
                last[key] = push.states[i // 4] >> i % 4 * 2 & 3
                pushed += 1
        assert last == dict.fromkeys(keys, ONLINE)


async def test_one_user_is_watched_by_many() -> None:
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(served())
        node.world.warm()
        peers = [await stack.enter_async_context(node.peer()) for _ in range(200)]
        for peer in peers:
            await peer.greet()
            await peer.ask(Op.WATCH, watch_body(7))
        await peers[0].say(peers[0].request(Op.HEARTBEAT, beat_body(7)))
        assert await asyncio.gather(*map(told, peers)) == [([7], [Cause.HEARTBEAT])] * 200
        for peer in peers:
            await peer.close()
        await node.until(lambda: not len(node.core.watchers))
        assert node.core.watchers.set.watches == 0


@pytest.mark.skipif(not COMPILED, reason="too many for the twin")
async def test_one_connection_watches_a_hundred_thousand() -> None:
    count, part = 100_000, limits.KEYS_PER_FRAME
    async with served() as node, node.peer() as watcher, node.peer() as other:
        node.world.warm()
        await watcher.greet()
        await other.greet()
        for first in range(0, count, part):
            await watcher.ask(Op.WATCH, watch_body(*range(first, min(count, first + part))))
        for first in range(0, count, part):
            await other.ask(Op.HEARTBEAT, beat_body(*range(first, min(count, first + part))))
        found: set[int] = set()
        while len(found) < count:
            found.update((await told(watcher))[0])
        tick(node, TTL_MS)
        found.clear()
        node.world.now_ms += 2 * TICK_MS
        while node.core.maintain(node.world.now_ms, 65_536):
            pass
        while len(found) < count:
            found.update((await told(watcher))[0])
        await watcher.close()
        await node.until(lambda: not len(node.core.watchers))
        while node.core.maintain(node.world.now_ms, 65_536):
            pass
        assert node.core.watchers.set.watches == 0
