"""A configuration that changes under a running node: all of it or nothing, and a line in the log."""

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Any

import pytest
import structlog
from support.node_driver import TTL_MS, World

from pulsering_server import config_watch
from pulsering_server.config import load_config
from pulsering_server.config_watch import ConfigWatch, Sight, Stamp, stamp_of
from pulsering_server.node import NodeCore
from pulsering_server.signals import Signals

FILE = """
version: 1
cluster: demo
epoch: {epoch}
replicas: 1
ttl: {ttl}
limits: {{connections: {connections}}}
nodes:
  - {{name: a, address: "127.0.0.1:{port}"}}
  - {{name: b, address: "127.0.0.2:7400"}}
{more}
"""
C = '  - {name: c, address: "127.0.0.3:7400"}'


def write(
    path: Path, epoch: int, more: str = "", ttl: str = "20s", connections: int = 10, port: int = 7400
) -> None:
    """What an editor leaves behind."""
    path.write_text(FILE.format(epoch=epoch, more=more, ttl=ttl, connections=connections, port=port))


@pytest.fixture
def watch(tmp_path: Path) -> ConfigWatch:
    """The watch of a warm node a, started from its file."""
    path = tmp_path / "cluster.yaml"
    write(path, 1)
    config = load_config(path)
    world = World()
    core = NodeCore(config.topology(), "a", boot_id=1, now_ms=world.now_ms)
    world.cores["a"] = core
    world.advance(2 * TTL_MS)
    core.take_events()
    return ConfigWatch(path, config, core, lambda: world.now_ms)


def core_of(watch: ConfigWatch) -> NodeCore:
    return watch._core


# --- When to read -------------------------------------------------------------------------------------------

ONE, TWO = Stamp(1, 100, 5), Stamp(1, 120, 6)


def test_a_file_counts_once_it_has_looked_the_same_twice() -> None:
    sight = Sight()
    shown = [ONE, ONE, ONE, TWO, ONE, TWO, TWO, TWO]
    assert [sight.note(stamp) for stamp in shown] == [False, True, False, False, False, False, True, False]


def test_a_file_that_is_gone_is_not_read_until_it_is_back() -> None:
    sight = Sight()
    shown = [ONE, ONE, None, None, None, TWO, TWO]
    assert [sight.note(stamp) for stamp in shown] == [False, True, False, False, False, False, True]


def test_whoever_is_told_reads_at_once_even_what_looks_the_same() -> None:
    sight = Sight()
    assert sight.note(ONE, told=True)
    assert not sight.note(ONE)
    assert sight.note(ONE, told=True)
    assert sight.note(None, told=True), "and finds that it is gone"


def test_a_replaced_file_is_another_one(tmp_path: Path) -> None:
    """As `mv` and mounted volumes do it: a new inode under the old name."""
    path, new = tmp_path / "cluster.yaml", tmp_path / "new.yaml"
    assert stamp_of(path) is None
    path.write_text("one")
    before = stamp_of(path)
    new.write_text("two")
    new.replace(path)
    assert stamp_of(path) not in (before, None)


# --- What becomes of it -------------------------------------------------------------------------------------


async def test_a_new_epoch_is_followed(watch: ConfigWatch) -> None:
    write(watch.path, 2, C)
    with structlog.testing.capture_logs() as lines:
        assert await watch.reload()
    assert [node.name for node in core_of(watch).topology.nodes] == ["a", "b", "c"]
    assert core_of(watch).topology.epoch == 2
    [line] = lines
    assert (line["event"], line["epoch"]) == ("config.loaded", 2)
    assert "at_the_next_start" not in line


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a node without an epoch": ({"epoch": 1, "more": C}, "epoch: 1 is taken by another topology"),
    "an older epoch": ({"epoch": 0, "more": C}, "epoch: 0 is too small"),
    "another ttl": ({"epoch": 2, "ttl": "10s"}, "ttl_ms: from 20000 to 10000 takes a restart"),
    "a node twice": ({"epoch": 2, "more": '  - {name: b, address: "127.0.0.9:1"}'}, "duplicate name 'b'"),
    "a cut line": ({"epoch": 2, "more": "  - {name: c, addr"}, "the file ends inside what line 11 opens"),
}


@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_file_changes_nothing_and_is_a_clear_line(watch: ConfigWatch, kind: str) -> None:
    """Scenario 57: on reload the old topology stays."""
    changes, says = BAD[kind]
    write(watch.path, **changes)
    core = core_of(watch)
    before = (core.topology, watch.config)
    with structlog.testing.capture_logs() as lines:
        assert not await watch.reload()
    assert (core.topology, watch.config) == before
    assert core.take_events() == []
    assert lines[0]["event"] == "config.refused"
    assert says in lines[0]["reason"]
    assert lines[0]["follows"] == 1
    assert "\n" not in lines[0]["reason"]


async def test_a_file_of_mistakes_is_a_few_lines(watch: ConfigWatch) -> None:
    write(watch.path, 2, "\n".join(f'  - {{name: b, address: "x:{port}"}}' for port in range(40)))
    with structlog.testing.capture_logs() as lines:
        assert not await watch.reload()
    assert len(lines) == config_watch.PROBLEMS_LOGGED_MAX
    assert lines[0]["problems"] > len(lines)


async def test_a_missing_file_leaves_the_node_as_it_is(watch: ConfigWatch) -> None:
    watch.path.unlink()
    with structlog.testing.capture_logs() as lines:
        assert not await watch.reload()
    assert "cannot be read" in lines[0]["reason"]
    assert core_of(watch).topology.epoch == 1


async def test_what_waits_for_the_next_start_is_said(watch: ConfigWatch) -> None:
    write(watch.path, 2, connections=20, port=7500)
    with structlog.testing.capture_logs() as lines:
        assert await watch.reload()
    assert lines[0]["at_the_next_start"] == "limits.connections, nodes[a].address"


async def test_what_waits_for_the_next_start_of_another_node_is_not_ours_to_say(watch: ConfigWatch) -> None:
    text = FILE.format(epoch=2, more="", ttl="20s", connections=10, port=7400)
    watch.path.write_text(text.replace("127.0.0.2:7400", "127.0.0.2:7500"))
    with structlog.testing.capture_logs() as lines:
        assert await watch.reload()
    assert "at_the_next_start" not in lines[0]


async def test_reloads_are_counted_by_how_they_went(watch: ConfigWatch) -> None:
    counters = core_of(watch).counters
    before = (counters.reloads, counters.reloads_refused)
    write(watch.path, 2, C)
    assert await watch.reload()
    assert counters.reload_ok
    write(watch.path, 1)
    assert not await watch.reload()
    assert not counters.reload_ok
    assert (counters.reloads, counters.reloads_refused) == (before[0] + 1, before[1] + 1)


async def test_who_asks_while_a_file_is_read_waits_and_reads_the_newer_one(watch: ConfigWatch) -> None:
    """Otherwise the reading that began first could end last, and be refused for its older epoch."""
    write(watch.path, 2, C)
    first = asyncio.create_task(watch.reload())
    await asyncio.sleep(0)
    newer = watch.path.with_name("newer.yaml")
    write(newer, 3)
    newer.replace(watch.path)
    second = asyncio.create_task(watch.reload())
    assert all(await asyncio.gather(first, second))
    assert core_of(watch).topology.epoch == 3


async def test_a_mistake_of_ours_does_not_end_the_node(
    watch: ConfigWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_path: Path, **_options: bool) -> None:
        raise RuntimeError("a file that nobody tried")

    monkeypatch.setattr(config_watch, "load_config", fail)
    before = (core_of(watch).topology, watch.config)
    with structlog.testing.capture_logs() as lines:
        assert not await watch.reload()
    assert (core_of(watch).topology, watch.config) == before
    assert [line["event"] for line in lines] == ["config.failed", "config.refused"]
    assert lines[1]["reason"] == "RuntimeError: a file that nobody tried"


async def test_a_variable_that_cannot_be_is_named_in_the_log(
    watch: ConfigWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULSERING_LIMITS__MEMORY", "8GB")
    with structlog.testing.capture_logs() as lines:
        assert not await watch.reload()
    assert lines[0]["reason"].startswith("environment: limits.memory: unknown unit 'GB'")


async def test_the_same_file_again_is_no_news(watch: ConfigWatch) -> None:
    watch.path.touch()
    with structlog.testing.capture_logs() as lines:
        assert await watch.reload()
    assert lines == []
    assert core_of(watch).take_events() == []


async def test_sighup_reads_at_once_and_an_edit_is_found_by_looking(
    watch: ConfigWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals = Signals(asyncio.get_running_loop())
    running = asyncio.create_task(watch.run(signals.reload))
    core = core_of(watch)
    try:
        async with asyncio.timeout(20):
            write(watch.path, 2, C)
            signal.raise_signal(signal.SIGHUP)
            while core.topology.epoch < 2:  # noqa: ASYNC110 - an epoch wakes nobody
                await asyncio.sleep(0)
            monkeypatch.setattr(config_watch, "LOOK_S", 0.001)
            write(watch.path, 3)
            while core.topology.epoch < 3:  # noqa: ASYNC110
                await asyncio.sleep(0)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        signals.close()
