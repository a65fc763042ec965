"""Follows ``cluster.yaml`` while a node runs: a changed file, or SIGHUP, is the next topology or nothing.

A file is read once it has looked the same twice, a second apart, so that one being written is left alone;
SIGHUP reads it at once. So it is with the files that it names, certificates and tokens: what renews them need
not know of us. All is checked as at the start, in a thread, and then the node follows it in one step; whoever
asks meanwhile waits for the next reading. Whatever is wrong, from a typing error to an epoch that was not
raised, is a line in the log and a count, and the node goes on as it was. Invariant: the node never follows
half a file.
"""

import asyncio
import os
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from pulsering_server.config import ClusterConfig, ConfigErrors, load_config
from pulsering_server.config_diff import RESTART, differences
from pulsering_server.config_errors import Problem
from pulsering_server.config_files import files_of
from pulsering_server.door import Door, Terms, terms_of
from pulsering_server.ownership import Refused
from pulsering_server.published import Published

if TYPE_CHECKING:
    from pulsering.topology import Topology
    from pulsering_server.node import NodeCore

__all__ = ["ConfigWatch", "Sight", "Stamp", "stamp_of"]

LOOK_S: Final = 1.0
"""How often the file is looked at: one ``stat``. It counts after two looks."""

PROBLEMS_LOGGED_MAX: Final = 5

log = structlog.get_logger("pulsering_server.config_watch")


class Stamp(NamedTuple):
    """What tells one state of a file from another without reading it."""

    inode: int
    size: int
    modified_ns: int


def stamp_of(path: Path) -> Stamp | None:
    """The file's stamp now; None while there is none, as between the steps of some editors."""
    try:
        found = path.stat()
    except OSError:
        return None
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns)


class Sight:
    """Decides from what it is shown when the file is worth reading; once in any case, as it may have changed
    since the node was started from it."""

    __slots__ = ("_read", "_seen")

    def __init__(self) -> None:
        self._read: Hashable = None
        self._seen: Hashable = None

    def note(self, stamp: Hashable, *, told: bool = False) -> bool:
        """Whether to read a file that looks like this, now or because somebody ``told`` us to."""
        settled = stamp == self._seen
        self._seen = stamp
        if told or (settled and stamp is not None and stamp != self._read):
            self._read = stamp
            return True
        return False


def _line_of(problem: Problem) -> str:
    at = problem.position
    where = "" if at is None else f"{at.source or f'{at.line}:{at.column}'}: "
    return f"{where}{problem.message}"


class ConfigWatch:
    """The configuration of one running node. ``await run(told)`` for as long as the node runs."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        config: ClusterConfig,
        core: "NodeCore",
        now_ms: Callable[[], int],
        door: Door | None = None,
        published: Published | None = None,
    ) -> None:
        self.path = Path(path)
        self.config = config
        """The last one that was good."""
        self._core = core
        self._now_ms = now_ms
        self._door = door
        self._published = published
        self._sight = Sight()
        self._turn = asyncio.Lock()
        self.reading = False
        self.on_reading: Callable[[], None] = lambda: None
        """Called when ``reading`` has changed."""
        self.problems: tuple[str, ...] = ()
        """What was wrong with the file when it was last read."""

    async def run(self, told: asyncio.Event) -> None:
        """Look now and then, and whenever ``told`` is set."""
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await told.wait()
            except TimeoutError:
                pass
            heard = told.is_set()
            told.clear()
            if self._sight.note(self._look(), told=heard):
                await self.reload()

    def _look(self) -> "tuple[Stamp | None, ...] | None":
        """How the file and those that it names look now; None while there is no file."""
        stamp = stamp_of(self.path)
        if stamp is None:
            return None
        return stamp, *map(stamp_of, files_of(self.config, self.path.parent))

    async def reload(self) -> bool:
        """Read the file and follow it; whether it could be followed, and if not, ``problems`` say why."""
        stats = self._core.counters
        async with self._turn:  # else one that began earlier could end later, with an older file
            self._note_reading(True)
            try:
                loaded = await self._follow()
            finally:
                self._note_reading(False)
        stats.reload_ok = loaded
        stats.reloads += loaded
        stats.reloads_refused += not loaded
        return loaded

    def _note_reading(self, reading: bool) -> None:
        self.reading = reading
        self.on_reading()

    async def _follow(self) -> bool:
        try:
            config, topology, terms = await asyncio.to_thread(self._read)
        except ConfigErrors as errors:
            self._refuse([_line_of(problem) for problem in errors.problems], errors.file)
            return False
        except Exception as error:
            # A mistake of ours, met by a file that nobody tried: no reason to end a node that serves.
            log.exception("config.failed", file=str(self.path))
            self._refuse([f"{type(error).__name__}: {error}"])
            return False
        try:
            if self._door is not None:
                self._door.check(config)
            self._core.follow(topology, self._now_ms())
        except Refused as error:
            self._refuse([str(error)])
            return False
        if self._door is not None:
            self._door.follow(terms)
        self.problems = ()
        before, self.config = self.config, config
        if config == before:
            return True
        at_the_next_start = self._not_followed(before, config)
        log.info(
            "config.loaded",
            file=str(self.path),
            epoch=config.epoch,
            **({"at_the_next_start": at_the_next_start} if at_the_next_start else {}),
        )
        return True

    def _read(self) -> "tuple[ClusterConfig, Topology, Terms]":
        config = load_config(self.path, files=True)
        if self._published is not None:
            config = self._published.over(config)
        topology = config.topology()
        topology.owners  # noqa: B018 - the dear part: made here, beside the loop, and kept
        return config, topology, terms_of(config, self.path)

    def _refuse(self, reasons: list[str], file: str = "") -> None:
        self.problems = tuple(reasons)
        follows, file = self._core.topology.epoch, file or str(self.path)
        for reason in reasons[:PROBLEMS_LOGGED_MAX]:
            log.error("config.refused", file=file, reason=reason, problems=len(reasons), follows=follows)

    def _not_followed(self, before: ClusterConfig, after: ClusterConfig) -> str:
        """What has changed in the file and is not taken up by this node while it runs."""
        ours = {shard.node.name for shard in before.shards_named(self._core.name)}
        return ", ".join(
            each.name
            for each in differences(before, after)
            if each.effect == RESTART and (not each.node or each.node in ours)
        )
