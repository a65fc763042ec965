"""Each peer's replies are read as they come: right ones pass, wrong answers count, half a reply waits."""

import struct

import numpy as np
import pytest

from pulsering import messages
from pulsering.wire import ErrorCode, Op, encode_frame
from pulsering_bench.peers import (
    Checked,
    Mask,
    Memcached,
    PackedRedis,
    Peer,
    PostgreSQL,
    PulseringNode,
    Redis,
    Request,
    Scale,
    TtlDictionary,
    Valkey,
)

SCALE = Scale(users=1000, ttl_s=20, hold_s=20, core=0)
IDS = np.array([7, 1 << 63, 42, (1 << 64) - 1, 5], np.uint64)
ONLINE = np.array([True, False, True, True, False])
KINDS = [Redis, Valkey, PackedRedis, Memcached, PostgreSQL, TtlDictionary, PulseringNode]


def get_reply(peer: Peer, request: Request, online: Mask) -> bytes:
    """What this server would answer if ``online`` were so."""
    match peer:
        case PackedRedis():
            return b"".join(b"$5\r\n%05d\r\n" % peer.now() if on else b"$-1\r\n" for on in online)
        case Redis():
            return b"*%d\r\n" % len(online) + b"".join(b"$1\r\n1\r\n" if on else b"$-1\r\n" for on in online)
        case Memcached():
            return b"".join(b"HD\r\n" if on else b"EN\r\n" for on in online)
        case PostgreSQL():
            assert request.online is not None
            order = np.argsort(IDS)
            found = IDS[order][online[order]][::-1]  # rows come in any order
            rows = b"".join(b"D" + struct.pack(">ihiQ", 18, 1, 8, int(user)) for user in found)
            tag = b"SELECT %d\0" % len(found)
            return b"2\0\0\0\4" + rows + b"C" + struct.pack(">i", len(tag) + 4) + tag + b"Z\0\0\0\5I"
        case TtlDictionary():
            return online.astype(np.uint8).tobytes()
        case PulseringNode():
            states = sum(int(on) << 2 * place for place, on in enumerate(online)).to_bytes(2, "little")
            body = messages.encode_get_reply(1, 0, len(online), states)
            return encode_frame(Op.GET, 9, 12345, body, reply=True)
    raise AssertionError(peer)


def refresh_reply(peer: Peer, taken: int) -> bytes:
    """What this server would answer if it took only the first ``taken`` of five heartbeats."""
    failed = len(IDS) - taken
    match peer:
        case PackedRedis():
            return b":1\r\n" + b":0\r\n" * (taken - 1) + b"-OO\r" * failed
        case Redis():
            return b"+OK\r\n" * taken + b"-OOM command not allowed\r\n" * failed
        case Memcached():
            return b"NS\r\n" * failed + b"MN\r\n"
        case PostgreSQL():
            tag = b"INSERT 0 %d\0" % taken
            return b"2\0\0\0\4C" + struct.pack(">i", len(tag) + 4) + tag + b"Z\0\0\0\5I"
        case TtlDictionary():
            return b"\1" if taken == len(IDS) else b"\0"
        case PulseringNode():
            body = messages.encode_write_reply(messages.WriteReply(1, taken, 0, failed, 0))
            return encode_frame(Op.HEARTBEAT, 9, 12345, body, reply=True)
    raise AssertionError(peer)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def peer(request: pytest.FixtureRequest) -> Peer:
    made: Peer = request.param(SCALE)
    return made


def test_a_right_reply_passes_with_others_around_it(peer: Peer) -> None:
    request = peer.get(IDS, ONLINE)
    peer.stamp(request)
    reply = get_reply(peer, request, ONLINE)
    assert peer.check(request, reply + reply, 0) == Checked(len(reply), 0)
    assert peer.check(request, reply + reply, len(reply)) == Checked(2 * len(reply), 0)


@pytest.mark.parametrize("wrong", [[0], [1], [4], [0, 1], [0, 1, 2, 3, 4]])
def test_every_wrong_answer_counts_and_the_next_reply_is_found(peer: Peer, wrong: list[int]) -> None:
    request = peer.get(IDS, ONLINE)
    lie = ONLINE.copy()
    lie[wrong] = ~lie[wrong]
    reply = get_reply(peer, request, lie)
    right = get_reply(peer, request, ONLINE)
    checked = peer.check(request, reply + right, 0)
    assert checked is not None
    assert (checked.end, checked.wrong) == (len(reply), len(wrong))
    assert peer.check(request, reply + right, checked.end) == Checked(len(reply) + len(right), 0)


def test_a_reply_that_is_not_whole_waits(peer: Peer) -> None:
    get, refresh = peer.get(IDS, ONLINE), peer.refresh(IDS)
    lie = get_reply(peer, get, ~ONLINE)
    for request, reply in (
        (get, get_reply(peer, get, ONLINE)),
        (get, lie),
        (refresh, refresh_reply(peer, len(IDS))),
    ):
        for size in range(len(reply)):
            assert peer.check(request, reply[:size], 0) is None, size
        assert peer.check(request, reply, 0) is not None


def test_a_refresh_that_was_taken_passes_and_one_that_was_not_does_not(peer: Peer) -> None:
    request = peer.refresh(IDS)
    peer.stamp(request)
    good, bad = refresh_reply(peer, len(IDS)), refresh_reply(peer, len(IDS) - 2)
    assert peer.check(request, good + bad, 0) == Checked(len(good), 0)
    checked = peer.check(request, bad, 0)
    assert checked is not None
    assert checked.wrong >= 2
    assert checked.end == len(bad)


def test_batches_of_one_and_of_many_are_whole(peer: Peer) -> None:
    for count in (1, 1000):
        ids = np.arange(count, dtype=np.uint64)
        assert peer.refresh(ids).users == peer.get(ids, np.ones(count, bool)).users == count


def test_a_packed_time_that_is_too_old_is_offline() -> None:
    peer = PackedRedis(SCALE)
    request = peer.get(IDS[:1], np.array([True]))
    assert peer.check(request, b"$5\r\n%05d\r\n" % (peer.now() - SCALE.hold_s - 1), 0) == Checked(11, 1)


def test_busy_is_a_refusal_and_unknown_is_not_wrong_for_strangers() -> None:
    peer = PulseringNode(SCALE)
    request = peer.get(IDS, ONLINE)
    busy = encode_frame(Op.ERROR, 9, 0, messages.encode_error(ErrorCode.BUSY, "busy", 250), reply=True)
    assert peer.check(request, busy, 0) == Checked(len(busy), 0, True)
    broken = encode_frame(Op.ERROR, 9, 0, messages.encode_error(ErrorCode.DRAINING, "away", 0), reply=True)
    assert peer.check(request, broken, 0) == Checked(len(broken), 5)
    states = sum((1 if on else 2) << 2 * place for place, on in enumerate(ONLINE)).to_bytes(2, "little")
    cold = encode_frame(Op.GET, 9, 0, messages.encode_get_reply(1, 5, 5, states), reply=True)
    assert peer.check(request, cold, 0) == Checked(len(cold), 0)
    assert peer.unknown == 2


def test_frames_are_stamped_with_an_id_of_their_own_and_the_time() -> None:
    peer = PulseringNode(SCALE)
    request = peer.refresh(IDS)
    stamps = []
    for _ in range(3):
        peer.stamp(request)
        stamps.append(struct.unpack_from("<I", request.data, 4)[0])
    assert stamps == [1, 2, 3]
    assert struct.unpack_from("<I", request.data, 12)[0] > 0


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_peer_says_how_it_is_set_up_and_installed(kind: type[Peer]) -> None:
    for words in (kind.title, kind.design, kind.install, kind.client_title):
        assert words
