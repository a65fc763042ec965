"""The example server over real HTTP, before a cluster whose clock moves when told to."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from support.example import SECRET, Caller, example

from examples.api_server.auth import token_for
from examples.api_server.contract import BODY_BYTES_MAX, IDS_MAX
from examples.api_server.serving import NotStarted
from examples.api_server.settings import LEAVE_GRACE_S
from pulsering.testing import MemoryCluster

pytestmark = pytest.mark.asyncio(loop_scope="module")

TTL_S = 20.0


@pytest.fixture(scope="module")
def cluster() -> MemoryCluster:
    return MemoryCluster(ttl=TTL_S, last_seen="1h")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def caller(cluster: MemoryCluster) -> AsyncIterator[Caller]:
    async with example(cluster.url) as device:
        yield device


async def test_a_user_is_online_from_its_heartbeat_until_one_ttl_of_silence(
    caller: Caller, cluster: MemoryCluster
) -> None:
    token = await caller.be("ada")
    assert await caller.statuses(token, "ada") == ["offline"]
    told = await caller.ask("POST", "heartbeat", token=token)
    assert (told.status, told.body) == (200, {"beat_again_ms": 1000 * TTL_S / 2})
    assert await caller.statuses(token, "nobody", "ada", "nobody") == ["offline", "online", "offline"]
    cluster.clock.advance(TTL_S + 1)
    assert await caller.statuses(token, "ada") == ["offline"]


async def test_who_is_offline_was_last_seen_where_that_is_remembered(
    caller: Caller, cluster: MemoryCluster
) -> None:
    token = await caller.be("ken")
    await caller.ask("POST", "heartbeat", token=token)
    cluster.clock.advance(125)
    await caller.ask("POST", "heartbeat", token=await caller.be("joan"))
    told = await caller.ask("GET", "status?ids=ken,nobody,joan", token=token)
    ken, nobody, joan = told.body["statuses"]
    assert ken["status"] == "offline"
    assert 124 <= ken["last_seen_s"] <= 130
    assert nobody == {"id": "nobody", "status": "offline"}
    assert joan == {"id": "joan", "status": "online"}


async def test_a_user_beats_and_leaves_only_for_itself_whatever_else_it_sends(caller: Caller) -> None:
    ada, eve = await caller.be("ada"), await caller.be("eve")
    await caller.ask("POST", "heartbeat", token=ada)
    await caller.ask("POST", "heartbeat?id=grace", token=eve, json={"id": "grace", "user": "grace"})
    assert (await caller.ask("POST", "leave", token=eve, data={"id": "ada"})).status == 400
    assert (await caller.ask("POST", "leave?id=ada", token=eve)).status == 204
    assert await caller.statuses(eve, "grace", "ada") == ["offline", "online"]


@pytest.mark.parametrize("by", ["header", "beacon"])
async def test_who_leaves_is_offline_after_the_grace_unless_it_beats_again(
    caller: Caller, cluster: MemoryCluster, by: str
) -> None:
    token = await caller.be("bob")
    for comes_back in (True, False):
        await caller.ask("POST", "heartbeat", token=token)
        cluster.clock.advance(0.1)
        form = {"data": {"token": token}} if by == "beacon" else {"token": token}
        assert (await caller.ask("POST", "leave", **form)).status == 204
        assert await caller.statuses(token, "bob") == ["online"]
        cluster.clock.advance(0.1)
        if comes_back:
            await caller.ask("POST", "heartbeat", token=token)
        cluster.clock.advance(LEAVE_GRACE_S + TTL_S / 80)
        assert await caller.statuses(token, "bob") == ["online" if comes_back else "offline"]


async def test_what_the_cluster_cannot_know_is_unknown_and_never_offline(
    caller: Caller, cluster: MemoryCluster
) -> None:
    token = await caller.be("ada")
    await caller.ask("POST", "heartbeat", token=token)
    cluster.go_cold()
    assert await caller.statuses(token, "ada", "nobody") == ["online", "unknown cold"]
    cluster.clock.advance(TTL_S + 1)
    assert await caller.statuses(token, "nobody") == ["offline"]


async def test_without_the_cluster_it_answers_503_and_goes_on_living(
    caller: Caller, cluster: MemoryCluster
) -> None:
    token = await caller.be("ada")
    asked = (("POST", "heartbeat"), ("POST", "leave"), ("GET", "status?ids=ada"))
    cluster.stop()
    try:
        for method, path in asked:
            told = await caller.ask(method, path, token=token)
            assert (told.status, told.headers["Content-Type"]) == (503, "application/problem+json")
            assert int(told.headers["Retry-After"]) >= 1
            assert "offline" not in str(told.body)
        health = await caller.ask("GET", "healthz")
        assert (health.status, health.body["nodes_connected"]) == (200, 0)
    finally:
        cluster.start()
    async with asyncio.timeout(20):
        while (await caller.ask("POST", "heartbeat", token=token)).status != 200:
            pass
    assert await caller.statuses(token, "ada") == ["online"]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ada",
        "Bearer ada.",
        "Basic YWRhOg==",
        f"Bearer eve{token_for('ada', SECRET)[3:]}",
    ],
)
async def test_who_is_not_known_is_told_how_to_be(caller: Caller, header: str) -> None:
    for method, path in (("POST", "heartbeat"), ("POST", "leave"), ("GET", "status?ids=ada")):
        told = await caller.ask(method, path, headers={"Authorization": header})
        assert (told.status, told.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "POST /session" in told.body["detail"]


@pytest.mark.parametrize(
    "query",
    [
        "", "?ids=", "?ids=ada,", "?ids=Ada", "?ids=a%20b", "?ids=ada&ids=grace", "?ids=ada&more=1",
        "?id=ada", "?ids=" + "a" * 33, "?ids=" + ",".join(["ada"] * (IDS_MAX + 1)),
    ],
)  # fmt: skip
async def test_a_question_that_is_no_batch_of_ids_says_what_is_one(caller: Caller, query: str) -> None:
    told = await caller.ask("GET", f"status{query}", token=token_for("ada", SECRET))
    assert (told.status, told.headers["Content-Type"]) == (400, "application/problem+json")
    assert told.body["title"] == "Bad Request"
    assert "ids" in told.body["detail"] or "user id" in told.body["detail"]


async def test_as_many_ids_as_are_allowed_are_answered(caller: Caller) -> None:
    ids = [f"user-{number}" for number in range(IDS_MAX)]
    assert await caller.statuses(token_for("ada", SECRET), *ids) == ["offline"] * IDS_MAX


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b'{"name": "Ada"}', 400),
        ("application/json", b'{"name": 1}', 400),
        ("application/json", b'{"name": "ada", "admin": true}', 400),
        ("application/json", b"[" * BODY_BYTES_MAX, 400),
        ("application/json", b"\xff", 400),
        ("application/json", b" " * (BODY_BYTES_MAX + 1), 413),
        ("text/plain", b'{"name": "ada"}', 415),
    ],
)
async def test_a_session_is_asked_for_in_one_way_only(
    caller: Caller, kind: str, body: bytes, status: int
) -> None:
    told = await caller.ask("POST", "session", data=body, headers={"Content-Type": kind})
    assert (told.status, told.body["status"]) == (status, status)


@pytest.mark.parametrize("form", [b"", b"token", b"name=ada", b"token=a&token=b", b"token=\xff"])
async def test_a_beacon_is_a_form_with_a_token(caller: Caller, form: bytes) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert (await caller.ask("POST", "leave", data=form, headers=headers)).status == 400
    assert (await caller.ask("POST", "leave", data=b"token=eve.0", headers=headers)).status == 401
    assert (await caller.ask("POST", "leave", data=b"token=eve.0")).status == 415


async def test_friends_are_suggested_but_never_oneself(caller: Caller) -> None:
    told = await caller.ask("POST", "session", json={"name": "ada"})
    assert told.body == {"id": "ada", "token": token_for("ada", SECRET), "friends": ["grace"]}


async def test_other_paths_and_methods_are_problems_too(caller: Caller) -> None:
    for method, path, status in (("GET", "no-such-page", 404), ("GET", "heartbeat", 405)):
        told = await caller.ask(method, path)
        assert (told.status, told.headers["Content-Type"]) == (status, "application/problem+json")


async def test_an_answer_about_presence_is_kept_by_nobody(caller: Caller) -> None:
    token = await caller.be("ada")
    for method, path in (("GET", "status?ids=ada"), ("GET", "status"), ("POST", "heartbeat")):
        told = await caller.ask(method, path, token=token)
        assert told.headers["Cache-Control"] == "no-store"


async def test_it_does_not_start_where_no_node_answers() -> None:
    with pytest.raises(NotStarted, match="did not start"):
        async with example("presence://127.0.0.1:1?connect_timeout=100ms"):
            pass
