"""Every release and this one understand each other, both ways: rolling upgrade and rollback are safe.

``tests/vectors/releases/README.md`` says how a release gets its recording.
"""

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from support.recorded import (
    OPTIONS,
    Header,
    RecordedNode,
    World,
    body_of,
    frames_of,
    play,
    record,
    recordings,
)

from pulsering import PresenceClient, messages
from pulsering.wire import FrameReader, Op
from pulsering_server.session import Session

if TYPE_CHECKING:
    from pathlib import Path

OWN = {"agent", "frame_bytes_max", "keys_per_frame", "in_flight"}
"""What any node may say in its own words, or set by configuration."""

DATA_OPS = ("HEARTBEAT", "LEAVE", "GET", "COUNT")


@pytest.fixture(params=[*recordings(), None], ids=lambda path: "today" if path is None else path.stem)
def recording(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Of each release, and one made now, so that the recorder is known to work when the next one is due."""
    path: Path | None = request.param
    made: dict[str, Any] = (
        asyncio.run(record("today")) if path is None else json.loads(path.read_text("utf-8"))
    )
    return made


def test_there_is_a_recording_of_each_op(recording: dict[str, Any]) -> None:
    assert {step["op"] for step in recording["steps"] if "op" in step} == {
        "HELLO", "TOPOLOGY", "PING", *DATA_OPS,
    }  # fmt: skip


def test_an_old_client_is_answered_by_a_new_node_as_it_was_by_its_own(recording: dict[str, Any]) -> None:
    """Maps may have gained fields, which old readers skip; everything else is the same to the byte."""
    world = World(recording)
    sessions: dict[int, Session] = {}
    for step in recording["steps"]:
        if "advance_ms" in step:
            world.advance(step["advance_ms"])
            continue
        session = sessions.setdefault(step["connection"], Session(world.core, world.now_ms))
        (new,) = frames_of(session.receive(bytes.fromhex(step["request"]), world.now_ms))
        old = bytes.fromhex(step["reply"])
        assert Header.of(new)._replace(size=0) == Header.of(old)._replace(size=0), step["op"]
        before, after = body_of(old), body_of(new)
        if isinstance(before, dict):
            assert before.keys() <= after.keys(), step["op"]
            for name in before.keys() - OWN:
                assert after[name] == before[name], f"{step['op']}: {name}"
        else:
            assert new == old, step["op"]
        assert session.closed is None


async def test_a_new_client_understands_an_old_node_and_asks_only_what_that_knows(
    recording: dict[str, Any],
) -> None:
    node = RecordedNode(recording)
    async with PresenceClient(node, OPTIONS) as client:
        for step in recording["calls"]:
            result = await play(client, node, step["call"], step["arguments"])
            assert json.loads(json.dumps(result)) == step["result"], step["call"]
    asked = set()
    for new, old in node.requests:
        header = Header.of(new)
        asked.add(header.op)
        assert header[:4] == Header.of(old)[:4], "magic, version, op and flags"
        if header.op == Op.HELLO:
            before, after = body_of(old), body_of(new)
            assert before.keys() <= after.keys()
            assert after["version_min"] <= recording["protocol"] <= after["version_max"]
        elif Op(header.op).name in DATA_OPS:
            assert body_of(new) == body_of(old)
    assert asked == {Op[step["op"]] for step in recording["steps"] if "op" in step}


def test_what_an_old_node_says_by_itself_is_understood(recording: dict[str, Any]) -> None:
    for word in recording["words"]:
        reader = FrameReader()
        reader.feed(bytes.fromhex(word["frame"]))
        frame = reader.next_frame()
        assert frame is not None
        assert frame.op == Op[word["op"]]
        said = messages.decode_error(frame.body)
        assert (said.code, said.after_ms) == (word["code"], word["after_ms"])


def test_a_release_is_recorded_once() -> None:
    assert recordings(), "there is one at least"
    for path in recordings():
        assert json.loads(path.read_text("utf-8"))["release"] == path.stem
