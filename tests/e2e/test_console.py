"""The console in a real Chromium, before a live cluster whose nodes are killed and come back.

What a person would see is what is read here: text, states, focus, colours as they come out.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio
import trustme
from e2e.browser import CONTRAST, Browser, a_browser, needs_browser
from e2e.console_cluster import page_of, write_cluster
from support.http import TOKEN
from support.raw_peer import RawPeer

from pulsering import PresenceClient
from pulsering_server.admin_tokens import VARIABLE
from pulsering_server.local_cluster import LocalCluster

pytestmark = [needs_browser, pytest.mark.asyncio(loop_scope="module")]

USERS = 1000
BEAT_S = 0.25


class Watched(NamedTuple):
    """A cluster with users in it, and the console of its node ``a``."""

    cluster: LocalCluster
    page: Browser

    async def state(self, name: str, word: str, *, not_word: str = "\0") -> str:
        """Wait until a node is shown to be in a state; its row."""
        return await self.page.until(
            f'#nodes [data-key="{name}"]', lambda text: word in text and not_word not in text
        )

    async def well(self) -> None:
        """Wait until all is."""
        await self.page.until("#verdict-title", lambda text: text == "All is well: all 3 nodes are ready")


@asynccontextmanager
async def beating(url: str) -> AsyncIterator[None]:
    """Users who are there all the time."""
    async with PresenceClient.from_url(url, timeout=5) as presence:

        async def beat() -> None:
            loop = asyncio.get_running_loop()
            at_s = loop.time()
            while True:
                await presence.heartbeat_many(range(USERS))
                await presence.get_many(range(0, USERS, 10))
                at_s += BEAT_S
                await asyncio.sleep(max(0.0, at_s - loop.time()))

        task = asyncio.create_task(beat())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait((task,))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with a_browser() as page:
        yield page


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalCluster]:
    config = write_cluster(tmp_path_factory.mktemp("console"), ttl="4s")
    async with LocalCluster(config_path=config) as nodes, beating(nodes.url):
        yield nodes


@pytest_asyncio.fixture(loop_scope="module")
async def watched(cluster: LocalCluster, browser: Browser) -> Watched:
    """All nodes run, whatever the test before did, and the page is loaded anew."""
    for node in cluster.nodes.values():
        if not node.running:
            await node.start()
    await browser.emulate(1280, 900, {})
    await browser.open(page_of(cluster.nodes["a"]))
    await browser.complaints()
    return Watched(cluster, browser)


def policy_violations(complaints: list[str]) -> list[str]:
    """All but what a browser says of a node that is down."""
    return [complaint for complaint in complaints if "net::ERR_" not in complaint]


async def test_a_node_that_is_killed_and_comes_back_is_seen_all_the_way(watched: Watched) -> None:
    cluster, page = watched
    await watched.well()
    assert (await page.text("#seen")).endswith(", seen from a")
    await page.until('#tiles [data-key="users"] .value', lambda text: text == f"{USERS:,}")

    await cluster.kill("c")
    await page.until("#verdict-title", lambda text: text == "c does not answer")
    row = await watched.state("c", "unreachable")
    assert "numbers are" in row
    assert "Users see nothing of it" in await page.text("#verdict-users")
    finding = await page.text('[data-key="silent:c"]')
    assert finding.startswith("Act: c does not answer\n\nNothing listens at 127.0.0.1:")
    assert "systemctl status pulsering@c" in finding
    assert "c does not answer" in await page.text("#said")
    assert "c unreachable" in await page.run("return document.querySelector('#ring svg').ariaLabel")
    await page.until('#tiles [data-key="users"] .value', lambda text: text == f"{USERS:,}")
    assert (await page.run("return document.title")).startswith("✕ demo")

    await cluster.nodes["c"].start()
    await watched.state("c", "warming")
    assert "c answers again, is warming" in await page.text("#said")
    assert "left" in await watched.state("c", "left")
    await watched.state("c", "ready")
    await watched.well()
    past = await page.text("#past")
    assert past.index("became warm") < past.index("c does not answer")
    assert policy_violations(await page.complaints()) == []


async def test_without_its_own_node_the_page_says_so_and_how_old_all_is(watched: Watched) -> None:
    cluster, page = watched
    await watched.well()
    await cluster.kill("a")
    await page.until("#verdict-title", lambda text: text == "The node of this page cannot be reached")
    told = await page.text("#verdict-users")
    assert told.startswith("All below is ")
    assert told.endswith("Open the console of another node, from the table below.")
    assert await page.run("return document.querySelector('#nodes [data-key=b] a').href") == page_of(
        cluster.nodes["b"]
    )
    assert await page.run("return document.body.dataset.stale") == "true"
    assert "old" in await page.text("#age")
    await cluster.nodes["a"].start()
    await page.until("#age", lambda text: text.startswith("live"))
    await watched.well()
    assert await page.run("return document.body.dataset.stale ?? ''") == ""


async def test_every_text_can_be_read_in_light_and_dark_and_nothing_is_cut_off_when_narrow(
    watched: Watched,
) -> None:
    cluster, page = watched
    await watched.well()
    await cluster.kill("c")
    await page.until("#verdict-title", lambda text: text == "c does not answer")
    backgrounds = set()
    for scheme in ("light", "dark"):
        for width in (1280, 768, 320):
            await page.emulate(width, 900, {"prefers-color-scheme": scheme})
            assert await page.run(CONTRAST) == [], (scheme, width)
            sizes = await page.run("return [document.documentElement.scrollWidth, innerWidth]")
            assert sizes[0] <= sizes[1] == width, (scheme, width)
        backgrounds.add(await page.run("return getComputedStyle(document.body).backgroundColor"))
    assert len(backgrounds) == 2
    roles = (
        "return [...document.querySelectorAll('#nodes td')].map((cell) => [cell.role, cell.dataset.label])"
    )
    assert ["cell", "Users held"] in await page.run(roles)


async def test_the_page_is_used_with_keys_alone_and_an_update_takes_no_focus_away(watched: Watched) -> None:
    _, page = watched
    await watched.well()
    where = "return document.activeElement.ariaLabel ?? document.activeElement.innerText"
    seen = []
    for _ in range(8):
        await page.press("\ue004")
        seen.append(await page.run(where))
        outline = await page.run("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", seen
        if seen[-1] == "Console of b":
            break
    assert seen[:2] == ["Skip to the nodes", "Pause"]
    assert seen[-1] == "Console of b"
    heard = "return document.querySelector('#nodes [data-key=a] td:last-child').innerText"
    before = await page.run(heard)
    await page.until("#nodes [data-key=a] td:last-child", lambda text: text != before.replace("\xa0", " "))
    assert await page.run(where) == "Console of b"


async def test_paused_nothing_moves_until_it_goes_on(watched: Watched) -> None:
    cluster, page = watched
    await watched.well()
    await page.run("document.querySelector('#pause').click()")
    await page.until("#age", lambda text: text.startswith("paused"))
    await cluster.kill("c")
    await page.until("#age", lambda text: "3 s old" in text)
    assert await page.text("#verdict-title") == "All is well: all 3 nodes are ready"
    await page.run("document.querySelector('#pause').click()")
    await page.until("#verdict-title", lambda text: text == "c does not answer")


async def test_a_node_that_hangs_is_told_from_one_that_is_gone_and_its_stall_is_told_later(
    watched: Watched,
) -> None:
    cluster, page = watched
    await watched.well()
    cluster.nodes["b"].signal(signal.SIGSTOP)
    try:
        await page.until('[data-key="silent:b"]', lambda text: "does not answer within 1 s" in text)
        assert (await page.text("#age")).startswith("live")
    finally:
        cluster.nodes["b"].signal(signal.SIGCONT)
    await page.until("#past", lambda text: "b stood still for" in text)
    await watched.well()


async def test_an_epoch_change_and_a_file_that_is_refused_are_told(watched: Watched) -> None:
    cluster, page = watched
    await watched.well()
    good = cluster.config_path.read_text("utf-8").replace("epoch: 1", "epoch: 2")
    cluster.config_path.write_text(good, "utf-8")
    await page.until("#seen", lambda text: text == "epoch 2, seen from a")
    await page.until("#past", lambda text: text.count("follows epoch 2: 0 slots gained, 0 lost") == 3)
    cluster.config_path.write_text(good.replace("replicas", "replikas"), "utf-8")
    told = await page.until(
        '[data-key="config"]', lambda text: "a, b and c refused the last cluster.yaml" in text
    )
    assert "did you mean 'replicas'?" in told
    cluster.config_path.write_text(good, "utf-8")
    await watched.well()


async def test_a_lost_etcd_and_a_certificate_that_ends_are_told(watched: Watched) -> None:
    """Of summaries that say so: to lose an etcd takes another cluster, to wait for a date too long."""
    titles = """
    const said = (name, more) => ({ name, summary: { topology_hash: 1, epoch: 1, ...more } });
    const rows = [
      said("a", { topology_frozen: true, tls_left_ms: null }),
      said("b", { tls_left_ms: 14 * 86400000 - 1 }),
      said("c", { topology_frozen: false, tls_left_ms: 14 * 86400000 }),
    ];
    const { findingsOf } = await import("/console/model.js");
    return findingsOf({ rows, replicas: 2 }).map(({ level, title }) => `${level} ${title}`);
    """
    assert await watched.page.run(f"return (async () => {{ {titles} }})()") == [
        "watch a cannot reach etcd",
        "watch A certificate of b ends in 13\xa0d 23\xa0h",
    ]


async def test_what_a_peer_calls_itself_is_text_and_never_markup(watched: Watched) -> None:
    cluster, page = watched
    host, _, port = cluster.nodes["a"].address.rpartition(":")
    async with RawPeer(host, int(port)) as peer:
        evil = "<img src=x onerror=alert(1)>"
        await peer.greet(agent=evil)
        await page.until("#talkers", lambda text: evil in text)
    assert await page.run("return document.querySelectorAll('#talkers img').length") == 0
    assert policy_violations(await page.complaints()) == []


async def test_under_https_nodes_are_asked_and_links_lead_to_their_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, browser: Browser
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1", "127.0.0.2", "127.0.0.3")
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "node.pem"))
    monkeypatch.setenv("PULSERING_CLIENT_CA", str(tmp_path / "ca.pem"))
    config = write_cluster(tmp_path, ttl="1s", more="tls: {certificate: node.pem, admin: true}\n")
    async with LocalCluster(config_path=config) as cluster:
        await browser.open(page_of(cluster.nodes["a"], "https"))
        for name in "ab":
            await browser.until("#seen", f"epoch 1, seen from {name}".__eq__)
            await browser.until("#verdict-title", lambda text: text == "All is well: all 3 nodes are ready")
            link = await browser.run("return document.querySelector('[aria-label=\"Console of b\"]')?.href")
            if name == "a":
                await browser.open(link)


async def test_a_token_is_asked_for_where_one_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, browser: Browser
) -> None:
    monkeypatch.setenv(VARIABLE, TOKEN)
    config = write_cluster(tmp_path, ttl="1s", admin_host="0.0.0.0")
    page = browser
    async with LocalCluster(config_path=config) as cluster:
        node = cluster.nodes["a"]
        node.admin = node.admin.replace("0.0.0.0", "127.0.0.1")
        await page.open(page_of(node))
        await page.until("#verdict-title", lambda text: text == "The node wants a token")
        await page.run("document.querySelector('#token').focus()")
        await page.press("wrong" * 5 + "\ue007")
        await page.until("#verdict-title", lambda text: text == "The node refuses this token")
        await page.run("document.querySelector('#token').focus()")
        await page.press(TOKEN + "\ue007")
        await page.until("#verdict-title", lambda text: text == "All is well: all 3 nodes are ready")
        assert await page.run("return document.querySelector('#token-form').hidden")
        assert TOKEN not in await page.run("return document.documentElement.outerHTML + location.href")
