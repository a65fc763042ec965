"""The blocking client: the same promises as its asyncio twin, on any number of threads."""

import asyncio
import contextlib
import gc
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
import types
import warnings
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from support.fake_node import FakeCluster

import pulsering
from pulsering import CallTimeout, ClientClosed, ConfigError, NoNodeReachable, Status, UnknownPresence, sync
from pulsering.testing import MemoryCluster
from pulsering.wire import Op

RENAMED = {"aclose": "close", "__aenter__": "__enter__", "__aexit__": "__exit__"}


@contextlib.contextmanager
def running(cluster: FakeCluster) -> Iterator[FakeCluster]:
    """Scripted nodes on a loop of another thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(cluster.__aenter__(), loop).result()
        try:
            yield cluster
        finally:
            asyncio.run_coroutine_threadsafe(cluster.__aexit__(None, None, None), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def until(condition: Callable[[], bool], patience_s: float = 15.0) -> None:
    """Let other threads run until something is true."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0)


def threads_of_clients() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pulsering"]


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")} | {"__init__"}


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    names = public(pulsering.PresenceClient)
    assert {RENAMED.get(name, name) for name in names} == public(sync.PresenceClient)
    for name in names - {"__init__"}:
        theirs = inspect.getattr_static(pulsering.PresenceClient, name)
        ours = inspect.getattr_static(sync.PresenceClient, RENAMED.get(name, name))
        assert isinstance(ours, property) == isinstance(theirs, property), name
        if not isinstance(theirs, property):
            blocking = getattr(sync.PresenceClient, RENAMED.get(name, name))
            waiting = getattr(pulsering.PresenceClient, name)
            assert (
                inspect.signature(blocking).parameters.keys() == inspect.signature(waiting).parameters.keys()
            )
            for parameter, twin in zip(
                inspect.signature(blocking).parameters.values(),
                inspect.signature(waiting).parameters.values(),
                strict=True,
            ):
                assert (parameter.kind, parameter.default) == (twin.kind, twin.default), (name, parameter)
            assert blocking.__doc__, name


def test_every_method_answers_as_its_twin_does() -> None:
    with sync.PresenceClient.from_url("memory://all-of-them") as presence:
        presence.heartbeat(42)
        assert presence.is_online(42)
        assert presence.heartbeat_many(array("Q", range(100)), timeout="1s").accepted == 100
        snapshot = presence.get_many(["nobody", 1], ages=True)
        assert tuple(snapshot) == (Status.OFFLINE, Status.ONLINE)
        assert presence.count().online == 100
        assert presence.leave_many([1, 2]).accepted == 2
        presence.leave(3, grace="1s")
        assert [node.name for node in presence.status()] == ["memory"]
        assert presence.locate(7).owners == presence.topology.nodes
        assert presence.stats()["keys_pending"] == 0
        assert "open" in repr(presence)


def test_errors_are_those_of_the_twin() -> None:
    cluster = MemoryCluster()
    with sync.PresenceClient.from_url(cluster.url) as presence:
        cluster.go_cold()
        with pytest.raises(UnknownPresence):
            presence.is_online(1)
        assert presence.is_online(1, on_unknown="online")
        with pytest.raises(ValueError, match="-1"):
            presence.heartbeat(-1)
        with pytest.raises(TypeError):
            presence.heartbeat()  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="timeout"):
        sync.PresenceClient.from_url("memory://", timeout=0)


def test_a_real_node_is_spoken_to_from_eight_threads(presence_url: str) -> None:
    with sync.PresenceClient.from_url(presence_url, timeout=5) as presence:

        def work(first: int) -> int:
            for user in range(first, first + 50):
                presence.heartbeat(user)
            presence.heartbeat_many(range(first + 50, first + 100))
            return sum(presence.is_online(user) for user in range(first, first + 100))

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(work, range(0, 800, 100))) == [100] * 8
        assert presence.count().online == 800


def test_calls_of_many_threads_share_a_frame() -> None:
    together = threading.Barrier(8)
    with (
        running(FakeCluster("a", 1)) as cluster,
        sync.PresenceClient.from_url(cluster.url, linger="300ms", timeout=10) as presence,
    ):

        def beat(user: int) -> None:
            together.wait()
            presence.heartbeat(user)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(beat, range(8)))
        assert cluster["a"].count(Op.HEARTBEAT) == 1
        assert len(cluster["a"].users) == 8


def test_iterators_run_on_the_thread_of_the_caller() -> None:
    """A database cursor belongs to its thread, and a slow one must not hold up the others."""
    seen = set()

    class Query:
        def __iter__(self) -> Iterator[int]:
            seen.add(threading.get_ident())
            return iter(range(10))

    with sync.PresenceClient.from_url("memory://") as presence:
        assert presence.heartbeat_many(user for user in Query()).accepted == 10
        assert presence.heartbeat_many(Query()).accepted == 10
        assert presence.get_many(ids=Query()).ids == tuple(range(10))
    assert seen == {threading.get_ident()}


def test_use_before_opening_and_after_closing_is_a_clear_error() -> None:
    presence = sync.PresenceClient.from_url("memory://")
    with pytest.raises(ClientClosed, match="use with"):
        presence.heartbeat(1)
    with presence:
        presence.heartbeat(1)
    for call in (lambda: presence.heartbeat(1), presence.count, presence.stats, presence.open):
        with pytest.raises(ClientClosed):
            call()
    with pytest.raises(ClientClosed):
        _ = presence.topology
    presence.close()
    unopened = sync.PresenceClient.from_url("memory://")
    unopened.close()
    with pytest.raises(ClientClosed):
        unopened.open()


def test_closing_ends_calls_of_other_threads_and_the_thread_itself() -> None:
    before = threads_of_clients()
    with running(FakeCluster("a", 1)) as cluster:
        presence = sync.PresenceClient.from_url(cluster.url, timeout=None).__enter__()
        cluster["a"].holding = True
        with ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(presence.get_many, [user]) for user in range(8)]
            until(lambda: len(cluster["a"].held) == 8)
            presence.close()
            assert {type(call.exception()) for call in calls} == {ClientClosed}
        assert threads_of_clients() == before


def test_closing_among_calls_leaves_nobody_waiting() -> None:
    for _ in range(20):
        presence = sync.PresenceClient.from_url("memory://").__enter__()

        def work(presence: sync.PresenceClient = presence) -> None:
            with contextlib.suppress(ClientClosed):
                while True:
                    presence.heartbeat(1)

        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(work) for _ in range(4)]
            until(lambda presence=presence: presence.stats()["calls"] > 3)  # type: ignore[misc]
            presence.close()
            assert [call.result(timeout=15) for call in calls] == [None] * 4


def test_a_cluster_that_is_not_there_is_said_and_leaves_no_thread() -> None:
    before = threads_of_clients()
    with pytest.raises(NoNodeReachable), sync.PresenceClient.from_url("presence://127.0.0.1:1"):
        pass
    until(lambda: threads_of_clients() == before)


def test_an_interrupted_call_is_given_up_and_the_client_goes_on() -> None:
    main = threading.main_thread()
    assert main.ident is not None
    with (
        running(FakeCluster("a", 1)) as cluster,
        sync.PresenceClient.from_url(cluster.url, timeout=None) as presence,
    ):
        cluster["a"].holding = True

        def interrupt(ident: int = main.ident) -> None:
            until(lambda: len(cluster["a"].held) == 1)
            signal.pthread_kill(ident, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            presence.get_many([1])
        thread.join()
        cluster["a"].holding = False
        presence.heartbeat(2)
        assert presence.is_online(2)
        until(lambda: presence.stats()["calls_running"] == 0)


def test_an_interrupt_on_any_line_of_a_call_leaves_nothing_running() -> None:
    seen: set[int] = set()

    def interrupt_once(frame: types.FrameType, event: str, arg: object) -> Any:
        """Raise on the first line not yet tried, as a signal handler may on any; not after the outcome."""
        if frame.f_code.co_filename != sync.__file__ or frame.f_code.co_name not in ("_wait_for", "submit"):
            return None
        if event == "exception":
            sys.settrace(None)
        elif event == "line" and frame.f_lineno not in seen:
            seen.add(frame.f_lineno)
            raise KeyboardInterrupt
        return interrupt_once

    with (
        running(FakeCluster("a", 1)) as cluster,
        sync.PresenceClient.from_url(cluster.url, timeout=None) as presence,
    ):
        cluster["a"].holding = True
        before, tried = sys.gettrace(), -1
        while len(seen) > tried:
            tried = len(seen)
            sys.settrace(interrupt_once)
            with contextlib.suppress(KeyboardInterrupt, CallTimeout):
                presence.get_many([1], timeout=1)
            sys.settrace(before)
        until(lambda: presence.stats()["calls_running"] == 0)
        assert tried > 10
        assert presence.stats()["timeouts"] == 1  # the last, which nobody interrupted


def test_a_call_on_the_own_thread_is_an_error_and_not_a_deadlock() -> None:
    presence = sync.PresenceClient.from_url("memory://").__enter__()
    home = presence._home
    assert home is not None

    async def there() -> None:
        with pytest.raises(ClientClosed, match="own thread"):
            presence.heartbeat(1)
        presence.close()  # as a finalizer may, which runs on any thread

    answer: Future[None] = Future()
    home.submit(there, answer)
    answer.result(timeout=15)
    presence.close()
    assert not home._thread.is_alive()


def test_a_client_dropped_without_close_warns_and_ends_its_thread() -> None:
    before = threads_of_clients()
    presence = sync.PresenceClient.from_url("memory://").__enter__()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del presence
        gc.collect()
    assert [warning.category for warning in caught] == [ResourceWarning]
    until(lambda: threads_of_clients() == before)


def test_a_fork_must_open_its_own_client_and_leaves_the_parents_alone() -> None:
    with running(FakeCluster("a", 1)) as cluster, sync.PresenceClient.from_url(cluster.url) as presence:
        presence.heartbeat(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads: what is tested
            child = os.fork()
        if not child:
            code = 1
            try:
                presence.heartbeat(2)
            except ClientClosed as error:
                presence.close()
                with sync.PresenceClient.from_url(cluster.url) as own:
                    own.heartbeat(3)
                code = 0 if "fork" in str(error) else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert [presence.is_online(user) for user in (1, 2, 3)] == [True, False, True]


@pytest.mark.parametrize(
    "end",
    [
        "",
        "raise SystemExit(0)",
        "import os\nif not (child := os.fork()): raise SystemExit(0)\nos.waitpid(child, 0)",
    ],
    ids=["falls off", "exits", "a fork exits first"],
)
def test_a_client_left_open_is_closed_at_exit_without_a_word(end: str) -> None:
    code = f"""
import warnings
from pulsering.sync import PresenceClient
presence = PresenceClient.from_url("memory://")
presence.open()
presence.heartbeat(1)
warnings.simplefilter("ignore", DeprecationWarning)
{end}
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
