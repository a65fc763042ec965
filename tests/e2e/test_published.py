"""Real nodes that follow a real etcd: by `apply`, through its death, and from a start without it."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from e2e.poll import until
from e2e.test_apply import pulsering, statuses
from support.etcd_server import EtcdServer, needs_etcd
from support.http import ask

from pulsering import PresenceClient, Status
from pulsering_server.local_cluster import LocalCluster, LocalNode

pytestmark = needs_etcd

TTL_MS = 2_000
USERS = range(500)


class Machines:
    """Four nodes, of which three are a cluster that follows ``etcd``; each has a file of its own."""

    def __init__(self, directory: Path, cluster: LocalCluster, etcd: EtcdServer) -> None:
        self.etcd = etcd
        self._text = cluster.config_path.read_text("utf-8") + f"topology: {etcd.text}\n"
        self._directory = directory
        self.nodes = {name: LocalNode(directory / f"{name}.yaml", name) for name in "abcd"}
        self.url = ""

    def file(self, names: str, epoch: int) -> str:
        """A configuration on the operator's machine."""
        path = self._directory / f"{names}-{epoch}.yaml"
        gone = [f"name: {name}," for name in set("abcd") - set(names)]
        lines = self._text.replace("epoch: 1", f"epoch: {epoch}").splitlines()
        path.write_text("\n".join(line for line in lines if not any(each in line for each in gone)) + "\n")
        return str(path)

    async def start(self, name: str, file: str) -> None:
        """Start a node with a file that stays as it is from then on."""
        shutil.copy(file, self._directory / f"{name}.yaml")
        await self.nodes[name].start()

    def text(self, names: str, epoch: int) -> str:
        """The same, as text."""
        return Path(self.file(names, epoch)).read_text("utf-8")

    async def epochs(self) -> list[int | None]:
        """What the nodes of the cluster follow."""
        return [node.epoch for node in await statuses(self.url)]

    async def frozen(self, name: str) -> float:
        """The metric of one node."""
        host, _, port = self.nodes[name].admin.rpartition(":")
        text = (await ask(host, int(port), "/metrics")).text
        (line,) = [line for line in text.splitlines() if line.startswith("pulsering_topology_frozen ")]
        return float(line.split()[1])


@pytest_asyncio.fixture
async def machines(tmp_path: Path) -> AsyncIterator[Machines]:
    """Three warm nodes, and an etcd with nothing in it."""
    cluster = LocalCluster(4, ttl_ms=TTL_MS, admin=True)
    async with EtcdServer(tmp_path) as etcd:
        these = Machines(tmp_path, cluster, etcd)
        await cluster.stop()  # it was never started: only its file was wanted
        try:
            three = these.file("abc", 1)
            await asyncio.gather(*(these.start(name, three) for name in "abc"))
            these.url = f"presence://{','.join(these.nodes[name].address for name in 'abc')}"
            yield these
        finally:
            for node in these.nodes.values():
                await node.kill()


async def test_one_write_reaches_all_nodes_and_only_one_of_two_is_made(machines: Machines) -> None:
    """A node joins and leaves by `apply`, with no file copied to any node."""
    code, _, err = await pulsering("apply", machines.file("abc", 1), "--yes")
    assert code == 0, err
    assert "published" in err, "the first one makes the key"

    four = machines.file("abcd", 2)
    await machines.start("d", four)  # ahead of the key, until that is written
    code, out, err = await pulsering("apply", four, "--yes", "-o", "json")
    assert code == 0, err
    assert json.loads(out)["nodes"] == ["a", "b", "c", "d"]
    assert await machines.epochs() == [2, 2, 2, 2]

    code, _, err = await pulsering("apply", four, "--push", "true", "--yes")
    assert code == 2
    assert "nodes follow etcd" in err
    code, _, err = await pulsering("apply", machines.file("abc", 3))
    assert code == 2, "nobody can be asked, and nobody said --yes"

    async with machines.etcd.key as key:
        held = await key.get()
        ahead = machines.text("abcd", 7).replace("name: d,", "name: d, weight: 2,")
        assert await key.put_if(ahead, held.revision), "somebody else is quicker"
    code, _, err = await pulsering("apply", machines.file("abc", 3), "--yes")
    assert code in (1, 2), "it is behind by now, as nodes or as etcd say"
    assert await machines.epochs() == [7, 7, 7, 7]


async def test_without_etcd_the_topology_stays_and_nothing_else_is_wrong(machines: Machines) -> None:
    one = machines.file("abc", 1)
    assert (await pulsering("apply", one, "--yes"))[0] == 0
    four = machines.file("abcd", 2)
    await machines.start("d", four)
    assert (await pulsering("apply", four, "--yes"))[0] == 0
    assert await machines.frozen("a") == 0.0
    await machines.etcd.stop()

    async def all_frozen() -> bool:
        return all([await machines.frozen(name) == 1.0 for name in "abcd"])

    await until(all_frozen)
    assert "topology.frozen" in machines.nodes["a"].log()
    async with PresenceClient.from_url(machines.url, timeout=5) as presence:
        assert (await presence.heartbeat_many(USERS)).unacknowledged == 0
        assert (await presence.get_many(USERS)).counts[Status.ONLINE] == len(USERS)
    assert await machines.epochs() == [2, 2, 2, 2]
    code, _, err = await pulsering("apply", machines.file("abc", 3), "--yes")
    assert code == 1
    assert "etcd: 127.0.0.1" in err

    assert await machines.nodes["b"].terminate(12.0) == 0
    await machines.nodes["b"].start()  # goes by its file, which is at epoch 1
    assert await machines.nodes["b"].terminate(12.0) == 0

    await machines.etcd.start()
    await machines.nodes["b"].start()  # and by etcd, at once

    async def whole() -> bool:
        return await machines.epochs() == [2, 2, 2, 2] and await machines.frozen("a") == 0.0

    await until(whole)
    assert "topology.watched" in machines.nodes["a"].log()


async def test_what_is_published_broken_changes_nothing(machines: Machines) -> None:
    assert (await pulsering("apply", machines.file("abc", 1), "--yes"))[0] == 0
    async with machines.etcd.key as key:
        assert await key.put_if("version: 1\nnodes: {\n", (await key.get()).revision)

        async def refused() -> bool:
            return "config.refused" in machines.nodes["a"].log()

        await until(refused)
        assert machines.etcd.text in machines.nodes["a"].log()
        assert await machines.epochs() == [1, 1, 1]
        text = machines.text("abc", 2)
        assert await key.put_if(text, (await key.get()).revision)

        async def followed() -> bool:
            return await machines.epochs() == [2, 2, 2]

        await until(followed)
