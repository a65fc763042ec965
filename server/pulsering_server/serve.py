"""``pulsering serve``: one node, or one core of it, as a process, from its configuration to its exit code.

Prints one line on stdout when it is ready, ``ready node=a address=127.0.0.1:7400 cluster=demo epoch=1``, and
nothing else there; everything for people goes to the log on stderr. With an admin port (``admin``) the line
has ``admin=127.0.0.1:8400`` as well. SIGTERM or SIGINT drains: the node is not ready any more, clients are
told to leave, and the process ends when they have, or after ``DRAIN_MS``. A second signal ends it at once.
SIGHUP has it read its configuration again, as it does by itself when the file changes (``config_watch``).
A node of several cores is one process that keeps one more for each (``supervisor``); its one line comes when
all of them serve, with ``cores=16`` at its end.

Exit codes: 0 drained; 1 could not listen, failed, or cut short by a second signal; 2 configuration or system
limits.
"""

import asyncio
import contextlib
import difflib
import faulthandler
import gc
import os
import resource
import secrets
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
import uvloop

from pulsering import limits
from pulsering_server import clock, logs
from pulsering_server.config import ClusterConfig, ConfigErrors, Shard, read_config
from pulsering_server.config_advice import advise, this_machine
from pulsering_server.config_watch import ConfigWatch
from pulsering_server.door import Door, is_exposed, terms_of
from pulsering_server.housekeeping import keep_house
from pulsering_server.huge_pages import why_no_huge_pages
from pulsering_server.listener import Listener
from pulsering_server.node import AGENT, NodeCore
from pulsering_server.ownership import Refused
from pulsering_server.populating import populate_ahead
from pulsering_server.published import Published
from pulsering_server.service_manager import CLIENTS_BACK_MS, Manager, State
from pulsering_server.signals import Signals
from pulsering_server.supervisor import supervise

if TYPE_CHECKING:
    from pulsering_server.admin import Admin
    from pulsering_server.config_values import Address

__all__ = ["CannotServe", "ready_line", "run", "serve"]

DRAINED: Final = 0
FAILED: Final = 1
MISCONFIGURED: Final = 2

log = structlog.get_logger("pulsering_server.serve")


class CannotServe(Exception):
    """The node cannot start; the message says what to change. ``exit_code`` is 1 or 2."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run(
    config_path: str | os.PathLike[str], node_name: str, host: str | None = None, port: int | None = None
) -> int:
    """Serve a node of a ``cluster.yaml``, or a core of it, until told to stop; the process's exit code."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the node minds it, so that none ends it
    if not faulthandler.is_enabled():
        faulthandler.enable()  # a watchdog ends what hangs by SIGABRT: the log has where it hung
    try:
        reading = read_config(config_path, files=True)
        config = reading.config
        rate_limit = logs.configure(node_name)
        published = None if config.published is None else Published(config.published)
        if published is not None:
            asyncio.run(published.fetch())
            config = published.over(config)
        shards = shards_named(config, node_name)
        raise_file_limit(config.limits_of(shards[0]).connections)
        if node_name in {node.name for node in config.nodes}:  # not each core of it
            for problem in advise(reading, this_machine()):
                log.warning("config.advice", what=problem.message, at=problem.where(str(config_path)))
        if len(shards) > 1:
            return uvloop.run(_serve_all(Path(config_path), config, shards, host, port))
        node_name = shards[0].name
        return uvloop.run(
            serve(
                config,
                node_name,
                host=host,
                port=port,
                rate_limit=rate_limit,
                config_path=config_path,
                published=published,
            )
        )
    except ConfigErrors as errors:
        print(errors, file=sys.stderr)
        return MISCONFIGURED
    except CannotServe as error:
        print(f"pulsering serve: {error}", file=sys.stderr)
        return error.exit_code


async def serve(
    config: ClusterConfig,
    node_name: str,
    *,
    host: str | None = None,
    port: int | None = None,
    rate_limit: logs.RateLimit | None = None,
    on_ready: Callable[[str], None] | None = None,
    config_path: str | os.PathLike[str] | None = None,
    published: Published | None = None,
) -> int:
    """Run a node in this event loop; returns the exit code, raises ``CannotServe`` before it is ready.

    ``host`` and ``port`` override where it listens (port 0: any free one), not what the topology says of it.
    ``on_ready`` gets the ready line instead of stdout. The file at ``config_path`` is watched, if there is
    one, and followed when it changes; so is what is ``published``.
    """
    (shard,) = shards_named(config, node_name)
    limit = config.limits_of(shard)
    loop = asyncio.get_running_loop()
    core = NodeCore(
        config.topology(),
        node_name,
        limit,
        boot_id=secrets.randbits(64),
        now_ms=clock.now_ms(),
        last_seen_ms=config.last_seen_ms or 0,
    )
    listener = Listener(core, clock.now_ms)
    where = (
        host if host is not None else shard.address.host,
        port if port is not None else shard.address.port,
    )
    try:
        door = await _open_door(listener, config, Path(config_path or ""), where[0])
        address = await listener.open(*where)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        message = f"node {node_name} cannot listen on {_join(*where)}: {reason}"
        raise CannotServe(message, FAILED) from None
    signals = Signals(loop)
    loop.set_exception_handler(_log_loop_exception)
    house = asyncio.create_task(keep_house(core, clock.now_ms, rate_limit, clock.wall_ms))
    tasks = [house, asyncio.create_task(populate_ahead(core.table))]
    watch: ConfigWatch | None = None
    if config_path is not None:
        watch = ConfigWatch(config_path, config, core, clock.now_ms, door, published)
        tasks.append(asyncio.create_task(watch.run(signals.reload)))
        if published is not None:
            tasks.append(asyncio.create_task(published.run(watch.reload, core.counters)))
    manager = Manager(lambda: _state_of(core, watch))
    if watch is not None:
        watch.on_reading = manager.tell
    admin = None
    try:
        if shard.admin is not None:
            admin = await _open_admin(shard.admin, listener, config, signals, watch, door)
    except CannotServe:
        await _end(listener, signals, tasks, admin)
        manager.close()
        raise
    gc.collect()
    gc.freeze()
    if (reason := why_no_huge_pages()) is not None:
        log.warning("table.no_huge_pages", reason=reason)
    log.info(
        "node.ready",
        agent=AGENT,
        address=_join(*address),
        admin=str(admin.address) if admin is not None else "off",
        cluster=config.cluster,
        epoch=config.epoch,
        topology_hash=f"{core.topology.hash:016x}",
        ttl_ms=config.ttl_ms,
        warming_ms=core.warming_ms(clock.now_ms()),
        connections=limit.connections,
    )
    (on_ready or _print_ready)(
        ready_line(config, node_name, address, str(admin.address) if admin is not None else None)
    )
    tasks.append(asyncio.create_task(manager.run()))
    try:
        return await _until_stopped(listener, signals, tasks, manager)
    finally:
        await _end(listener, signals, tasks, admin)
        manager.close()


async def _open_door(listener: Listener, config: ClusterConfig, file: Path, host: str) -> Door:
    """Put the terms in force before anybody can come; ``CannotServe`` if there must be some and are none."""
    door = Door(listener, exposed=await is_exposed(listener.loop, host))
    try:
        door.check(config)
    except Refused as error:
        raise CannotServe(str(error), MISCONFIGURED) from None
    door.follow(await asyncio.to_thread(terms_of, config, file))
    return door


async def _open_admin(
    where: "Address",
    listener: Listener,
    config: ClusterConfig,
    signals: Signals,
    watch: ConfigWatch | None,
    door: Door,
) -> "Admin":
    """Open the admin port; ``CannotServe`` if it cannot be, or must not."""
    # Here and not above: a node without an admin port starts without an HTTP server's code.
    from pulsering_server.admin import Admin, Exposed
    from pulsering_server.admin_tokens import BadTokens, Tokens

    name, file = listener.core.name, config.admin.token_file
    directory = watch.path.parent if watch is not None else Path()
    try:
        tokens = Tokens(None if file is None else directory / file, os.environ)
        admin = Admin(listener, config, tokens, drain=signals.first.set, watch=watch, door=door)
        await admin.open(where)
    except (BadTokens, Exposed) as error:
        raise CannotServe(f"admin of node {name}: {error}", MISCONFIGURED) from None
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        message = f"node {name} cannot listen on {where}, which 'admin' says: {reason}"
        raise CannotServe(message, FAILED) from None
    return admin


async def _end(
    listener: Listener, signals: Signals, tasks: "list[asyncio.Task[None]]", admin: "Admin | None"
) -> None:
    """Let go of everything; the admin port tells of the end until there is nothing else."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await listener.close()
    if admin is not None:
        await admin.close()
    signals.close()


async def _serve_all(
    config_path: Path, config: ClusterConfig, shards: tuple[Shard, ...], host: str | None, port: int | None
) -> int:
    """Run all cores of a node, ``host`` and ``port`` in place of its own."""
    cores = []
    for index, shard in enumerate(shards):
        options: tuple[str, ...] = () if host is None else ("--host", host)
        if port is not None:
            options += ("--port", str(port + index if port else 0))
        cores.append((shard.name, options))
    node_name = shards[0].node.name

    def ready(facts: dict[str, str]) -> None:
        address, admin = facts["address"], facts.get("admin")
        log.info("node.ready", agent=AGENT, address=address, cluster=config.cluster, cores=len(shards))
        _print_ready(f"{_ready(config, node_name, address, admin)} cores={len(shards)}")

    return await supervise(config_path, cores, ready)


def _state_of(core: NodeCore, watch: ConfigWatch | None) -> State:
    """How the node is, for whoever started it."""
    now_ms = clock.now_ms()
    reason, left_ms = core.unready(now_ms), core.warming_ms(now_ms)
    clients_ms = CLIENTS_BACK_MS - core.vitals(now_ms).uptime_ms
    status = f"{reason or 'serving'}, epoch {core.topology.epoch}, {core.table.online} users online"
    if watch is not None and watch.problems:
        status += f", {watch.path.name} refused: {logs.printable(watch.problems[0])}"
    return State(
        ready=reason != "warming" and clients_ms <= 0,
        status=f"{status}, warm in {left_ms / 1000:.0f} s" if reason == "warming" else status,
        left_ms=max(left_ms, clients_ms, 0),
        reloading=watch is not None and watch.reading,
        stopping=core.draining,
    )


async def _until_stopped(
    listener: Listener, signals: Signals, tasks: "list[asyncio.Task[None]]", manager: Manager
) -> int:
    """Wait for a signal, drain, and judge how it went; ``tasks`` never end by themselves."""
    told = asyncio.create_task(signals.first.wait())
    await asyncio.wait((told, *tasks), return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    for task in tasks:
        if task.done():
            log.error("node.failed", exc_info=task.exception())
            return FAILED
    log.info("node.draining", connections=listener.core.stats.connections_open, drain_ms=limits.DRAIN_MS)
    listener.core.draining = True
    manager.tell()
    draining = asyncio.create_task(listener.drain(limits.DRAIN_MS))
    hurried = asyncio.create_task(signals.second.wait())
    await asyncio.wait((draining, hurried), return_when=asyncio.FIRST_COMPLETED)
    hurried.cancel()
    if not draining.done():
        draining.cancel()
        log.warning("node.stopped", reason="second signal", left=listener.core.stats.connections_open)
        return FAILED
    log.info("node.stopped", reason="drained", left=draining.result())
    return DRAINED


def shards_named(config: ClusterConfig, name: str) -> tuple[Shard, ...]:
    """The core of this name, or all of the node of this name; ``CannotServe`` names the nodes there are."""
    shards = config.shards_named(name)
    if shards:
        return shards
    names = [node.name for node in config.nodes]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(names[:20])}"
    raise CannotServe(
        f"cluster {config.cluster} has no node '{logs.printable(name)}' ({hint})", MISCONFIGURED
    )


def raise_file_limit(connections: int) -> None:
    """Let this process open as many files as it may, and make sure that its connections fit.

    An event loop that runs out of file descriptors says nothing and accepts nobody, so this is settled at
    start.
    """
    needed = connections + limits.FILES_RESERVED
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft != resource.RLIM_INFINITY and soft < needed:
        raise CannotServe(
            f"limits.connections: {connections} connections and {limits.FILES_RESERVED} files in reserve need"
            f" {needed} file descriptors, but this process may open {soft}: lower limits.connections,"
            " or raise the limit (ulimit -Hn, LimitNOFILE=)",
            MISCONFIGURED,
        )


def ready_line(
    config: ClusterConfig, node_name: str, address: tuple[str, int], admin: str | None = None
) -> str:
    """What the process prints once it serves; ``child.parse_ready`` reads it."""
    return _ready(config, node_name, _join(*address), admin)


def _ready(config: ClusterConfig, node_name: str, address: str, admin: str | None) -> str:
    line = f"ready node={node_name} address={address} cluster={config.cluster} epoch={config.epoch}"
    return line if admin is None else f"{line} admin={admin}"


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _print_ready(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it: not a reason to die
        print(line, flush=True)


def _log_loop_exception(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    log.error("loop.exception", message=str(context.get("message")), exc_info=context.get("exception"))
