"""``presences://``: the same client over TLS, with the node's certificate checked."""

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from support.fake_node import FakeCluster, until
from support.loops import on_each_loop

from pulsering import NoNodeReachable, PresenceClient, Status

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    directory = tmp_path_factory.mktemp("tls")
    cert, key = directory / "cert.pem", directory / "key.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-out", cert, "-keyout", key], check=True, capture_output=True)
    return cert, key


def tls_cluster(certificate: tuple[Path, Path]) -> FakeCluster:
    cluster = FakeCluster("ab", 2)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    for node in cluster.nodes.values():
        node.tls = context
    return cluster


@on_each_loop
async def test_presences_speaks_tls(certificate: tuple[Path, Path]) -> None:
    trust = ssl.create_default_context(cafile=str(certificate[0]))
    async with tls_cluster(certificate) as cluster:
        url = cluster.url.replace("presence:", "presences:")
        async with PresenceClient.from_url(url, ssl=trust, timeout=2) as presence:
            assert (await presence.heartbeat_many(range(10_000))).accepted == 10_000
            assert (await presence.get_many(range(20_000))).counts[Status.ONLINE] == 10_000


@on_each_loop
async def test_an_untrusted_certificate_is_refused(certificate: tuple[Path, Path]) -> None:
    async with tls_cluster(certificate) as cluster:
        url = cluster.url.replace("presence:", "presences:")
        with pytest.raises(NoNodeReachable, match=r"certificate|CERTIFICATE"):
            await PresenceClient.from_url(url).open()
        await until(lambda: len(asyncio.all_tasks()) == 1)  # the node's side of the handshake
