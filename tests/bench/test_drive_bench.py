"""The generator against a stub: it charges a server that stands still, and says when it was the limit."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from socket import create_connection, socket
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pulsering_bench.drive import Arrival, Drive
from pulsering_bench.figures import measure_of, verdict_of
from pulsering_bench.peers import Checked
from pulsering_bench.servers import HOST, Server, ServerFailed
from pulsering_bench.usage import cores, tree_of

STUB = Path(__file__).parents[1] / "support" / "stalling_stub.py"
STALL_S, EVERY_S = 0.3, 1.5


class Stub:
    """What ``Drive`` needs of a peer: 8 bytes out, one back. ``work`` is done for every reply."""

    def __init__(self, server: Server, work: int = 0) -> None:
        self.server = server
        self.work = work

    def connect(self) -> socket:
        return create_connection((HOST, self.server.port), timeout=20)

    def pids(self) -> list[int]:
        return tree_of(self.server.pid)

    def stamp(self, request: Any) -> None:
        request.stamped = True

    def check(self, request: Any, data: bytes, at: int) -> Checked | None:
        for _ in range(self.work):
            hashlib.sha256(bytes(4096)).digest()
        assert request.stamped
        return Checked(at + 1, int(data[at] != 1))


def requests(count: int) -> list[Any]:
    return [SimpleNamespace(data=bytearray(8), users=1, stamped=False) for _ in range(count)]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server("stub", cores()[0])
    server.start([sys.executable, str(STUB), str(server.port), str(STALL_S), str(EVERY_S)])
    yield server
    server.stop()


def test_latency_of_a_stalling_server_counts_from_when_it_was_due(server: Server) -> None:
    """Scenario 59: a fifth of the time nothing is answered, so a fifth of what was due waits."""
    rate, seconds = 200, 1.5
    arrivals = [
        Arrival(index / rate, "get", request) for index, request in enumerate(requests(int(rate * seconds)))
    ]
    with Drive(Stub(server), 1) as drive:
        run = drive.run_open(arrivals)
    assert run.users == len(arrivals)
    assert run.unanswered == run.wrong == 0
    waited = run.latencies_s["get"]
    assert (run.percentile_ms("get", 99) or 0.0) > 1000 * STALL_S * 0.9
    # A caller that waited for each answer before it asked again would have seen one slow call in all.
    assert np.count_nonzero(waited > STALL_S / 3) > rate * STALL_S / 2


def test_a_generator_that_was_the_limit_gives_no_verdict(server: Server) -> None:
    """Scenario 60: every reply costs the generator a millisecond, and the server nearly nothing."""
    with Drive(Stub(server, work=100), 2) as drive:
        drive.run_all(requests(1))  # the stub stands still at its first request, and not again for a second
        run = drive.run_for(requests(64), 0.5)
    assert run.users > 0
    assert run.limit == "generator"
    measure = measure_of([run])
    assert measure["limit"] == "generator"
    verdict, why = verdict_of(100.0, 1.0, ["the generator was the limit"])
    assert verdict == "no verdict"
    assert "generator" in why


def test_every_request_of_a_closed_loop_is_answered_once(benchmark: Any, server: Server) -> None:
    with Drive(Stub(server), 3) as drive:
        run = benchmark.pedantic(drive.run_all, (requests(100),), rounds=1)
        assert run.users == 100
        assert run.wrong == 0


def test_wrong_answers_are_counted(server: Server) -> None:
    class Doubter(Stub):
        def check(self, request: Any, data: bytes, at: int) -> Checked | None:
            return Checked(at + 1, 1)

    with Drive(Doubter(server), 1) as drive:
        assert drive.run_all(requests(10)).wrong == 10


def test_what_is_not_answered_in_time_is_charged_and_said(server: Server) -> None:
    class Deaf(Stub):
        def check(self, request: Any, data: bytes, at: int) -> Checked | None:
            return None

    with Drive(Deaf(server), 1) as drive:
        run = drive.run_open([Arrival(0.0, "get", request) for request in requests(5)], patience_s=0.05)
    assert run.unanswered == 5
    assert len(run.latencies_s["get"]) == 5
    assert run.users == 0


def test_a_server_that_ends_is_an_error_with_its_log() -> None:
    server = Server("broken", cores()[0])
    with pytest.raises(ServerFailed, match="no such thing"):
        server.start([sys.executable, "-c", "raise SystemExit('no such thing')"])
    assert not server.folder.exists()
