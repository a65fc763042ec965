"""Admin ports as the command line asks them: whom, with which token, and what it says if nobody answers."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.http import TOKEN, asked
from support.raw_peer import PATIENCE_S

from pulsering_server.cli import admin_ports
from pulsering_server.cli.admin_ports import AdminPorts, Told, silence
from pulsering_server.cli.misuse import Misuse
from pulsering_server.cli.target import Target, target_of
from pulsering_server.config import parse_config

CONFIG = """\
version: 1
cluster: demo
epoch: 1
replicas: 1
admin: {token_file: token, insecure_no_token: true}
nodes:
  - {name: a, address: "10.0.0.1:7400", admin: 8400}
  - {name: b, address: "10.0.0.2:7400", admin: "10.0.0.2:8400", cores: 2}
  - {name: c, address: "10.0.0.3:7400", admin: "0.0.0.0:8400"}
  - {name: d, address: "10.0.0.4:7400", admin: 0}
  - {name: e, address: "10.0.0.5:7400"}
"""
URL = Target("presence://h")


def target(directory: Path) -> Target:
    return Target("presence://h", directory / "cluster.yaml", parse_config(CONFIG))


@asynccontextmanager
async def answering(data: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Somebody who says the same to everybody: where, and what was said there."""
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(data)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", heard


def http(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


async def ask(ports: AdminPorts, name: str = "a", path: str = "/status") -> Told:
    (told,) = await ports.ask([name], path, PATIENCE_S)
    return told


# --- Where ----------------------------------------------------------------------------------------------


def test_each_core_is_asked_where_the_file_says_and_any_address_is_the_nodes(tmp_path: Path) -> None:
    ports = AdminPorts(target(tmp_path), (), {})
    places = {name: str(ports.place(name)) for name in ports.names}
    assert places["a"] == "127.0.0.1:8400"
    assert (places["b-0"], places["b-1"]) == ("10.0.0.2:8400", "10.0.0.2:8401")
    assert places["c"] == "10.0.0.3:8400"
    assert places["d"].startswith("'admin: 0' is any free port")
    assert places["e"].startswith("the admin port is off: 'admin: 8400' of the node")
    assert "it is not in cluster.yaml" in str(ports.place("z"))


def test_what_is_said_counts_before_the_file(tmp_path: Path) -> None:
    ports = AdminPorts(target(tmp_path), ["a=127.0.0.1:9", "e=[::1]:8"], {})
    assert (str(ports.place("a")), str(ports.place("e"))) == ("127.0.0.1:9", "[::1]:8")
    of_url = AdminPorts(URL, ["x=h:1"], {})
    assert of_url.names == ["x"]
    assert "a URL does not tell admin ports" in str(of_url.place("a"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "expected NODE=HOST:PORT; such as a=127.0.0.1:8400"),
        ("=h:1", "expected NODE=HOST:PORT"),
        ("a=h", "no port"),
        ("a=h:99999", "bad port"),
        ("z=h:1", "cluster.yaml has no node 'z'; it has: a, b-0, b-1"),
    ],
)
def test_a_place_that_cannot_be_is_misuse(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(Misuse, match=message):
        AdminPorts(target(tmp_path), [text], {})


# --- Who answers ----------------------------------------------------------------------------------------


async def test_a_node_is_asked_and_tells(tmp_path: Path) -> None:
    async with asked() as it:
        ports = AdminPorts(target(tmp_path), [f"a={it.admin.address}"], {})
        told = await ask(ports)
        assert (told.why, told.body["node"]) == ("", "a")
        (metrics,) = await ports.ask(["a"], "/metrics", PATIENCE_S, text=True)
        assert "pulsering_users_online" in metrics.body


async def test_an_answer_of_another_node_does_not_count() -> None:
    async with asked() as it:
        told = await ask(AdminPorts(URL, [f"b={it.admin.address}"], {}), "b")
        assert told.body is None
        assert told.why == f"at {it.admin.address} answers node 'a'"
        assert not told.off


async def test_nobody_on_our_loopback_is_no_fault_of_a_node_on_another_machine(tmp_path: Path) -> None:
    async with asked() as it:
        there = it.admin.address.port
    text = CONFIG.replace("admin: 8400", f"admin: {there}")
    far = Target("presence://h", tmp_path / "cluster.yaml", parse_config(text))
    told = await ask(AdminPorts(far, (), {}))
    assert told.off
    assert "connection refused" in told.why
    assert "through a tunnel with --admin NODE=HOST:PORT" in told.why
    near = Target("presence://h", None, parse_config(text.replace("10.0.0.1", "127.0.0.9")))
    told = await ask(AdminPorts(near, (), {}))
    assert not told.off
    assert told.why == f"the admin port 127.0.0.1:{there} cannot be reached: connection refused"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (http(b"<html>"), "answers something else than a node's admin port"),
        (http(b"[]"), "answers something else"),
        (http(b"[" * 100_000), "answers something else"),
        (http(b'{"node": "a\\u001b[2J"}'), "answers node 'a\\x1b[2J'"),
        (http(b"go away", "500 Oops"), "answers 500: go away"),
        (http(b"", "302 Found\r\nLocation: http://127.0.0.1:1/"), "answers 302"),
        (b"\x00\xff not http\r\n\r\n", "cannot be reached"),
        (b"", "cannot be reached"),
    ],
)
async def test_whoever_else_is_there_ends_as_a_sentence(data: bytes, why: str) -> None:
    async with answering(data) as (where, _):
        told = await ask(AdminPorts(URL, [f"a={where}"], {}))
    assert told.body is None
    assert why in told.why


async def test_an_endless_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_ports, "_BODY_BYTES_MAX", 1 << 20)
    async with answering(http(b"x" * (2 << 20))) as (where, _):
        told = await ask(AdminPorts(URL, [f"a={where}"], {}))
    assert told.why.endswith("an answer of more than 1MiB")


async def test_who_never_answers_is_left_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        (told,) = await AdminPorts(URL, [f"a={where}"], {}).ask(["a"], "/status", 0.1)
    assert told.why == f"the admin port {where} does not answer in time"


# --- Tokens ---------------------------------------------------------------------------------------------


async def test_a_token_is_shown_where_it_is_asked_for_and_only_there(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\nanother-token-0123456789\n")
    async with answering(http(b'{"node": "a"}')) as (where, heard):
        assert (await ask(AdminPorts(target(tmp_path), [f"a={where}"], {}))).body == {"node": "a"}
        assert TOKEN.encode() not in b"".join(heard)
    async with answering(http(b"", "401 Unauthorized")) as (where, heard):
        ports = AdminPorts(target(tmp_path), [f"a={where}"], {})
        assert ports.tokens == [TOKEN, "another-token-0123456789"]
        told = await ask(ports)
        assert [TOKEN.encode() in each for each in heard] == [False, True]
    assert "refuses the token that cluster.yaml or the environment gives: set" in told.why
    assert TOKEN not in told.why


async def test_beyond_loopback_a_token_is_needed_and_the_environment_comes_first() -> None:
    async with asked("0.0.0.0") as it:
        where = f"127.0.0.1:{it.admin.address.port}"
        told = await ask(AdminPorts(URL, [f"a={where}"], {}))
        assert "wants a token: set PULSERING_ADMIN_TOKEN" in told.why
        told = await ask(AdminPorts(URL, [f"a={where}"], {"PULSERING_ADMIN_TOKEN": TOKEN}))
        assert told.body["node"] == "a"


def test_a_token_file_that_cannot_be_read_is_no_token(tmp_path: Path) -> None:
    assert AdminPorts(target(tmp_path), (), {}).tokens == []
    (tmp_path / "token").write_bytes(b"\xff\xff")
    assert AdminPorts(target(tmp_path), (), {}).tokens == []


# --- What is said of it -----------------------------------------------------------------------------------


def test_a_reason_is_said_once_with_all_nodes_that_have_it() -> None:
    told = [Told(f"n{index}", why="off") for index in range(11)] + [Told("x", why="gone"), Told("y", {})]
    assert silence(told) == ["n0, n1, n2, n3, n4, n5, n6, n7 and 3 more: off", "x: gone"]


def test_the_file_says_whether_nodes_speak_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = CONFIG.replace("replicas: 1", "replicas: 1\ntls: {certificate: node.pem, admin: true}")
    Path("cluster.yaml").write_text(text)
    plain = target_of(None, None, {})
    assert plain.url.startswith("presences://10.0.0.1:7400,")
    told = target_of(None, None, {"PULSERING_CLIENT_CA": "/etc/ca.pem"})
    assert told.url.endswith("/demo?tls_ca=%2Fetc%2Fca.pem")
