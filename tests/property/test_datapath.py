"""The data path answers as the session does: the same bytes in, the same bytes out, whatever they are.

Two nodes get one stream, cut the same way; one of them has the compiled data path taken out. Skipped where
there is no compiled one, as then there is nothing to compare.
"""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.node_driver import World, hello_body, pack

from pulsering import frame_age, messages
from pulsering.wire import Op, encode_frame
from pulsering_server import _datapath_reference
from pulsering_server.auth import Auth, Role
from pulsering_server.datapath import DataPath, FrameAge
from pulsering_server.session import Session

pytestmark = pytest.mark.skipif(
    DataPath is _datapath_reference.DataPath, reason="the data path is not compiled here"
)

TOKEN = "0123456789abcdef"
HELLO = encode_frame(Op.HELLO, 0, 1000, hello_body(token=TOKEN))

ids = st.integers(0, 2**32 - 1)
keys = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 9), max_size=9).map(pack)
sender_ms = st.integers(0, 40_000)
uints = st.sampled_from([0, 1, 127, 128, 255, 256, 65535, 65536, 2**32 - 1])


@st.composite
def data_frames(draw: st.DrawFn) -> bytes:
    op = draw(st.sampled_from([Op.HEARTBEAT, Op.LEAVE, Op.GET]))
    argument = 0 if op == Op.HEARTBEAT else draw(st.sampled_from([0, 1]) if op == Op.GET else uints)
    body = messages.encode_keys_request(draw(uints), argument, draw(keys))
    return encode_frame(op, draw(ids), draw(sender_ms), body)


@st.composite
def other_frames(draw: st.DrawFn) -> bytes:
    op = draw(st.sampled_from([*Op, 0, 77]))
    body = draw(
        st.sampled_from([messages.EMPTY_BODY, messages.encode_count_request(1, ()), b""])
        | st.binary(max_size=12)
        | st.builds(messages.encode_keys_request, uints, uints, keys)
    )
    return encode_frame(op, draw(ids), draw(sender_ms), body)


@st.composite
def damaged_frames(draw: st.DrawFn) -> bytes:
    frame = bytearray(draw(data_frames()))
    frame[draw(st.integers(0, len(frame) - 1))] = draw(st.integers(0, 255))
    return bytes(frame)


streams = st.lists(data_frames() | data_frames() | other_frames() | damaged_frames(), max_size=12).map(
    b"".join
)


def world(*, compiled: bool, role: Role | None) -> tuple[World, Session]:
    each = World(keys_per_frame=8, output_pause_bytes=200)
    core = each.cores["a"]
    core.auth = Auth([(role, TOKEN)]) if role is not None else None
    if not compiled:
        core.data_path = _datapath_reference.DataPath(core.table, 8, 1 << 20, core.busy_body)
    return each, Session(core, each.now_ms)


@given(
    stream=streams,
    cuts=st.lists(st.integers(1, 60), min_size=1, max_size=30),
    steps=st.integers(0, 9_000),
    overloaded=st.booleans(),
    role=st.sampled_from([None, *Role]),
)
def test_the_same_stream_gets_the_same_answers(
    stream: bytes, cuts: list[int], steps: int, overloaded: bool, role: Role | None
) -> None:
    """Scenarios 46 and 49 for the compiled path: cut or damaged anywhere, overloaded or not, in any role."""
    worlds = [world(compiled=True, role=role), world(compiled=False, role=role)]
    outputs = []
    for each, session in worlds:
        rng = random.Random(steps)
        output = [session.receive(HELLO, each.now_ms)]
        each.cores["a"].note_load(each.now_ms, waited=not overloaded)
        rest = stream
        for cut in [*cuts, len(stream)]:
            each.advance(rng.randint(0, steps), step_ms=9_000)
            output.append(session.receive(rest[:cut], each.now_ms, work_max=24))
            while session.backlog:
                output.append(session.receive(b"", each.now_ms, work_max=24))
            rest = rest[cut:]
        stats = each.cores["a"].stats
        timed = {op: durations.count for op, durations in stats.service.items()}
        outputs.append((b"".join(output), session.closed, stats, timed))
    assert outputs[0] == outputs[1]


@given(
    first=st.integers(0, 2**32 - 1),
    samples=st.lists(st.tuples(st.integers(0, 100_000), st.integers(-50_000, 200_000)), max_size=30),
)
def test_the_age_of_a_frame_is_the_same(first: int, samples: list[tuple[int, int]]) -> None:
    now = 5_000_000
    twins = FrameAge(first, now), frame_age.FrameAge(first, now)
    sender = first
    for passed, drift in samples:
        now += passed
        sender = (sender + passed + drift) % 2**32
        assert twins[0].age_ms(sender, now) == twins[1].age_ms(sender, now)
