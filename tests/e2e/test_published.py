"""Real nodes that follow a real etcd: by `apply`, through its death, and from a start without it."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest_asyncio
from e2e.machines import Machines, machines_in, pulsering, statuses
from e2e.poll import until
from support.etcd_server import EtcdServer, needs_etcd
from support.http import ask

from pulsering import PresenceClient, Status

pytestmark = needs_etcd

USERS = range(500)


class Published(NamedTuple):
    """Nodes that follow ``etcd``, which has nothing in it yet."""

    machines: Machines
    etcd: EtcdServer

    async def epochs(self) -> list[int | None]:
        """What the nodes of the cluster follow."""
        return [node.epoch for node in await statuses(self.machines.url)]

    async def frozen(self, name: str) -> float:
        """The metric of one node."""
        host, _, port = self.machines.nodes[name].admin.rpartition(":")
        text = (await ask(host, int(port), "/metrics")).text
        (line,) = [line for line in text.splitlines() if line.startswith("pulsering_topology_frozen ")]
        return float(line.split()[1])


@pytest_asyncio.fixture
async def published(tmp_path: Path) -> AsyncIterator[Published]:
    async with (
        EtcdServer(tmp_path) as etcd,
        machines_in(tmp_path, f"topology: {etcd.text}\n", admin=True) as machines,
    ):
        yield Published(machines, etcd)


async def test_one_write_reaches_all_nodes_and_only_one_of_two_is_made(published: Published) -> None:
    """A node joins and leaves by `apply`, with no file copied to any node."""
    machines = published.machines
    code, _, err = await pulsering("apply", machines.file("abc", 1), "--yes")
    assert code == 0, err
    assert "published" in err, "the first one makes the key"

    four = machines.file("abcd", 2)
    await machines.start("d", four)  # ahead of the key, until that is written
    code, out, err = await pulsering("apply", four, "--yes", "-o", "json")
    assert code == 0, err
    assert json.loads(out)["nodes"] == ["a", "b", "c", "d"]
    assert await published.epochs() == [2, 2, 2, 2]

    code, _, err = await pulsering("apply", four, "--push", "true", "--yes")
    assert code == 2
    assert "nodes follow etcd" in err
    code, _, err = await pulsering("apply", machines.file("abc", 3))
    assert code == 2, "nobody can be asked, and nobody said --yes"

    async with published.etcd.key as key:
        held = await key.get()
        ahead = machines.text("abcd", 7).replace("name: d,", "name: d, weight: 2,")
        assert await key.put_if(ahead, held.revision), "somebody else is quicker"
    code, _, err = await pulsering("apply", machines.file("abc", 3), "--yes")
    assert code in (1, 2), "it is behind by now, as nodes or as etcd say"
    assert await published.epochs() == [7, 7, 7, 7]


async def test_without_etcd_the_topology_stays_and_nothing_else_is_wrong(published: Published) -> None:
    machines = published.machines
    one = machines.file("abc", 1)
    assert (await pulsering("apply", one, "--yes"))[0] == 0
    four = machines.file("abcd", 2)
    await machines.start("d", four)
    assert (await pulsering("apply", four, "--yes"))[0] == 0
    assert await published.frozen("a") == 0.0
    await published.etcd.stop()

    async def all_frozen() -> bool:
        return all([await published.frozen(name) == 1.0 for name in "abcd"])

    await until(all_frozen)
    assert "topology.frozen" in machines.nodes["a"].log()
    async with PresenceClient.from_url(machines.url, timeout=5) as presence:
        assert (await presence.heartbeat_many(USERS)).unacknowledged == 0
        assert (await presence.get_many(USERS)).counts[Status.ONLINE] == len(USERS)
    assert await published.epochs() == [2, 2, 2, 2]
    code, _, err = await pulsering("apply", machines.file("abc", 3), "--yes")
    assert code == 1
    assert "etcd: 127.0.0.1" in err

    assert await machines.nodes["b"].terminate(12.0) == 0
    await machines.nodes["b"].start()  # goes by its file, which is at epoch 1
    assert await machines.nodes["b"].terminate(12.0) == 0

    await published.etcd.start()
    await machines.nodes["b"].start()  # and by etcd, at once

    async def whole() -> bool:
        return await published.epochs() == [2, 2, 2, 2] and await published.frozen("a") == 0.0

    await until(whole)
    assert "topology.watched" in machines.nodes["a"].log()


async def test_what_is_published_broken_changes_nothing(published: Published) -> None:
    machines = published.machines
    assert (await pulsering("apply", machines.file("abc", 1), "--yes"))[0] == 0
    async with published.etcd.key as key:
        assert await key.put_if("version: 1\nnodes: {\n", (await key.get()).revision)

        async def refused() -> bool:
            return "config.refused" in machines.nodes["a"].log()

        await until(refused)
        assert published.etcd.text in machines.nodes["a"].log()
        assert await published.epochs() == [1, 1, 1]
        text = machines.text("abc", 2)
        assert await key.put_if(text, (await key.get()).revision)

        async def followed() -> bool:
            return await published.epochs() == [2, 2, 2]

        await until(followed)
