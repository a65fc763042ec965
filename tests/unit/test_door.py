"""Who gets in: as the configuration says, all of it or nothing, also while the node runs."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
import trustme
from support.loops import on_each_loop
from support.node_driver import World
from support.served import Served

from pulsering_server.config import ConfigErrors, load_config
from pulsering_server.config_watch import ConfigWatch
from pulsering_server.door import Door, Terms, is_exposed, terms_of
from pulsering_server.ownership import Refused

TOKEN = "0123456789abcdef"
CONFIG = """
version: 1
cluster: demo
epoch: 1
replicas: 1
{sections}
nodes:
  - {{name: a, address: "10.0.0.1:7400"}}
"""
TLS = "tls: {certificate: node.pem}"
AUTH = "auth: {token_file: tokens}"
INSECURE = "auth: {insecure_no_token: true}"


class Place:
    """A directory with a configuration and its files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "cluster.yaml"
        self.certify()
        self.admit("write", TOKEN)

    def certify(self, *, days: int = 90) -> None:
        made = trustme.CA().issue_cert("10.0.0.1", not_after=datetime.now(UTC) + timedelta(days=days))
        made.private_key_and_cert_chain_pem.write_to_path(str(self.directory / "node.pem"))

    def admit(self, role: str, token: str) -> None:
        (self.directory / "tokens").write_text(f"{role} {token}\n")

    def write(self, *sections: str) -> None:
        self.file.write_text(CONFIG.format(sections="\n".join(sections)))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


class Home:
    """A node with a door and a watch, not listening."""

    def __init__(self, place: Place, *, exposed: bool = False) -> None:
        self.node = Served(World())
        self.door = Door(self.node.listener, exposed=exposed)
        self.config = load_config(place.file, files=True)
        core = self.node.core
        core.topology = self.config.topology()
        self.watch = ConfigWatch(place.file, self.config, core, lambda: self.node.world.now_ms, self.door)
        self.door.follow(terms_of(self.config, place.file))

    def knows(self, token: str) -> bool:
        auth = self.node.core.auth
        return auth is not None and auth.identify(token) is not None


@on_each_loop
async def test_certificates_and_tokens_are_taken_up_together(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write(TLS, AUTH)
    home = Home(place)
    before = home.node.listener.tls
    place.certify()
    place.admit("write", TOKEN[::-1])
    assert await home.watch.reload()
    assert home.node.listener.tls not in (None, before)
    assert home.knows(TOKEN[::-1])
    assert not home.knows(TOKEN)


@on_each_loop
async def test_what_cannot_be_used_changes_nothing_and_is_told(tmp_path: Path) -> None:
    """Scenario 57: the old files stay, with a line and a count; nor is the half that was good taken up."""
    place = Place(tmp_path)
    place.write(TLS, AUTH)
    home = Home(place)
    before = home.node.listener.tls
    place.admit("write", TOKEN[::-1])
    place.certify(days=-1)
    with structlog.testing.capture_logs() as lines:
        assert not await home.watch.reload()
    assert home.node.listener.tls is before
    assert home.knows(TOKEN)
    assert [line["event"] for line in lines] == ["config.refused"]
    assert "tls.certificate: node.pem: expired on" in lines[0]["reason"]
    assert home.node.stats.reloads_refused == 1
    assert not home.node.stats.reload_ok


@on_each_loop
async def test_a_renewed_certificate_is_noticed_without_being_told(tmp_path: Path) -> None:
    """By what the watch looks at, twice the same: whatever renews files need not know of us."""
    place = Place(tmp_path)
    place.write(TLS, AUTH)
    home = Home(place)
    look, sight = home.watch._look, home.watch._sight
    sight.note(look())
    assert sight.note(look()), "as the file may have changed since the start"
    assert not sight.note(look())
    place.certify()
    assert not sight.note(look()), "it may be half a file"
    assert sight.note(look())
    place.admit("read", TOKEN)
    sight.note(look())
    assert sight.note(look())


@on_each_loop
async def test_a_reload_cannot_open_an_exposed_port_to_all(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write(AUTH)
    home = Home(place, exposed=True)
    place.write()
    assert not await home.watch.reload()
    assert "set auth.token_file or tls.client_ca" in home.watch.problems[0]
    assert home.knows(TOKEN)
    place.write(INSECURE)
    assert await home.watch.reload()
    assert home.node.core.auth is None


@pytest.mark.parametrize("sections", [(AUTH,), (INSECURE,), ("tls: {certificate: node.pem, client_ca: ca}",)])
def test_a_port_beyond_loopback_needs_one_of_three(place: Place, sections: tuple[str, ...]) -> None:
    async def check() -> None:
        place.write(*sections)
        Door(Served(World()).listener, exposed=True).check(load_config(place.file))

    asyncio.run(check())


def test_a_port_beyond_loopback_without_any_is_refused(place: Place) -> None:
    async def check() -> None:
        place.write(TLS)
        config = load_config(place.file)
        listener = Served(World()).listener
        Door(listener, exposed=False).check(config)
        with pytest.raises(Refused, match="beyond loopback and let in whoever reaches it"):
            Door(listener, exposed=True).check(config)

    asyncio.run(check())


@pytest.mark.parametrize(
    ("host", "exposed"), [("127.0.0.1", False), ("::1", False), ("0.0.0.0", True), ("10.0.0.1", True)]
)
async def test_exposed_is_what_others_can_reach(host: str, exposed: bool) -> None:
    assert await is_exposed(asyncio.get_running_loop(), host) is exposed


def test_a_file_that_went_bad_after_it_was_checked_is_an_error_as_any(place: Place) -> None:
    place.write(TLS, AUTH)
    config = load_config(place.file, files=True)
    (place.directory / "tokens").write_text("")
    with pytest.raises(ConfigErrors, match=r"auth.token_file: tokens: no token in it"):
        terms_of(config, place.file)
    (place.directory / "node.pem").write_text("")
    with pytest.raises(ConfigErrors, match=r"tls.certificate: cannot be used"):
        terms_of(config, place.file)


@on_each_loop
async def test_until_when_the_certificate_in_use_holds_is_a_metric(tmp_path: Path) -> None:
    """Of the one in use: a file that was renewed and refused changes nothing."""
    place = Place(tmp_path)
    place.certify(days=40)
    place.write(TLS)
    home = Home(place)
    ends_s, now_s = home.node.core.counters.tls_ends_s, datetime.now(UTC).timestamp()
    assert (ends_s["certificate"] - now_s) / 86400 == pytest.approx(40, abs=0.1)
    assert ends_s["client_ca"] == 0
    place.certify(days=-1)
    assert not await home.watch.reload()
    assert (ends_s["certificate"] - now_s) / 86400 == pytest.approx(40, abs=0.1)
    place.certify(days=90)
    assert await home.watch.reload()
    assert (ends_s["certificate"] - now_s) / 86400 == pytest.approx(90, abs=0.1)


def test_nothing_asked_is_nothing_wanted(place: Place) -> None:
    place.write()
    assert terms_of(load_config(place.file), place.file) == Terms(None, None)


def test_clients_read_a_configuration_without_having_its_files(place: Place) -> None:
    place.write("tls: {certificate: elsewhere.pem}", "auth: {token_file: elsewhere}")
    assert load_config(place.file).tls.certificate == "elsewhere.pem"
    with pytest.raises(ConfigErrors) as caught:
        load_config(place.file, files=True)
    assert len(caught.value.problems) == 2


def test_no_context_checks_clients_unless_told(place: Place) -> None:
    place.write(TLS)
    terms = terms_of(load_config(place.file), place.file)
    assert terms.tls is not None
    assert terms.tls.verify_mode is ssl.CERT_NONE
