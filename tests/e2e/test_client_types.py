"""The client as a type checker sees it: each result has the type written here, and each slip is found.

``mypy --strict`` reads this file with all the others; a line that should be an error carries the ignore that
would itself be reported if it were not. Running it shows that the values are what the types say.
"""

import uuid
from array import array
from dataclasses import fields
from typing import assert_type

import pytest

from pulsering import (
    ClientOptions,
    ConfigError,
    Count,
    HeartbeatReport,
    Location,
    NodeStatus,
    PresenceClient,
    Reason,
    Snapshot,
    Status,
    sync,
)
from pulsering.options import Options

URL = "memory://"


async def test_what_the_client_returns() -> None:
    async with PresenceClient.from_url(URL, timeout="2s", hedge="p95", attempts=2) as presence:
        assert_type(presence, PresenceClient)
        await presence.heartbeat(42)
        await presence.heartbeat("ann")
        assert_type(await presence.heartbeat_many([1, "two", b"three", uuid.UUID(int=4)]), HeartbeatReport)
        assert_type(await presence.heartbeat_many(array("Q", [1, 2]), timeout=None), HeartbeatReport)
        assert_type(await presence.leave_many(range(3), grace=1.5), HeartbeatReport)
        assert_type(await presence.is_online(42), bool)
        assert_type(await presence.is_online(42, on_unknown="offline"), bool)
        assert_type(await presence.count(), Count)
        assert_type(await presence.status(), list[NodeStatus])
        assert_type(presence.locate(42), Location)
        snapshot = assert_type(await presence.get_many((n for n in range(3)), ages=True), Snapshot)
    assert_type(snapshot[0], Status)
    assert_type(snapshot[:2], tuple[Status, ...])
    assert_type(list(snapshot), list[Status])
    assert_type(snapshot.ages, tuple[float | None, ...])
    assert_type(snapshot.counts, dict[Status, int])
    assert_type(snapshot.unknown_reasons, dict[Reason, int])
    assert isinstance(snapshot[0], Status)
    assert isinstance(snapshot[:2], tuple)


def test_what_the_blocking_client_returns() -> None:
    with sync.PresenceClient.from_url(URL, timeout=2) as presence:
        assert_type(presence.heartbeat(42), None)
        assert_type(presence.heartbeat_many([1, 2]), HeartbeatReport)
        assert_type(presence.is_online(42, on_unknown="online"), bool)
        snapshot = assert_type(presence.get_many([1, 2]), Snapshot)
        assert_type(presence.count(), Count)
    assert snapshot.online == (1, 2)


async def test_slips_are_found_before_they_run() -> None:
    with pytest.raises(ConfigError):
        PresenceClient.from_url(URL, timeuot=2)  # type: ignore[call-arg]
    with pytest.raises(ConfigError):
        PresenceClient.from_url(URL, attempts="3")  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        sync.PresenceClient.from_url(URL, linger=None)  # type: ignore[arg-type]
    async with PresenceClient.from_url(URL) as presence:
        with pytest.raises(TypeError):
            await presence.heartbeat(1.5)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await presence.heartbeat_many([None])  # type: ignore[list-item]
        with pytest.raises(ValueError, match="on_unknown"):
            await presence.is_online(1, on_unknown="maybe")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await presence.get_many([1], True)  # type: ignore[call-arg]


def test_the_options_have_a_type_each() -> None:
    assert Options.__annotations__.keys() == {field.name for field in fields(ClientOptions)}
