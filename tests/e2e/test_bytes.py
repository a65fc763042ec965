"""The hostile corpus against a real node, with assertions and without: it answers, closes, and stays up."""

import asyncio
import os
import random
from collections.abc import Iterator

import pytest
from support.raw_peer import RawPeer

from pulsering import messages
from pulsering.wire import HEADER_BYTES, Op, encode_frame
from pulsering_server.local_cluster import LocalCluster, LocalNode

BOUNDS = [0, 1, 4079, 4080, 4081, 2**20 - 17, 2**20 - 16, 2**20 - 15, 2**31 - 1, 2**31, 2**32 - 1]


def corpus() -> Iterator[bytes]:
    """What strangers, broken clients and attackers send; each on a connection of its own."""
    yield from [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(160),
        b"*1\r\n$4\r\nPING\r\n",
        b"\x80" * (1 << 20),
        b"\xc1" * 70_000,
        b"\n\x1b[2J\x07 not a log line of yours\r\n{}",
    ]
    for op in range(256):
        yield encode_frame(op, 1, 0, b"\x93\x01\x00\xc7\x08\x01" + bytes(8))
    for op in Op:
        for bound in BOUNDS:
            frame = bytearray(encode_frame(op, 1, 0, bytes(40)))
            frame[8:12] = bound.to_bytes(4, "little")
            yield bytes(frame)
            yield encode_frame(op, 1, 0, b"\x93\x01\x00\xc9" + bound.to_bytes(4, "big") + b"\x01" + bytes(8))
    for body in (b"\x80", b"\x90", b"\x91", b"\xc0", b"\xcb\x7f\xf8\0\0\0\0\0\0"):
        for op in Op:
            yield encode_frame(op, 1, 0, body * (4000 // len(body)))
    rng = random.Random(50)
    for size in [1, 15, 16, 17, 100, 5000] * 5:
        yield rng.randbytes(size)
        yield b"\xc1\x01" + rng.randbytes(size)


async def torment(node: LocalNode, said: bytes, greeted: bool) -> None:
    host, _, port = node.address.rpartition(":")
    async with RawPeer(host, int(port)) as peer:
        if greeted:
            await peer.greet()
        await peer.say(said)
        peer.half_close()  # so that a node that waits for more need not
        await peer.rest()


@pytest.mark.parametrize("optimised", ["", "1"], ids=["with assertions", "python -O"])
async def test_hostile_bytes_cost_their_own_connection_only(
    optimised: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenarios 46, 48, 50, 51: no AssertionError, no traceback, no stranger's word in the log."""
    monkeypatch.setenv("PYTHONOPTIMIZE", optimised)
    async with LocalCluster(1) as cluster:
        node = cluster.nodes["a"]
        host, _, port = node.address.rpartition(":")
        keys = messages.encode_keys_request(1, 0, (5).to_bytes(8, "little"))
        async with RawPeer(host, int(port)) as friend:
            await friend.greet()
            await friend.ask(Op.HEARTBEAT, keys)
            ours = list(corpus())
            for start in range(0, len(ours), 50):
                some = ours[start : start + 50]
                await asyncio.gather(
                    *(torment(node, said, greeted) for said in some for greeted in (False, True))
                )
            reply = messages.decode_get_reply((await friend.ask(Op.GET, keys)).body, 1, want_ages=False)
            assert bytes(reply.states) == b"\x01"
            users = messages.decode_vitals((await friend.ask(Op.PING)).body).users
            assert users in (1, 2), "the friend's, and key 0 unless its leave came last"
        assert await node.terminate() == 0
        log = node._log_path.read_text()
        assert "Traceback" not in log
        assert "AssertionError" not in log
        assert "conn.fault" not in log
        assert "\x1b" not in log
        assert len(log.splitlines()) < 500, "a flood of strangers is no flood of lines"


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from /proc")
async def test_lengths_without_content_cost_no_memory() -> None:
    """Scenario 47: a count of 2^32-1 with 8 bytes behind it, from 1,000 connections: +10 MB at most."""

    def resident_bytes() -> int:
        with open(f"/proc/{node.pid}/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    frame = encode_frame(Op.GET, 2, 0, b"\x93\x01\x00\xc9\xff\xff\xff\xff\x01" + bytes(8))
    async with LocalCluster(1) as cluster:
        node = cluster.nodes["a"]
        await asyncio.gather(*(torment(node, frame, True) for _ in range(50)))
        before = resident_bytes()
        for _ in range(20):
            await asyncio.gather(*(torment(node, frame, True) for _ in range(50)))
        assert resident_bytes() - before < 10 << 20
        assert len(frame) > HEADER_BYTES
