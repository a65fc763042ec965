"""The one key of etcd, asked of a real one: what it holds, what has changed, and two who write at once."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio
import trustme
from support.etcd_server import EtcdServer, needs_etcd
from support.raw_peer import PATIENCE_S

from pulsering_server.etcd import EtcdFailed, EtcdKey, Value
from pulsering_server.etcd_url import parse_etcd_url

pytestmark = needs_etcd


@pytest_asyncio.fixture
async def etcd(tmp_path: Path) -> AsyncIterator[EtcdServer]:
    async with EtcdServer(tmp_path) as server:
        yield server


async def test_a_key_is_written_only_as_it_was_read(etcd: EtcdServer) -> None:
    """Compare-and-swap: of two who read the same, one writes."""
    async with etcd.key as one, etcd.key as other:
        assert await one.get() == Value("", 0)
        assert await one.put_if("first", 0)
        assert not await other.put_if("also first", 0)
        first = await other.get()
        assert first.text == "first"
        assert await other.put_if("zweite, mit Ü", first.revision)
        assert not await one.put_if("second", first.revision)
        assert (await one.get()).text == "zweite, mit Ü"


async def test_what_changes_is_told(etcd: EtcdServer) -> None:
    async with etcd.key as writer, etcd.key as key, aclosing(key.readings()) as readings:
        assert await anext(readings) == Value("", 0)
        revision = 0
        for text in ("one", "two", "three"):
            assert await writer.put_if(text, revision)
            found = await asyncio.wait_for(anext(readings), PATIENCE_S)
            assert found.text == text
            revision = found.revision


async def test_a_large_value_is_whole(etcd: EtcdServer) -> None:
    """Some thousand nodes; a watch carries the value too, in pieces."""
    text = "".join(
        f"  - {{name: node-{number}, address: 10.0.0.1:{number}}}\n" for number in range(1, 10_000)
    )
    async with etcd.key as key, aclosing(key.readings()) as readings:
        await anext(readings)
        assert await key.put_if(text, 0)
        assert (await asyncio.wait_for(anext(readings), PATIENCE_S)).text == text


async def test_a_watch_that_is_silent_is_begun_anew(etcd: EtcdServer) -> None:
    async with EtcdKey(etcd.url, silence_s=0.2) as key, aclosing(key.readings()) as readings:
        for _ in range(3):
            assert await asyncio.wait_for(anext(readings), PATIENCE_S) == Value("", 0)


async def test_an_etcd_that_is_gone_or_says_nothing_is_an_error_in_time(etcd: EtcdServer) -> None:
    async with etcd.key as key, aclosing(key.readings()) as readings:
        await anext(readings)
        etcd.signal(signal.SIGSTOP)
        with pytest.raises(EtcdFailed, match=r"127\.0\.0\.1"):
            await asyncio.wait_for(key.get(), PATIENCE_S)
        await etcd.stop()
        with pytest.raises(EtcdFailed):
            await asyncio.wait_for(anext(readings), PATIENCE_S)


async def test_one_host_of_several_is_enough(etcd: EtcdServer, tmp_path: Path) -> None:
    dead = EtcdServer(tmp_path / "dead")
    url = etcd.url._replace(hosts=(*dead.url.hosts, *etcd.url.hosts))
    async with EtcdKey(url) as key:
        assert await key.put_if("here", 0)
        assert (await key.get()).text == "here"


async def test_over_tls_each_shows_the_other_who_it_is(tmp_path: Path) -> None:
    """etcds, with the authority of the servers and a certificate of ours."""
    authority = trustme.CA()
    ca, server, client = (str(tmp_path / f"{name}.pem") for name in ("ca", "server", "client"))
    authority.cert_pem.write_to_path(ca)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(server)
    authority.issue_cert("node@pulsering").private_key_and_cert_chain_pem.write_to_path(client)
    asked = ("--cert-file", server, "--key-file", server, "--client-cert-auth", "--trusted-ca-file", ca)
    query = f"?ca={ca}&cert={client}"
    async with EtcdServer(tmp_path, *asked, scheme="https", query=query) as etcd:
        async with etcd.key as key:
            assert await key.put_if("secret", 0)
            assert (await key.get()).text == "secret"
        async with EtcdKey(etcd.url._replace(cert="")) as stranger:
            with pytest.raises(EtcdFailed):
                await stranger.get()
        with pytest.raises(EtcdFailed, match=r"gone\.pem"):
            async with EtcdKey(etcd.url._replace(ca=str(tmp_path / "gone.pem"))):
                pass


async def test_a_server_that_is_no_etcd_is_said() -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, EtcdKey(parse_etcd_url(f"etcd://127.0.0.1:{port}/k")) as key:
        with pytest.raises(EtcdFailed, match="is it etcd"):
            await key.get()
