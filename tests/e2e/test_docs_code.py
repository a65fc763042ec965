"""Every block of code in the documents is what it says: Python and commands run, configuration is valid.

Commands are typed at a small real cluster (``e2e.stage``). Those that need a machine which this is not are
listed in ``ELSEWHERE`` with what they need; of these the shell reads at least the syntax, and our own verbs
and options must exist. docs/start.md is a session, from its first line to its last: test_docs_start.py.
"""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.stage import Stage
from support.documents import REPOSITORY, Block, blocks, commands, programs

from pulsering import PresenceClient, Status
from pulsering.url import parse_url
from pulsering_server.cli import run
from pulsering_server.config import ConfigErrors, parse_config

LANGUAGES = {"python", "console", "yaml", "text", "hex"}
"""``hex`` is compared by test_protocol_doc.py; ``text`` is what something prints, or a file without one."""

HERE = {"pulsering", "curl", "grep", "jq", "openssl", "tar", "head"}
ELSEWHERE = {
    r"make \w+": "what runs these tests has done it, or would run them again",
    r"pulsering (demo|bench)": "minutes of a quiet machine; both have tests of their own",
    "pip": "an index of packages",
    "python3 -m venv /opt": "a machine to install on, as root",
    r"(install|systemctl|journalctl|top|ls)\b": "a machine on which systemd runs nodes",
    "cat /sys/fs/cgroup": "the same",
    r"(vmstat|timedatectl|ss)\b": "tools of the system that not every machine has",
    "etcdctl ": "an etcd",
    "ssh ": "another machine",
    "docker ": "a container engine",
    "kubectl ": "a Kubernetes cluster",
}
"""How a program that is not run here begins, and what it would need."""

CODES = {
    r"pulsering config diff": {1},  # the files differ, as they should
    r"pulsering check": {0, 1},  # while the cluster changes, that is a warning
    r"pulsering (get|status|count)": {0, 1},  # unknown or a lower bound, while it changes
}

pytestmark = pytest.mark.skipif(
    not (REPOSITORY / "docs").is_dir(), reason="only the wheel is here, no documents"
)


def place_of(block: Block) -> str:
    return block.place


def of(language: str) -> list[Block]:
    return [block for block in blocks(language) if block.document.name != "start.md"]


def reason_not_to_run(command: str) -> str | None:
    """What of ``ELSEWHERE`` a command begins, or has in the middle of a pipe or loop."""
    bare = "\n".join(part.strip() for part in re.split(r"\||&&|;|\$\(|\bdo\b", command))
    return next((begin for begin in ELSEWHERE if re.search(f"^(?:{begin})", bare, re.MULTILINE)), None)


def test_every_block_has_a_language_that_something_here_looks_at() -> None:
    assert [block.place for block in blocks() if block.language not in LANGUAGES] == []


# --- Python -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    opened = Stage(tmp_path_factory.mktemp("documents"))
    opened.open()
    try:
        yield opened
    finally:
        opened.close()


def is_program(block: Block) -> bool:
    return "asyncio.run(" in block.text


@pytest.mark.parametrize("block", [block for block in of("python") if not is_program(block)], ids=place_of)
async def test_a_snippet_runs_where_users_1_to_100_are_online(block: Block) -> None:
    """With an open client, as the text around it says or implies."""
    local = re.sub(r"presence://h1:7400[\w:,/]*", "memory://", block.text)
    code = compile(local, block.place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    async with PresenceClient.from_url("memory://", timeout=5) as presence:
        await presence.heartbeat_many(range(1, 101))
        outcome = eval(code, {"presence": presence, "PresenceClient": PresenceClient, "Status": Status})
        if inspect.isawaitable(outcome):
            await outcome


@pytest.mark.parametrize("block", [block for block in of("python") if is_program(block)], ids=place_of)
def test_a_program_runs_against_real_nodes(block: Block, stage: Stage) -> None:
    code = block.text.replace("presence://127.0.0.1:7400", stage.url)
    assert code != block.text
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(r"True \(42, 150\) \((?:'alice',)?\) \((?:'alice',)?\)$", done.stdout), done.stdout


# --- Configuration ------------------------------------------------------------------------------------------

FRAME = {
    "version": "version: 1\n",
    "cluster": "cluster: prod\n",
    "epoch": "epoch: 1\n",
    "replicas": "replicas: 1\n",
    "nodes": "nodes: [{name: a, address: '10.0.0.1:7400'}]\n",
}


@pytest.mark.parametrize("block", of("yaml"), ids=place_of)
def test_configuration_is_valid_where_it_is_a_part_of_a_file(block: Block) -> None:
    there = set(re.findall(r"^(\w+):", block.text, re.MULTILINE))
    parse_config("".join(text for key, text in FRAME.items() if key not in there) + block.text, block.place)


def test_the_error_that_is_shown_is_the_error_that_is_made() -> None:
    (shown,) = (block.text for block in blocks("text") if ": error: " in block.text)
    with pytest.raises(ConfigErrors) as caught:
        parse_config("version: 1\ncluster: prod\nepoch: 1\nttl: 20\n" + FRAME["nodes"], "cluster.yaml")
    assert shown in f"{caught.value}\n"


def test_urls_that_are_shown_are_understood() -> None:
    urls = [line for block in blocks("text") for line in block.text.split() if line.startswith("presence")]
    assert urls
    for url in urls:
        assert parse_url(url).seeds


# --- Commands -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document", sorted({block.document for block in blocks("console")}), ids=lambda path: path.name
)
def test_the_shell_can_read_every_command(document: Path) -> None:
    text = "\n".join(block.text for block in blocks("console") if block.document == document)
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("block", of("console"), ids=place_of)
def test_commands_run(block: Block, stage: Stage) -> None:
    for command in commands(block.text):
        if reason_not_to_run(command) is None:
            assert set(programs(command)) <= HERE, command
            accepted = next((codes for begin, codes in CODES.items() if re.match(begin, command)), {0})
            assert stage.type(command) in accepted, command


def test_what_is_not_run_is_so_for_a_reason_that_is_needed() -> None:
    every = [command for block in of("console") for command in commands(block.text)]
    assert {reason_not_to_run(command) for command in every} == {None, *ELSEWHERE}


def test_our_own_verbs_exist_also_where_they_are_not_run(capfd: pytest.CaptureFixture[str]) -> None:
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    for command in (each for block in blocks("console") for each in commands(block.text)):
        if verb := re.match(r"make ([a-z-]+)", command):
            assert re.search(rf"^{verb[1]}:", makefile, re.MULTILINE), command
        elif reason_not_to_run(command) and (verb := re.match(r"pulsering ((?:bench )?[a-z-]+)", command)):
            assert run([*verb[1].split(), "--help"]) == 0
            shown = capfd.readouterr().out
            assert all(option in shown for option in re.findall(r" (--[a-z-]+)", command)), command
