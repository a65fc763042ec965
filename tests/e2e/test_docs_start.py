"""docs/start.md, typed line by line: three terminals, two files, a node killed, and what all that prints."""

import os
import sys
from pathlib import Path

import pytest
from e2e.session import START, Session
from e2e.test_cores import free_ports
from support.documents import blocks_of, commands

pytestmark = pytest.mark.skipif(not START.is_file(), reason="only the wheel is here, no documents")


def with_free_ports(command: str, directory: Path) -> None:
    """The file that `config init` writes has ports that somebody else may have here."""
    if command == "pulsering config init":
        path = directory / "first-cluster" / "cluster.yaml"
        path.write_text(path.read_text("utf-8").replace(":7400", f":{free_ports(1)}"), "utf-8")


def test_in_every_terminal_pulsering_is_the_one_of_the_clone() -> None:
    typed: dict[str, list[str]] = {}
    for block in blocks_of(START):
        if block.language == "console":
            typed.setdefault(block.title, []).extend(commands(block.text))
    assert all(". .venv/bin/activate" in lines[:2] for lines in typed.values())


@pytest.mark.timeout(300)  # some thirty programs one after another, on whatever machine that is
def test_a_newcomer_gets_from_the_first_line_to_the_last(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PULSERING_")}
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in {"pulsering": "-m pulsering_server ", "python": ""}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words}"$@"\n', "utf-8")
        (programs / name).chmod(0o755)
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    directory = tmp_path / "clone"
    directory.mkdir()
    with Session(directory, environment, left_out=r"^make |activate$", after=with_free_ports) as session:
        assert session.play(START) > 15
