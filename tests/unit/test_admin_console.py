"""The documents of the console on real sockets: all nodes are in them, and many looks cost as much as one."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from support.http import TOKEN, Answer, ask, asked
from support.loops import on_each_loop
from support.node_driver import World, topology_of
from support.raw_peer import PATIENCE_S

from pulsering import limits
from pulsering_server.admin import Admin
from pulsering_server.admin_cluster import ClusterView, NoAnswer, admin_of
from pulsering_server.admin_console import EVENTS, PROBLEM_LETTERS, PROBLEMS, TALKERS, summary_of
from pulsering_server.admin_recent import ROWS
from pulsering_server.admin_tokens import VARIABLE, Tokens
from pulsering_server.config import ClusterConfig, parse_config
from pulsering_server.config_values import Address
from pulsering_server.listener import Listener
from pulsering_server.logs import TEXT_WIDTH_MAX
from pulsering_server.node import EVENTS_KEPT

HOST = "127.0.0.1"
FILES = [
    "/",
    *(
        f"/console/{name}"
        for name in ("console.css", "console.js", "model.js", "draw.js", "dom.js", "icon.svg")
    ),
]


def config_of(**admins: str) -> ClusterConfig:
    """A node for each, all on this machine."""
    lines = [
        f"  - {{name: {name}, address: '{HOST}:{7400 + place}', admin: {admin}}}"
        for place, (name, admin) in enumerate(admins.items())
    ]
    return parse_config("\n".join(["version: 1\ncluster: demo\nepoch: 1\nreplicas: 1\nnodes:", *lines]))


class Nodes:
    """Cores on one clock, each with its admin port; what is asked of ``a`` is the cluster."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.admins: dict[str, Admin] = {}
        self.places: dict[str, str] = {}

    async def open(self, name: str, where: str = f"{HOST}:0") -> None:
        """Start the admin port of a node."""
        config = config_of(**({name: "0"} | self.places))
        listener = Listener(self.world.cores[name], lambda: self.world.now_ms)
        admin = Admin(listener, config, Tokens(None, {VARIABLE: TOKEN}), drain=lambda: None)
        host, _, port = where.rpartition(":")
        at = await admin.open(Address(host, int(port)))
        self.admins[name] = admin
        self.places.setdefault(name, f"'{at}'")

    async def close(self, name: str) -> None:
        """End it, as if the process had ended."""
        await self.admins.pop(name).close()

    async def get(self, path: str, token: str | None = None) -> Answer:
        """Ask ``a``."""
        return await ask(HOST, self.admins["a"].address.port, path, token=token)

    async def look(self, token: str | None = None) -> dict[str, Any]:
        """What is there to see, by node."""
        answer = await self.get("/cluster", token)
        assert answer.status == 200, answer.text
        assert answer.json["from"] == "a"
        return {row["name"]: row for row in answer.json["nodes"]}


@asynccontextmanager
async def nodes(
    names: str = "abc", *, places: dict[str, str] | None = None, **options: Any
) -> AsyncIterator[Nodes]:
    """All of them open, except those whose ``places`` are told: there somebody else may be."""
    those = Nodes(World(names, **options))
    those.places |= {name: f"'{where}'" for name, where in (places or {}).items()}
    try:
        for name in reversed(names):
            if name not in those.places:
                await those.open(name)
        yield those
    finally:
        for name in list(those.admins):
            await those.close(name)


@asynccontextmanager
async def somebody(answer: Callable[[bytes], bytes | None]) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A listener that is no node: what it answers to a request, None for nothing; and what it was asked."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        said = answer(heard[-1])
        if said is None:
            await reader.read()
        else:
            writer.write(said)
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    try:
        yield "{}:{}".format(*server.sockets[0].getsockname()[:2]), heard
    finally:
        server.close()
        async with asyncio.timeout(PATIENCE_S):
            await server.wait_closed()


def http(body: bytes, status: str = "200 OK", *fields: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *fields, "", ""]
    return "\r\n".join(head).encode() + body


@pytest.fixture(autouse=True)
def always_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look is a new one, except where a test is about that."""
    monkeypatch.setattr(limits, "ADMIN_LOOK_REST_MS", 0)
    monkeypatch.setattr(limits, "ADMIN_ASKED_PER_S", float("inf"))


# --- The page -----------------------------------------------------------------------------------------------


@on_each_loop
async def test_the_page_loads_nothing_but_its_own_files() -> None:
    async with asked() as it:
        answers = {path: await it.get(path) for path in FILES}
    for path, answer in answers.items():
        assert answer.status == 200, path
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert not re.findall(
            r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[a-z0-9.-]+\.[a-z]{2,}", answer.text
        ), path
    page = answers["/"].text
    assert set(re.findall(r'(?:href|src)="(/[^"]*)"', page)) <= {*FILES, "/cluster"}
    assert not re.findall(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon[a-z]+=", page)
    imported = re.findall(r'from "\./([^"]+)"', "".join(answer.text for answer in answers.values()))
    assert {f"/console/{name}" for name in imported} <= set(FILES)


@on_each_loop
async def test_beyond_loopback_the_page_comes_without_a_token_and_what_it_shows_does_not() -> None:
    async with asked("0.0.0.0") as it:
        port = it.admin.address.port
        for path in FILES:
            assert (await ask(HOST, port, path)).status == 200, path
        for path in ("/cluster", "/summary"):
            assert (await ask(HOST, port, path)).status == 401, path
            assert (await ask(HOST, port, path, token=TOKEN)).status == 200, path


@on_each_loop
async def test_there_are_no_other_files() -> None:
    async with asked() as it:
        for path in ("/console/", "/console/index.html", "/console/..%2fadmin.py", "/console/../admin.py"):
            assert (await it.get(path)).status == 404, path


# --- What is in the cluster ---------------------------------------------------------------------------------


@on_each_loop
async def test_all_nodes_are_there_with_what_they_say_of_themselves() -> None:
    async with nodes(replicas=2) as those:
        those.world.warm()
        found = await those.look()
    assert list(found) == ["a", "b", "c"]
    assert sum(row["share_first"] for row in found.values()) == pytest.approx(1, abs=1e-5)
    for name, row in found.items():
        assert (row["problem"], row["leaving"], row["summary"]["node"]) == (None, False, name)
        assert row["summary"]["ready"]
        assert 0 <= row["age_ms"] < 1000 * PATIENCE_S
        assert [event["event"] for event in row["summary"]["events"]] == ["node.warm"]


def total(found: dict[str, Any]) -> int:
    return sum(row["summary"]["users_first"] for row in found.values() if row["summary"])


@on_each_loop
async def test_each_user_is_counted_once_also_while_a_node_is_silent_or_cold() -> None:
    async with nodes(replicas=2) as those:
        those.world.warm()

        def beat() -> None:
            for name in those.world.cores:
                those.world.connect(name).beat(*(key << 40 for key in range(500)))

        beat()
        assert total(await those.look()) == 500
        await those.close("c")
        silent = await those.look()
        assert (silent["c"]["problem"], silent["c"]["summary"]) == ("refused", None)
        found = await those.look()
        assert total(found) == 500
        assert [found[name]["summary"]["skipped"] for name in "ab"] == [["c"], ["c"]]
        those.world.restart("c")
        await those.open("c", those.places["c"].strip("'"))
        assert (await those.look())["c"]["summary"]["warming_ms"] > 0
        found = await those.look()
        assert total(found) == 500
        assert found["c"]["summary"]["skipped"] == ["c"]


@on_each_loop
async def test_a_node_that_leaves_is_shown_until_it_is_gone() -> None:
    async with nodes() as those:
        await those.look()
        for core in those.world.cores.values():
            core.follow(topology_of("ab", epoch=2), those.world.now_ms)
        found = await those.look()
        assert list(found) == ["a", "b", "c"]
        assert [row["leaving"] for row in found.values()] == [False, False, True]
        assert found["c"]["summary"]["removed"]
        await those.close("c")
        assert list(await those.look()) == ["a", "b"]


@on_each_loop
async def test_a_node_that_was_removed_still_shows_itself() -> None:
    async with nodes("ab") as those:
        for core in those.world.cores.values():
            core.follow(topology_of("b", epoch=2), those.world.now_ms)
        found = await those.look()
        assert list(found) == ["b", "a"]
        assert found["a"]["leaving"]
        assert found["a"]["summary"]["removed"]


@on_each_loop
async def test_the_last_minutes_are_columns_of_one_length() -> None:
    async with nodes("a") as those:
        for _ in range(3):
            those.world.connect().beat(*range(100))
            those.world.advance(5000)
            those.admins["a"]._recent.note(those.world.now_ms)
        history = (await those.look())["a"]["summary"]["history"]
    assert history["heartbeats_per_s"] == [20, 20, 20]
    assert history["ago_ms"] == [10_000, 5_000, 0]
    columns = [value for value in history.values() if isinstance(value, list)] + list(
        history["p99_ms"].values()
    )
    assert {len(column) for column in columns} == {3}


async def test_the_longest_summary_is_within_what_is_taken() -> None:
    async with asked() as it:
        status = it.admin._page.document()
    columns = ("ago_ms", "span_ms", "users", "heartbeats_per_s", "gets_per_s", "unknown_per_s")
    row: dict[str, Any] = dict.fromkeys(columns, 1e9 + 0.123)
    row["latency_ms"] = {name: {"p99": 12345.6789} for name in ("get", "heartbeat", "loop_lag")}
    event = {
        "event": "node.topology",
        "ago_ms": 10**9,
        "epoch": 2**32,
        "slots_gained": 16384,
        "slots_lost": 16384,
    }
    status |= {"history": [row] * ROWS, "events": [event] * EVENTS_KEPT}
    status["config"]["problems"] = ["\x00" * 2 * PROBLEM_LETTERS] * 100
    talker = {"peer": "x" * 50, "client": "\U0001f600" * TEXT_WIDTH_MAX, **dict.fromkeys("abcdef", 10**12)}
    summary = summary_of(status, [talker] * TALKERS)
    assert len(json.dumps(summary, ensure_ascii=False).encode()) < limits.ADMIN_SUMMARY_BYTES
    assert (len(summary["events"]), len(summary["config_problems"])) == (EVENTS, PROBLEMS)


# --- Who does not answer ------------------------------------------------------------------------------------

GOOD = b'{"node": "b", "cluster": "demo", "warming_ms": 0, "users_first": 7}'
SILENCES: list[tuple[str, bytes, str]] = [
    ("other", http(b"<html>It works!</html>"), "is no node of ours"),
    ("other", http(b"[1, 2]"), "is no node of ours"),
    ("other", http(GOOD.replace(b"7", b"NaN")), "is no node of ours"),
    ("other", http(GOOD.decode().encode("utf-16")), "is no node of ours"),
    ("other", http(b"[" * 60_000), "is no node of ours"),
    ("other", http(GOOD + b" " * limits.ADMIN_SUMMARY_BYTES), "is no node of ours"),
    ("other", http(GOOD.replace(b'"b"', b'"x"')), "answers node x of cluster demo"),
    ("other", http(GOOD.replace(b"demo", b"prod")), "answers node b of cluster prod"),
    ("other", http(b"", "302 Found", "Location: http://127.0.0.1:1/"), "answers with status 302"),
    ("token", http(b"", "401 Unauthorized"), "wants a token"),
    ("old", http(b"", "404 Not Found"), "is older than the console"),
    ("full", http(b"", "503 Service Unavailable"), "all the admin connections"),
    ("lost", b"\x16\x03\x01\x02\x00\x01", "cannot be asked"),
    ("lost", b"", "cannot be asked"),
]


@pytest.mark.parametrize(("problem", "data", "message"), SILENCES, ids=range(len(SILENCES)))
async def test_what_is_no_answer_is_shown_with_what_to_do(problem: str, data: bytes, message: str) -> None:
    async with somebody(lambda _: data) as (where, _), nodes("ab", places={"b": where}) as those:
        found = await those.look()
    assert found["a"]["summary"]["node"] == "a"
    assert (found["b"]["problem"], found["b"]["summary"]) == (problem, None)
    assert message in found["b"]["message"]
    assert where in found["b"]["message"] or problem == "full"
    assert found["b"]["advice"]


@on_each_loop
async def test_a_good_answer_from_there_is_taken() -> None:
    """So that the cases above are refused for what is wrong with each."""
    async with somebody(lambda _: http(GOOD)) as (where, _), nodes("ab", places={"b": where}) as those:
        assert (await those.look())["b"]["summary"] == json.loads(GOOD)


@on_each_loop
async def test_a_node_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ADMIN_PEER_MS", 50)
    async with somebody(lambda _: None) as (where, _), nodes("abc", places={"b": where}) as those:
        found = await those.look()
    assert (found["b"]["problem"], found["c"]["problem"]) == ("timeout", None)
    assert "does not answer within 0.05 s" in found["b"]["message"]
    assert "systemctl status pulsering@b" in found["b"]["advice"]


@on_each_loop
async def test_of_a_core_that_is_gone_the_advice_names_the_service_of_its_node() -> None:
    async def own(_: tuple[str, ...]) -> bytes:
        return GOOD

    with socket.socket() as held:
        held.bind((HOST, 0))  # nobody listens there, nor will
        place = f"address: '{HOST}:7400', admin: {held.getsockname()[1]}"
        shards = parse_config(
            f"version: 1\ncluster: demo\nepoch: 1\nnodes: [{{name: x, cores: 2, {place}}}]"
        ).shards
        rows = [{"name": shard.name, "service": shard.node.name, "admin": None} for shard in shards]
        view = ClusterView(
            "b", "demo", nodes=lambda: rows, shards=lambda: shards, replicas=lambda: 1, own=own
        )
        view._asker = shards[0]
        found = json.loads(await view.document(None))["nodes"][0]
        await view.close()
    assert (found["name"], found["problem"]) == ("x-0", "refused")
    assert "`systemctl status pulsering@x`" in found["advice"]
    assert "`systemctl reload pulsering@x` starts a core that was drained" in found["advice"]


@on_each_loop
async def test_who_was_not_asked_in_time_is_shown_and_has_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ADMIN_LOOK_MS", 0)
    async with nodes("abc") as those:
        found = await those.look()
        assert [row["problem"] for row in found.values()] == [None, "not_asked", "not_asked"]
        first = those.admins["a"]._console.view._turn
        await those.look()
        assert those.admins["a"]._console.view._turn != first


def test_where_a_node_is_asked_is_what_its_file_says_or_why_not() -> None:
    text = "version: 1\ncluster: demo\nepoch: 1\nreplicas: 1\nnodes:\n"
    admins = {"a": "8400", "b": "8400", "c": "'10.0.0.3:8400'", "d": "'0.0.0.0:8400'", "e": "off", "f": "0"}
    for place, (name, admin) in enumerate(admins.items(), 1):
        text += f"  - {{name: {name}, address: '10.0.0.{place}:7400', admin: {admin}}}\n"
    a, b, c, d, e, f = parse_config(text).shards
    assert admin_of(a, a) == (Address(HOST, 8400), False, "10.0.0.1")
    assert admin_of(c, a) == (Address("10.0.0.3", 8400), True, "10.0.0.3")
    assert admin_of(d, a) == (Address("10.0.0.4", 8400), True, "10.0.0.4")
    for shard, problem in ((b, "loopback"), (e, "off"), (f, "any_port")):
        with pytest.raises(NoAnswer) as caught:
            admin_of(shard, a)
        assert caught.value.problem == problem
        assert f"`admin` of node {shard.name}" in caught.value.advice


# --- What it costs ------------------------------------------------------------------------------------------


@on_each_loop
async def test_many_who_look_cost_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ADMIN_LOOK_REST_MS", 60_000)
    async with somebody(lambda _: http(GOOD)) as (where, heard), nodes("ab", places={"b": where}) as those:
        view = those.admins["a"]._console.view
        documents = await asyncio.gather(*(view.document(None) for _ in range(100)))
        assert (view.looks, len(heard)) == (1, 1)
        assert {json.loads(document)["nodes"][1]["name"] for document in documents} == {"b"}
        first = await those.look()
        again = await those.look()
        assert (view.looks, len(heard)) == (1, 1)
        assert again["b"]["age_ms"] >= first["b"]["age_ms"]
        assert again["a"]["summary"] == first["a"]["summary"]


@on_each_loop
async def test_who_stops_looking_takes_nothing_from_the_others() -> None:
    go = asyncio.Event()
    async with nodes("a") as those:
        view = those.admins["a"]._console.view
        own = view._own

        async def slow(skipped: tuple[str, ...]) -> bytes:
            await go.wait()
            return await own(skipped)

        view._own = slow
        leaves, stays = (asyncio.create_task(view.document(None)) for _ in range(2))
        await asyncio.sleep(0)
        leaves.cancel()
        await asyncio.wait((leaves,))
        go.set()
        assert json.loads(await stays)["from"] == "a"
        assert view.looks == 1


@on_each_loop
async def test_a_token_goes_only_to_nodes_that_want_one() -> None:
    async with AsyncExitStack() as stack:
        inside, heard_inside = await stack.enter_async_context(somebody(lambda _: http(GOOD)))
        outside, heard_outside = await stack.enter_async_context(somebody(lambda _: http(GOOD)))
        everywhere = outside.replace(HOST, "0.0.0.0")
        those = await stack.enter_async_context(nodes("abc", places={"b": inside, "c": everywhere}))
        await those.look(TOKEN)
        await those.look()
    assert TOKEN.encode() not in heard_inside[0]
    assert f"Authorization: Bearer {TOKEN}".encode() in heard_outside[0]
    assert b"Authorization" not in heard_outside[1]


@on_each_loop
async def test_what_one_token_showed_is_not_shown_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ADMIN_LOOK_REST_MS", 60_000)

    def guarded(request: bytes) -> bytes:
        return http(GOOD) if TOKEN.encode() in request else http(b"", "401 Unauthorized")

    async with AsyncExitStack() as stack:
        where, _ = await stack.enter_async_context(somebody(guarded))
        those = await stack.enter_async_context(nodes("ab", places={"b": where.replace(HOST, "0.0.0.0")}))
        assert (await those.look(TOKEN))["b"]["summary"] is not None
        assert (await those.look())["b"]["problem"] == "token"
        assert (await those.look(TOKEN))["b"]["summary"] is not None


def test_a_look_ends_within_the_time_that_its_request_has() -> None:
    assert limits.ADMIN_LOOK_MS + 2 * limits.ADMIN_PEER_MS < limits.ADMIN_REQUEST_MS
    assert limits.ADMIN_ASKED_AT_ONCE + limits.ADMIN_CONNECTIONS < limits.FILES_RESERVED // 2
