"""The admin port on real sockets: what it says, who may steer, and that no peer there costs much."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families as parse_text
from structlog.testing import capture_logs
from support.http import CONFIG, TOKEN, ask, asked, parse, parse_openmetrics, say
from support.loops import on_each_loop
from support.node_driver import TTL_MS, World, topology_of
from support.raw_peer import PATIENCE_S
from support.served import Served

from pulsering import limits
from pulsering.wire import Op
from pulsering_server import admin as admin_module
from pulsering_server.admin import Exposed
from pulsering_server.config import load_config
from pulsering_server.config_watch import ConfigWatch
from pulsering_server.metrics import FAMILIES

GETS = ["/metrics", "/-/healthy", "/-/ready", "/status", "/connections"]


# --- What it says -------------------------------------------------------------------------------------------


@on_each_loop
async def test_every_page_answers_and_ends_the_connection() -> None:
    async with asked() as it:
        it.node.world.warm()
        for path in GETS:
            answer = await it.get(path)
            assert answer.status == 200, path
            assert answer.headers["connection"] == "close"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            head = await ask(*it.admin.address, path, "HEAD")
            assert (head.status, head.text) == (200, ""), path


@on_each_loop
async def test_metrics_come_in_the_format_that_is_accepted() -> None:
    async with asked() as it:
        plain = await it.get("/metrics")
        assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
        names = {metric.name for metric in parse_text(plain.text)}
        assert {"pulsering_users_online", "process_open_fds"} <= names
        wanted = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
        modern = await it.get("/metrics", Accept=wanted)
        assert modern.headers["content-type"].startswith("application/openmetrics-text")
        assert {metric.name for metric in parse_openmetrics(modern.text)} == names
        assert modern.text.count("# EOF") == 1
        assert "# EOF" not in plain.text


@on_each_loop
async def test_a_scrape_lets_the_loop_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data is served between any two families, so a scrape holds it up for less than a millisecond."""
    turns, at = 0, list[int]()

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def choose(accept: str) -> Any:
        encode, content_type = choose_encoder(accept)

        def noted(family: Any) -> bytes:
            at.append(turns)
            return encode(family)

        return noted, content_type

    monkeypatch.setattr(admin_module, "choose_encoder", choose)
    async with asked() as it:
        counting = asyncio.create_task(count())
        assert (await it.get("/metrics")).status == 200
        counting.cancel()
        await asyncio.wait((counting,))
    assert len(set(at)) == len(at) > len(FAMILIES)


@on_each_loop
async def test_ready_says_why_not() -> None:
    async with asked() as it:
        cold = await it.get("/-/ready")
        assert (cold.status, cold.text) == (503, "not ready: warming, 20.2 s left\n")
        told = await it.get("/-/ready", Accept="application/json")
        assert (told.status, told.json) == (503, {"ready": False, "reason": "warming", "warming_ms": 20_250})
        it.node.world.warm()
        warm = await it.get("/-/ready")
        assert (warm.status, warm.text) == (200, "ready\n")
        it.node.core.draining = True
        gone = await it.get("/-/ready")
        assert (gone.status, gone.text) == (503, "not ready: draining\n")
        assert (await it.get("/-/healthy")).status == 200, "a node that drains is healthy"


@on_each_loop
async def test_the_status_has_what_a_console_needs() -> None:
    async with asked() as it, it.node.peer() as peer:
        await peer.greet()
        it.node.world.connect().beat(*range(30))
        it.node.world.connect().get(*range(40))
        status = (await it.get("/status")).json
    assert (status["node"], status["cluster"], status["epoch"]) == ("a", "demo", 1)
    assert status["admin"] == str(it.admin.address)
    assert (status["ready"], status["unready"], status["warming_ms"]) == (False, "warming", TTL_MS + 250)
    assert (status["users"], status["users_first"]) == (30, 30)
    assert status["gets"] == {"offline": 0, "online": 30, "unknown": 10, "moved": 0}
    assert status["unknown"] == {"start": 10, "stall": 0, "clock": 0, "topology": 0}
    assert status["heartbeats"]["accepted"] == 30
    assert status["latency_ms"]["get"]["p99"] > 0
    assert status["table"]["memory_bytes"] > 0
    assert status["connections"]["open"] == 1
    assert (status["share"], status["share_first"]) == (1, 1)
    assert [(node["name"], node["service"]) for node in status["nodes"]] == [("a", "a")]
    assert [node["name"] for node in status["nodes"]] == ["a"]
    assert status["nodes"][0]["admin"] == "127.0.0.1:0"
    assert len(status["topology_hash"]) == len(status["boot_id"]) == 16


@on_each_loop
async def test_the_status_tells_what_happened_lately() -> None:
    async with asked() as it:
        it.node.world.warm()
        it.node.world.stand_still(TTL_MS)
        it.node.core.tick(it.node.world.now_ms)
        it.node.world.advance(1000)
        events = (await it.get("/status")).json["events"]
    assert [event["event"] for event in events] == ["node.warm", "node.stalled"]
    assert events[-1]["ago_ms"] == 1000
    assert events[-1]["stood_still_ms"] >= TTL_MS


@on_each_loop
async def test_connections_are_told_by_who_sends_most() -> None:
    async with asked() as it, AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(it.node.peer()) for _ in range(3)]
        for asks, peer in enumerate(peers):
            await peer.greet()
            for _ in range(asks * 10):
                await peer.ask(Op.PING)
        it.node.world.advance(5000)
        told = (await it.get("/connections?sort=received&limit=2")).json
        assert (told["open"], len(told["connections"])) == (3, 2)
        first, second = told["connections"]
        assert first["received_bytes"] > second["received_bytes"] > 0
        assert first["peer"] == "{}:{}".format(*peers[2].writer.get_extra_info("sockname")[:2])
        assert first["client"] == "raw peer"
        assert first["age_ms"] == 5000
        assert (first["in_flight"], first["held_bytes"], first["paused"]) == (0, 0, False)
        for broken in ("sort=name", "limit=0", "limit=1001", "limit=-1", "limit=²"):
            assert (await it.get(f"/connections?{broken}")).status == 400, broken


async def test_what_a_client_calls_itself_is_escaped() -> None:
    async with asked() as it, it.node.peer() as peer:
        await peer.greet(agent="evil\x1b[31m\n")
        (told,) = (await it.get("/connections")).json["connections"]
        assert told["client"] == "evil\\x1b[31m\\n"


# --- Who may steer ------------------------------------------------------------------------------------------


@on_each_loop
async def test_draining_wants_a_token() -> None:
    async with asked() as it:
        for options in ({}, {"token": "wrong" * 8}, {"Authorization": f"Basic {TOKEN}"}):
            refused = await it.post("/-/drain", **options)
            assert refused.status == 401
            assert refused.headers["www-authenticate"] == "Bearer"
        assert not it.drains
        granted = await it.post("/-/drain", token=TOKEN)
        assert (granted.status, granted.json) == (202, {"draining": True, "drain_ms": limits.DRAIN_MS})
        assert it.drains == [1]


@on_each_loop
async def test_without_a_token_nobody_steers() -> None:
    async with asked(token="") as it:
        for path in ("/-/drain", "/-/reload"):
            refused = await it.post(path, token=TOKEN)
            assert refused.status == 403
            assert "admin.token_file" in refused.text
        assert not it.drains
        assert (await it.get("/status")).status == 200


async def test_a_token_is_in_no_log_and_no_answer() -> None:
    with capture_logs() as lines:
        async with asked() as it:
            refused = await it.post("/-/drain", token="a-guess-that-is-wrong")
            granted = await it.post("/-/drain", token=TOKEN)
    told = f"{lines} {refused} {granted}"
    assert "admin.refused" in told
    assert TOKEN not in told
    assert "a-guess" not in told


@on_each_loop
async def test_a_get_never_steers() -> None:
    async with asked() as it:
        for path in ("/-/drain", "/-/reload"):
            refused = await it.get(path, token=TOKEN)
            assert (refused.status, refused.headers["allow"]) == (405, "POST")
        assert not it.drains


@on_each_loop
async def test_beyond_loopback_all_but_the_probes_wants_the_token() -> None:
    async with asked("0.0.0.0") as it:
        it.node.world.warm()
        port = it.admin.address.port
        for path in GETS:
            open_to_all = path.startswith("/-/")
            assert (await ask("127.0.0.1", port, path)).status == (200 if open_to_all else 401), path
            assert (await ask("127.0.0.1", port, path, token=TOKEN)).status == 200, path


@pytest.mark.parametrize(
    ("field", "status"),
    [
        ("evil.test:8400", 421),
        ("127.0.0.1.evil.test", 421),
        ("localhost.evil.test", 421),
        ("", 421),
        ("127.0.0.1:8400", 200),
        ("[::1]:8400", 200),
        ("LocalHost.:8400", 200),
        ("node.internal:1", 200),
        (None, 200),
    ],
)
async def test_nobody_reads_by_a_name_that_a_stranger_can_let_lead_here(
    field: str | None, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: a page of ``evil.test``, whose name has become ours, is of the same origin as we are."""
    monkeypatch.setattr("support.http.CONFIG", CONFIG.replace("10.0.0.1", "node.internal"))
    head = "" if field is None else f"Host: {field}\r\n"
    async with asked() as it:
        for path in ("/metrics", "/status", "/cluster"):
            data = f"GET {path} HTTP/1.{0 if field is None else 1}\r\n{head}\r\n".encode()
            assert parse(await say(*it.admin.address, data)).status == status
        for path in ("/-/healthy", "/"):
            assert (await it.get(path, Host="evil.test")).status == 200


async def test_where_a_token_is_shown_the_name_does_not_matter() -> None:
    """A page of another site has none; a scraper by whatever name has."""
    async with asked("0.0.0.0") as it:
        here = ("127.0.0.1", it.admin.address.port)
        assert (await ask(*here, "/status", token=TOKEN, Host="prometheus.test")).status == 200
    async with asked("0.0.0.0", token="", insecure=True) as it:
        here = ("127.0.0.1", it.admin.address.port)
        assert (await ask(*here, "/status", Host="evil.test")).status == 421


@on_each_loop
async def test_beyond_loopback_there_must_be_a_token_or_it_must_be_said() -> None:
    """Scenario 58, for the admin port."""
    with pytest.raises(Exposed, match=r"beyond loopback.*admin\.token_file or PULSERING_ADMIN_TOKEN"):
        async with asked("0.0.0.0", token=""):
            pass
    async with asked("0.0.0.0", token="", insecure=True) as it:
        assert (await ask("127.0.0.1", it.admin.address.port, "/status")).status == 200
        assert (await ask("127.0.0.1", it.admin.address.port, "/-/drain", "POST")).status == 403


# --- Reload -------------------------------------------------------------------------------------------------


@on_each_loop
async def test_reload_follows_the_file_or_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    text = CONFIG.format(insecure="false")
    path.write_text(text)
    config = load_config(path)

    def watch(node: Served) -> ConfigWatch:
        world = node.world
        world.topology = config.topology()
        world.restart("a")
        node.core = node.listener.core = world.cores["a"]
        return ConfigWatch(path, config, node.core, lambda: world.now_ms)

    async with asked(watch=watch) as it:
        path.write_text(text.replace("epoch: 1", "epoch: 2"))
        good = await it.post("/-/reload", token=TOKEN)
        assert (good.status, good.json) == (200, {"loaded": True, "epoch": 2, "problems": []})
        path.write_text(text.replace("epoch: 1", "epoch: two").replace("replicas", "replikas"))
        bad = await it.post("/-/reload", token=TOKEN)
        assert (bad.status, bad.json["loaded"], bad.json["epoch"]) == (409, False, 2)
        assert any("did you mean 'replicas'?" in problem for problem in bad.json["problems"])
        told = (await it.get("/status")).json["config"]
        assert (told["reloads"], told["refused"], told["last_reload_ok"]) == (1, 1, False)
        assert told["problems"] == bad.json["problems"]
        scraped = (await it.get("/metrics")).text
        assert "pulsering_config_last_reload_successful 0.0" in scraped
        assert 'pulsering_config_reloads_total{outcome="refused"} 1.0' in scraped


@on_each_loop
async def test_a_node_without_a_file_cannot_reload() -> None:
    async with asked() as it:
        assert (await it.post("/-/reload", token=TOKEN)).status == 404


# --- What a peer may cost -----------------------------------------------------------------------------------


@on_each_loop
async def test_what_is_not_there_is_said_with_what_is() -> None:
    async with asked() as it:
        answer = await it.get("/nothing")
        assert answer.status == 404
        assert "/-/ready" in answer.text
        assert "/status" in answer.text
        assert (await it.get("/-/healthy/../../etc/passwd")).status == 404


@on_each_loop
@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"x" * 2 * limits.ADMIN_LINE_BYTES + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /status HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2 * limits.ADMIN_LINE_BYTES + b"\r\n\r\n",
        b"GET /status HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
        b"POST /-/drain HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000000\r\n\r\n",
        b"POST /-/drain HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\r\n\r\n\r\n\x00\xff",
        b"GET /status HTTP/9.9\r\n\r\n",
    ],
    ids=["line", "field", "fields", "length", "chunk", "tls", "noise", "version"],
)
async def test_what_is_too_large_or_no_http_is_refused(data: bytes) -> None:
    async with asked() as it:
        with capture_logs() as lines:
            said = await say(*it.admin.address, data)
        assert parse(said).status in (400, 401, 413, 505)
        assert len(said) < 2 * limits.ADMIN_LINE_BYTES
        assert len(lines) <= 2
        assert all("exc_info" not in line for line in lines), lines
        assert not it.drains
        assert (await it.get("/-/healthy")).status == 200


@on_each_loop
async def test_connections_are_few_and_one_too_many_is_told() -> None:
    async with asked() as it, AsyncExitStack() as stack:
        streams = [await asyncio.open_connection(*it.admin.address) for _ in range(limits.ADMIN_CONNECTIONS)]
        for _, writer in streams:
            stack.callback(writer.transport.abort)
        http = it.admin._runner.server
        assert http is not None
        await it.node.until(lambda: len(http.connections) == limits.ADMIN_CONNECTIONS)
        answer = parse(await say(*it.admin.address, b""))
        assert answer.status == 503
        assert len(http.connections) == limits.ADMIN_CONNECTIONS


@on_each_loop
async def test_who_drips_bytes_in_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole request has its time, not each byte; whoever is quick is served meanwhile."""
    monkeypatch.setattr(limits, "ADMIN_REQUEST_MS", 100)
    monkeypatch.setattr(admin_module, "LOOK_S", 0.01)
    async with asked() as it:
        reader, writer = await asyncio.open_connection(*it.admin.address)
        writer.write(b"GET /status HTTP/1.1\r\nHost: a\r\n")

        async def drip() -> None:
            while True:
                writer.write(b"X: y\r\n")
                await writer.drain()
                await asyncio.sleep(0)

        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(ConnectionError):
                await drip()
        assert (await it.get("/-/healthy")).status == 200
        writer.transport.abort()
        reader.feed_eof()


@on_each_loop
async def test_a_fault_of_ours_costs_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asked() as it:

        def fail() -> Any:
            raise RuntimeError("a defect")

        monkeypatch.setattr(it.admin._page, "document", fail)
        with capture_logs() as lines:
            answer = await it.get("/status")
        assert answer.status == 500
        assert "a defect\n" not in answer.text
        assert [line["event"] for line in lines] == ["admin.fault"]
        assert (await it.get("/-/healthy")).status == 200


@on_each_loop
async def test_closing_lets_go_of_everything_even_of_who_stays() -> None:
    async with asked() as it:
        reader, writer = await asyncio.open_connection(*it.admin.address)
        writer.write(b"GET /status HTTP/1.1\r\n")
        await writer.drain()
        await it.get("/-/healthy")
        async with asyncio.timeout(PATIENCE_S):
            await it.admin.close()
            assert await reader.read() == b""
        writer.transport.abort()
        with pytest.raises(OSError, match=r"refused|Connect"):
            await it.get("/-/healthy")


@on_each_loop
async def test_a_port_that_is_taken_is_an_error_and_nothing_is_left() -> None:
    async with asked() as it:
        taken = it.admin.address
        with pytest.raises(OSError, match="in use"):
            await it.admin.__class__(
                it.node.listener, it.admin._config, it.admin._tokens, drain=lambda: None
            ).open(taken)


def test_readiness_is_of_the_node_not_of_the_port() -> None:
    """Removed by its own topology, a node says so, however warm it is."""
    world = World("ab")
    world.warm()
    core = world.cores["a"]
    assert core.unready(world.now_ms) == ""
    core.follow(topology_of("b", epoch=2), world.now_ms)
    assert core.unready(world.now_ms) == "removed"
