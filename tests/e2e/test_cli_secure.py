"""The command line before nodes that speak TLS and want tokens, at both ports."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import trustme
from e2e.console_cluster import write_cluster
from e2e.test_cli_e2e import pulsering
from e2e.test_cores import free_ports
from support.raw_peer import PATIENCE_S

from pulsering_server.admin_http import AdminHttp, Place
from pulsering_server.config_values import parse_address
from pulsering_server.local_cluster import LocalCluster, LocalNode
from pulsering_server.trust import trust_of

WRITE, ADMIN = "write-0123456789abcdef", "admin-0123456789abcdef"
CONFIG = """
version: 1
cluster: safe
epoch: 1
ttl: 2s
replicas: 1
tls: {{certificate: node.pem, admin: true}}
auth: {{token_file: tokens}}
nodes: [{{name: a, address: "127.0.0.1:{port}", admin: {admin}}}]
"""


@pytest_asyncio.fixture
async def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """The configuration of a node that serves."""
    authority, port = trustme.CA(), free_ports(2)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "node.pem"))
    (tmp_path / "tokens").write_text(f"write {WRITE}\nadmin {ADMIN}\n")
    path = tmp_path / "cluster.yaml"
    path.write_text(CONFIG.format(port=port, admin=port + 1))
    monkeypatch.setenv("PULSERING_CLIENT_CA", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("PULSERING_TOKEN", WRITE)
    async with LocalCluster(config_path=path):
        yield str(path)


async def test_every_verb_that_looks_gets_in(file: str) -> None:
    code, out, err = await pulsering(None, "heartbeat", "1", "-c", file)
    assert (code, out, err) == (0, "1 acknowledged\n", "")
    code, out, err = await pulsering(None, "status", "-c", file, "-o", "json")
    assert (code, err) == (0, "")
    assert json.loads(out)[0]["users"] == 1
    code, out, err = await pulsering(None, "latency", "-c", file, "--for", "100ms")
    assert (code, err) == (0, "")
    code, out, err = await pulsering(None, "conns", "-c", file, "-o", "json")
    assert (code, err) == (0, "")
    assert json.loads(out)["unanswered"] == []
    _, out, err = await pulsering(None, "check", "-c", file, "-o", "json")
    assert not err
    found = {each["name"]: each["value"] for each in json.loads(out)["checks"]}
    assert (found["down"], found["admin"]) == (0, 0)
    assert found["memory"] > 0


async def test_who_has_no_token_or_trusts_nobody_is_told(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PULSERING_TOKEN")
    code, out, err = await pulsering(None, "status", "-c", file)
    assert (code, out) == (1, "")
    assert "token" in err
    monkeypatch.delenv("PULSERING_CLIENT_CA")
    code, out, err = await pulsering(None, "status", "-c", file)
    assert (code, out) == (3, "")
    assert "certificate" in err
    code, out, err = await pulsering(None, "conns", "-c", file)
    assert code == 3
    assert "its certificate is not trusted" in out
    assert "PULSERING_CLIENT_CA" in out


async def test_under_mutual_tls_a_node_shows_its_own_certificate_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its certificate is for the host that clients dial, although it is asked on loopback."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("127.0.0.2")
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "node.pem"))
    monkeypatch.setenv("PULSERING_CLIENT_CA", str(tmp_path / "ca.pem"))
    more = "tls: {certificate: node.pem, client_ca: ca.pem, admin: true}\n"
    path = write_cluster(tmp_path, ttl="1s", more=more)
    a, b = (LocalNode(path, name) for name in "ab")
    try:
        await a.start()
        monkeypatch.setenv("PULSERING_CLIENT_CA", "/nowhere")  # of b only: a reason to ask nobody, not to end
        await b.start()
        shown = trust_of({"PULSERING_CLIENT_CA": str(tmp_path / "ca.pem")}, tmp_path / "node.pem").current
        http = AdminHttp(shown, at_once=1, timeout_s=PATIENCE_S, bytes_max=1 << 20)
        seen = {}
        for node in (a, b):
            place = Place(parse_address(node.admin), exposed=False, host="127.0.0.2")
            rows = json.loads((await http.get(place, "/cluster")).body)["nodes"]
            seen[node] = {row["name"]: row["problem"] for row in rows}
        await http.close()
    finally:
        await asyncio.gather(a.kill(), b.kill())
    assert seen[a] == {"a": None, "b": None, "c": "refused"}
    assert seen[b] == {"a": "trust", "b": None, "c": "trust"}


def _of_epoch_2(file: str) -> str:
    new = Path(file).with_name("new.yaml")
    new.write_text(Path(file).read_text().replace("epoch: 1", "epoch: 2"))
    return str(new)


async def test_a_rollout_and_a_drain_get_in_as_well(file: str) -> None:
    new = _of_epoch_2(file)
    push = f"cp {{file}} {file}"
    code, out, err = await pulsering(None, "apply", new, "--push", push, "--yes", "--wait", "20s")
    assert code == 0, err
    assert "all nodes follow epoch 2 and are warm" in err
    code, out, err = await pulsering(None, "drain", "a", "--no-wait", "-c", file)
    assert (code, err) == (1, "")
    assert "a is part of the cluster at epoch 2" in out
