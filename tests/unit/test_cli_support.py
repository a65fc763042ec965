"""The archive for whoever helps: complete in itself, and without a secret wherever one may stand."""

import io
import stat
import tarfile
from pathlib import Path

import pytest

from pulsering_server.cli import run
from pulsering_server.cli.exits import CANNOT_REACH, MISUSED
from pulsering_server.cli.support import Dump

SEED = 0x1234_5678_90AB_CDEF
TOKEN = "a-token-of-the-admin-port"
CONFIG = f"""\
version: 1
cluster: here
epoch: 3
hash_seed: {SEED:#x}     # made by hunter2
replicas: 1
admin: {{token_file: token}}
nodes: [{{name: a, address: "127.0.0.1:1"}}]
"""


def files_of(path: Path) -> dict[str, str]:
    """The files of an archive by their names without its folder."""
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            folder, _, name = member.name.partition("/")
            assert folder == path.name.removesuffix(".tar.gz")
            stream = archive.extractfile(member)
            assert stream is not None
            found[name] = stream.read().decode()
    return found


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PULSERING_URL", raising=False)
    monkeypatch.setenv("PULSERING_TOKEN", "a-token-of-the-data-port")
    Path("token").write_text(TOKEN)
    Path("cluster.yaml").write_text(CONFIG)


def test_without_a_cluster_there_is_an_archive_all_the_same_and_exit_code_3(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run(["support-dump", "x.tar.gz", "--timeout", "300ms"]) == CANNOT_REACH
    out, err = capfd.readouterr()
    assert out.startswith("x.tar.gz: written, ")
    assert "not in it: the nodes: " in err
    found = files_of(Path("x.tar.gz"))
    assert {"MANIFEST.txt", "versions.json", "config.yaml", "logs.txt"} <= found.keys()
    manifest = found["MANIFEST.txt"]
    assert all(name in manifest for name in found if name != "MANIFEST.txt")
    assert "Could not be gathered:\n  the nodes: " in manifest


def test_only_its_owner_may_read_it_and_nothing_is_overwritten(capfd: pytest.CaptureFixture[str]) -> None:
    run(["support-dump", "x.tar.gz", "--timeout", "300ms"])
    before = Path("x.tar.gz").read_bytes()
    assert stat.S_IMODE(Path("x.tar.gz").stat().st_mode) == 0o600
    assert run(["support-dump", "x.tar.gz", "--timeout", "300ms"]) == MISUSED
    assert "nothing is overwritten: give another name" in capfd.readouterr().err
    assert Path("x.tar.gz").read_bytes() == before
    assert run(["support-dump", "no/such/place.tar.gz", "--timeout", "300ms"]) == MISUSED
    assert "give another place" in capfd.readouterr().err


def test_no_secret_is_in_it(capfd: pytest.CaptureFixture[str]) -> None:
    run(["support-dump", "x.tar.gz", "--timeout", "300ms"])
    text = "".join(files_of(Path("x.tar.gz")).values())
    assert "hash_seed: (kept out)" in text
    for secret in (str(SEED), f"{SEED:x}", TOKEN, "a-token-of-the-data-port", "hunter2"):
        assert secret not in text
    assert "PULSERING_TOKEN" in text  # that it is set is told, its value is not


def test_a_secret_is_blotted_out_wherever_it_stands() -> None:
    dump = Dump([TOKEN])
    dump.keep_out(SEED)
    dump.add("a", "", {"said": f"x{TOKEN}y", "seed": f"{SEED:016X}", "line": "hash_seed: bad value 'abc'"})
    (part,) = dump.parts
    assert TOKEN not in part.text
    assert f"{SEED:X}" not in part.text
    assert "abc" not in part.text


def test_a_seed_that_anybody_would_guess_costs_no_figures() -> None:
    dump = Dump([])
    dump.keep_out(1)
    dump.add("a", "", "1 of 11 nodes")
    assert dump.parts[0].text == "1 of 11 nodes\n"


def test_an_archive_is_the_same_bytes_for_the_same_parts() -> None:
    def packed() -> bytes:
        dump = Dump([])
        dump.add("a/b.txt", "what", "text")
        stream = io.BytesIO()
        dump.write(stream, "x", 0)
        return stream.getvalue()[10:]  # the head of gzip has the time

    assert packed() == packed()
