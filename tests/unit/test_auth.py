"""Who may do what: each role as much as it says, nobody without a token, and no token in any text."""

import hmac
import io
import json
from pathlib import Path

import pytest
import structlog
from support.loops import on_each_loop
from support.node_driver import Peer, Refusal, World, frames_in, hello_body, refusal
from support.served import served

from pulsering import messages
from pulsering.wire import ErrorCode, Op
from pulsering_server import logs
from pulsering_server.auth import Auth, BadTokenFile, Role, read_auth
from pulsering_server.stats import Close

TOKENS = {role: f"{role.name.lower()}-0123456789abcdef" for role in Role}
AUTH = Auth(TOKENS.items())
UNKNOWN = "another-0123456789abcdef"
READS = [
    (Op.GET, messages.encode_keys_request(1, 0, bytes(8))),
    (Op.COUNT, messages.encode_count_request(1, ())),
    (Op.TOPOLOGY, messages.EMPTY_BODY),
    (Op.PING, messages.EMPTY_BODY),
]
WRITES = [(op, messages.encode_keys_request(1, 0, bytes(8))) for op in (Op.HEARTBEAT, Op.LEAVE)]


def world_with(auth: Auth | None = AUTH) -> World:
    world = World()
    world.cores["a"].auth = auth
    return world


def peer_with(world: World, token: str) -> Peer:
    peer = world.connect(greet=False)
    assert peer.ask(Op.HELLO, hello_body(token=token)).op == Op.HELLO
    return peer


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(("op", "body"), READS)
def test_every_role_may_read(role: Role, op: Op, body: bytes) -> None:
    assert peer_with(world_with(), TOKENS[role]).ask(op, body).op == op


@pytest.mark.parametrize("role", [Role.WRITE, Role.ADMIN])
@pytest.mark.parametrize(("op", "body"), WRITES)
def test_write_and_admin_may_write(role: Role, op: Op, body: bytes) -> None:
    assert peer_with(world_with(), TOKENS[role]).ask(op, body).op == op


@pytest.mark.parametrize(("op", "body"), WRITES)
def test_a_token_for_reading_writes_nothing_and_goes_on_reading(op: Op, body: bytes) -> None:
    world = world_with()
    peer_with(world, TOKENS[Role.WRITE]).beat(0)
    peer = peer_with(world, TOKENS[Role.READ])
    refused = peer.refused(op, body)
    assert refused.code == ErrorCode.FORBIDDEN
    assert refused.message == f"{op.name} needs the role write, and this token has read"
    assert peer.is_online(0) == "ON"
    assert world.cores["a"].stats.errors[ErrorCode.FORBIDDEN] == 1


@pytest.mark.parametrize(("token", "words"), [("", "a token is needed"), (UNKNOWN, "not known")])
def test_who_is_not_known_is_refused_at_hello(token: str, words: str) -> None:
    world = world_with()
    peer = world.connect(greet=False)
    refused = peer.refused(Op.HELLO, hello_body(token=token))
    assert refused.code == ErrorCode.UNAUTHORIZED
    assert words in refused.message
    assert UNKNOWN not in refused.message
    assert peer.session.closed is Close.UNAUTHORIZED
    assert peer.deliver(peer.frame(Op.GET, READS[0][1])) == []


def test_a_node_without_tokens_asks_for_none() -> None:
    peer = peer_with(world_with(None), UNKNOWN)
    assert peer.beat(1).accepted == 1


def test_a_token_that_is_taken_out_ends_its_connections() -> None:
    world = world_with()
    kept, gone = peer_with(world, TOKENS[Role.READ]), peer_with(world, TOKENS[Role.WRITE])
    world.cores["a"].auth = Auth([(Role.READ, TOKENS[Role.READ])])
    assert kept.session.recheck(world.now_ms) == b""
    assert kept.is_online(1) == "UNK"
    assert said(gone.session.recheck(world.now_ms)).code == ErrorCode.UNAUTHORIZED
    assert gone.session.closed is Close.UNAUTHORIZED


def said(last_words: bytes) -> Refusal:
    (frame,) = frames_in(last_words)
    return refusal(frame)


def test_a_token_that_changes_its_role_takes_it_up_at_once() -> None:
    world = world_with()
    peer = peer_with(world, TOKENS[Role.WRITE])
    world.cores["a"].auth = Auth([(Role.READ, TOKENS[Role.WRITE])])
    peer.session.recheck(world.now_ms)
    assert peer.refused(*WRITES[0]).code == ErrorCode.FORBIDDEN
    world.cores["a"].auth = Auth([(Role.WRITE, TOKENS[Role.WRITE])])
    peer.session.recheck(world.now_ms)
    assert peer.beat(1).accepted == 1


def test_whoever_came_without_a_token_leaves_when_one_is_needed() -> None:
    world = world_with(None)
    peer, stranger = peer_with(world, ""), world.connect(greet=False)
    world.cores["a"].auth = AUTH
    assert said(peer.session.recheck(world.now_ms)).code == ErrorCode.UNAUTHORIZED
    assert stranger.session.recheck(world.now_ms) == b"", "it has yet to say HELLO"
    assert stranger.session.closed is None


@on_each_loop
async def test_the_listener_sends_away_who_is_not_known_any_more() -> None:
    async with served() as node, node.peer() as peer:
        await peer.greet()
        node.core.auth = AUTH
        node.listener.recheck()
        assert (await peer.error()).code == ErrorCode.UNAUTHORIZED
        assert await peer.rest() == b""
        assert node.stats.connections_closed[Close.UNAUTHORIZED] == 1


def test_every_token_is_compared_whole_and_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the first matches, the last or none: as many comparisons, of digests of one length."""
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for token in (TOKENS[Role.READ], TOKENS[Role.ADMIN], UNKNOWN, ""):
        compared.clear()
        AUTH.identify(token)
        assert compared == [(32, 32)] * len(TOKENS)


# --- The file --------------------------------------------------------------------------------


def test_a_file_has_a_role_and_a_token_a_line(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(
        f"# of the API servers\nwrite {TOKENS[Role.WRITE]}\n\n  read\t{TOKENS[Role.READ]}  # a dashboard\r\n"
        f"write {UNKNOWN}"
    )
    auth = read_auth(file)
    assert len(auth) == 3
    roles = {token: (found := auth.identify(token)) and found.role for token in (*TOKENS.values(), UNKNOWN)}
    assert roles == {
        TOKENS[Role.READ]: Role.READ,
        TOKENS[Role.WRITE]: Role.WRITE,
        TOKENS[Role.ADMIN]: None,
        UNKNOWN: Role.WRITE,
    }


def test_of_two_roles_of_one_token_the_greater_counts() -> None:
    auth = Auth([(Role.WRITE, UNKNOWN), (Role.READ, UNKNOWN)])
    found = auth.identify(UNKNOWN)
    assert found is not None
    assert found.role is Role.WRITE


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no token in it"),
        (b"# nothing\n\n", "no token in it"),
        (b"0123456789abcdef\n", "line 1: a line is a role"),
        (b"\nroot 0123456789abcdef\n", "line 2: a line is a role"),
        (b"read\n", "line 1: one token after the role is needed, not 0"),
        (b"read 0123456789abcdef 0123456789abcdef\n", "line 1: one token after the role is needed, not 2"),
        (b"read short\n", "line 1: a token of 5 letters"),
        (b"read " + b"x" * 257, "line 1: a token of 257 letters"),
        ("read 0123456789abcdef€\n".encode(), "line 1: the token is not ASCII"),
        (b"read 0123456789\x1babcdef\n", "line 1: the token is not ASCII"),
        (b"read 0123456789abcdef\n" * 1000, "is this it"),
    ],
)
def test_a_file_that_cannot_be_is_told_by_its_line_and_never_by_its_tokens(
    tmp_path: Path, data: bytes, words: str
) -> None:
    file = tmp_path / "tokens"
    file.write_bytes(data)
    with pytest.raises(BadTokenFile, match=words) as caught:
        read_auth(file)
    assert "0123456789" not in str(caught.value)
    assert "short" not in str(caught.value)


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(BadTokenFile, match="No such file"):
        read_auth(tmp_path / "nowhere")


# --- Secrets and logs ------------------------------------------------------------------------


@on_each_loop
async def test_neither_tokens_nor_user_ids_nor_raw_words_of_a_peer_are_in_the_log() -> None:
    """Scenario 54: whatever a peer says, a log line is one line of printable text that we wrote."""
    stream = io.StringIO()
    logs.configure("a", stream=stream)
    try:
        async with served() as node:
            node.core.auth = AUTH
            user = 0x6B65796F66616C69  # the letters "keyofali"
            nasty = "\n{}\x1b[2J\u2028"
            async with node.peer() as peer:
                hello = hello_body(token=TOKENS[Role.WRITE], agent=nasty, cluster="")
                await peer.ask(Op.HELLO, hello)
                keys = user.to_bytes(8, "little")
                await peer.ask(Op.HEARTBEAT, messages.encode_keys_request(1, 0, keys))
                await peer.say(peer.request(Op.HEARTBEAT, b"\x93\x01\x1b" + keys))
                await peer.rest()
            for fields in ({"cluster": nasty}, {"token": UNKNOWN}, {"token": nasty}, {"version_min": 9}):
                async with node.peer() as peer:
                    await peer.ask(Op.HELLO, hello_body(**fields))
                    await peer.rest()
            async with node.peer() as peer:
                await peer.say(nasty.encode() * 9)
                await peer.rest()
            await node.until(lambda: node.stats.connections_open == 0)
    finally:
        structlog.reset_defaults()
    text = stream.getvalue()
    lines = text.splitlines()
    assert len(lines) == 6
    assert all(json.loads(line)["event"] == "conn.closed" for line in lines)
    assert all(line.isprintable() for line in lines)
    for secret in (*TOKENS.values(), UNKNOWN, "keyofali", "ilafoyek", str(user), f"{user:x}", "[2J"):
        assert secret not in text
