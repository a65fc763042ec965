"""Real nodes with TLS and tokens: the client gets in, strangers do not, and renewing both costs nothing."""

import asyncio
import signal
import ssl
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme
from e2e.poll import until
from e2e.test_serve import run
from support.raw_peer import PATIENCE_S

from pulsering import NodeUnavailable, NoNodeReachable, PresenceClient, Status, Unauthorized
from pulsering.sync import PresenceClient as BlockingClient
from pulsering_server.child import read_ready, spawn

READ, WRITE, NEXT = ("read-0123456789abcdef", "write-0123456789abcdef", "next-0123456789abcdef")
CONFIG = """
version: 1
cluster: safe
epoch: 1
replicas: 1
tls:
  certificate: node.pem
{mutual}
auth: {{token_file: tokens}}
nodes: [{{name: a, address: "127.0.0.1:{port}"}}]
"""


class Cluster(NamedTuple):
    """A node, and the directory of its files."""

    directory: Path
    process: Process
    url: str
    authority: trustme.CA

    def certify(self, authority: trustme.CA) -> None:
        pair = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem
        write(self.directory / "node.pem", pair.bytes())

    def admit(self, *tokens: tuple[str, str]) -> None:
        write(self.directory / "tokens", "".join(f"{role} {token}\n" for role, token in tokens).encode())

    def log(self) -> str:
        return (self.directory / "log").read_text()

    async def reload(self) -> None:
        """SIGHUP, and wait until it was heeded."""

        def heeded() -> int:
            return self.log().count("config.refused") + self.log().count("door.terms")

        before = heeded()
        self.process.send_signal(signal.SIGHUP)

        async def more() -> bool:
            return heeded() > before

        await until(more)


def write(path: Path, data: bytes) -> None:
    """As whoever renews files does: whole or not at all."""
    path.with_suffix(".new").write_bytes(data)
    path.with_suffix(".new").replace(path)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@asynccontextmanager
async def cluster(directory: Path, *, mutual: bool = False) -> AsyncIterator[Cluster]:
    authority, port = trustme.CA(), free_port()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    more = "  client_ca: ca.pem" if mutual else ""
    (directory / "cluster.yaml").write_text(CONFIG.format(port=port, mutual=more))
    url = f"presences://127.0.0.1:{port}/safe"
    files = Cluster(directory, None, url, authority)  # type: ignore[arg-type]
    files.certify(authority)
    files.admit(("read", READ), ("write", WRITE))
    with (directory / "log").open("wb") as log:
        process = await spawn(directory / "cluster.yaml", "a", stderr=log)
    try:
        async with asyncio.timeout(PATIENCE_S):
            await read_ready(process)
        yield files._replace(process=process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def client(of: Cluster, token: str, **options: Any) -> PresenceClient:
    return PresenceClient.from_url(
        of.url, token=token, tls_ca=str(of.directory / "ca.pem"), timeout=5, connect_timeout=5, **options
    )


async def test_a_token_for_writing_does_all_that_a_service_needs(tmp_path: Path) -> None:
    async with cluster(tmp_path) as it, client(it, WRITE) as presence:
        assert (await presence.heartbeat_many(range(20_000))).accepted == 20_000
        assert (await presence.get_many(range(20_000))).counts[Status.ONLINE] == 20_000
        await presence.leave(1)
        assert (await presence.count()).online == 19_999
        assert WRITE not in it.log()


async def test_a_token_for_reading_cannot_write_and_is_not_asked_to_try_again(tmp_path: Path) -> None:
    async with cluster(tmp_path) as it, client(it, WRITE) as writer, client(it, READ) as reader:
        await writer.heartbeat(1)
        assert await reader.is_online(1)
        assert (await reader.count()).online == 1
        for call in (reader.heartbeat(2), reader.leave(1), reader.heartbeat_many([2, 3])):
            frames = reader.stats()["frames"]
            with pytest.raises(Unauthorized, match="needs the role write") as caught:
                await call
            assert not caught.value.retryable
            assert isinstance(caught.value, PermissionError)
            assert reader.stats()["frames"] == frames + 1
        assert await reader.is_online(1)


@pytest.mark.parametrize(("token", "words"), [(None, "a token is needed"), (NEXT, "not known")])
async def test_who_is_not_known_gets_a_clear_error_at_the_start(
    tmp_path: Path, token: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PULSERING_TOKEN", raising=False)
    async with cluster(tmp_path) as it:
        with pytest.raises(Unauthorized, match=words) as caught:
            await client(it, token).open()  # type: ignore[arg-type]
        assert NEXT not in str(caught.value)
        assert NEXT not in it.log()


async def test_the_environment_and_files_give_the_blocking_client_its_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(tmp_path) as it:
        monkeypatch.setenv("PULSERING_TOKEN", WRITE)
        url = f"{it.url}?tls_ca={tmp_path / 'ca.pem'}&timeout=5s"

        def use() -> bool:
            with BlockingClient.from_url(url) as presence:
                presence.heartbeat(1)
                return presence.is_online(1)

        assert await asyncio.to_thread(use)


async def test_a_new_token_is_handed_out_before_the_old_one_ends(tmp_path: Path) -> None:
    """As docs/security.md says: both are good, services change over, then the old one is taken out."""
    token_file = tmp_path / "service"
    token_file.write_text(WRITE)
    async with cluster(tmp_path) as it:
        options = {"tls_ca": str(tmp_path / "ca.pem"), "timeout": 5, "token_file": str(token_file)}
        async with PresenceClient.from_url(it.url, **options) as presence:  # type: ignore[arg-type]
            await presence.heartbeat(1)
            it.admit(("write", WRITE), ("write", NEXT))
            await it.reload()
            await presence.heartbeat(2)
            token_file.write_text(NEXT)
            it.admit(("write", NEXT))
            await it.reload()

            async def beats() -> bool:
                try:
                    await presence.heartbeat(3)
                except NodeUnavailable:
                    return False
                return True

            await until(beats)
        with pytest.raises(Unauthorized):
            await client(it, WRITE).open()


async def test_a_renewed_certificate_costs_no_connection(tmp_path: Path) -> None:
    async with cluster(tmp_path) as it, client(it, WRITE) as presence:
        await presence.heartbeat(1)
        connects = presence.stats()["nodes"]["a"]["connects"]
        other = trustme.CA()
        it.certify(other)
        await it.reload()
        assert await presence.is_online(1)
        assert presence.stats()["nodes"]["a"]["connects"] == connects
        with pytest.raises(NoNodeReachable, match="certificate is not accepted"):
            await client(it, WRITE).open()
        other.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        async with client(it, WRITE) as second:
            assert await second.is_online(1)


async def test_a_broken_certificate_changes_nothing(tmp_path: Path) -> None:
    async with cluster(tmp_path) as it:
        write(tmp_path / "node.pem", b"half a fi")
        await it.reload()
        assert "tls.certificate: node.pem: no certificate in PEM" in it.log()
        async with client(it, WRITE) as presence:
            await presence.heartbeat(1)


async def test_mutual_tls_wants_a_certificate_of_the_client(tmp_path: Path) -> None:
    async with cluster(tmp_path, mutual=True) as it:
        with pytest.raises(NoNodeReachable, match="options tls_certificate and tls_key"):
            await client(it, WRITE).open()
        ours = tmp_path / "service.pem"
        it.authority.issue_cert("service.test").private_key_and_cert_chain_pem.write_to_path(str(ours))
        async with client(it, WRITE, tls_certificate=str(ours)) as presence:
            await presence.heartbeat(1)


async def test_a_name_that_is_not_in_the_certificate_is_refused(tmp_path: Path) -> None:
    async with cluster(tmp_path) as it:
        pair = it.authority.issue_cert("other.test").private_key_and_cert_chain_pem
        write(tmp_path / "node.pem", pair.bytes())
        await it.reload()
        with pytest.raises(NoNodeReachable, match="the host in the URL must be a name in the certificate"):
            await client(it, WRITE).open()


async def test_plain_and_tls_tell_each_other_what_to_do(tmp_path: Path) -> None:
    async with cluster(tmp_path) as it:
        from pulsering import ProtocolError

        with pytest.raises(ProtocolError, match="this port speaks TLS: presences://"):
            await PresenceClient.from_url(it.url.replace("presences", "presence"), connect_timeout=5).open()


async def test_a_node_does_not_listen_beyond_loopback_for_everybody(tmp_path: Path) -> None:
    config = tmp_path / "cluster.yaml"
    text = CONFIG.format(port=free_port(), mutual="").split("tls:")[0]
    nodes = 'nodes: [{name: a, address: "127.0.0.1:7400"}]\n'
    config.write_text(text + nodes)
    code, out, err = await run("serve", "-c", str(config), "--node", "a", "--host", "0.0.0.0", "--port", "0")
    assert (code, out) == (2, "")
    assert "set auth.token_file or tls.client_ca, or say auth.insecure_no_token: true" in err
    config.write_text(f"{text}auth: {{insecure_no_token: true}}\n{nodes}")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pulsering_server", "serve"),
        *("-c", str(config), "--node", "a", "--host", "0.0.0.0", "--port", "0"),
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            await read_ready(process)
    finally:
        process.kill()
        await process.communicate()


async def test_errors_in_files_are_those_of_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "cluster.yaml"
    config.write_text(CONFIG.format(port=7400, mutual=""))
    for verb in (("config", "validate"), ("serve", "--node", "a", "-c")):
        code, _, err = await run(*verb, str(config))
        assert code == 2
        assert f"{config}:7:16: error: tls.certificate: node.pem: cannot be read" in err
        assert f"{config}:9:20: error: auth.token_file: tokens: cannot be read" in err


def test_the_context_that_is_handed_over_is_the_one_that_counts() -> None:
    """Whoever has needs of their own brings an SSLContext; no option of ours weakens it."""
    context = ssl.create_default_context()
    presence = PresenceClient.from_url("presences://127.0.0.1:1", ssl=context)
    assert presence._options.tls_now() is context
