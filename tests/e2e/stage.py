"""Where the documents' commands are typed: a small real cluster, and the files that they speak of.

``cluster.yaml`` is what runs: a, b, c and d, of which ``new.yaml`` takes out d. Addresses, paths and tokens
as a document has them are replaced by those that are there, and nothing else of a command is changed. What
goes on until Ctrl-C is let go on until it has said something.
"""

import asyncio
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import trustme
from e2e.test_cores import free_ports
from support.raw_peer import PATIENCE_S

from pulsering_server.cli import run
from pulsering_server.local_cluster import LocalCluster

TOKEN: Final = "0123456789abcdef"
TTL_S: Final = 2
NODES: Final = "abcd"
CORES: Final = 4

_ENDLESS: Final = re.compile(r"pulsering ((?:top|watch)(?!.* -n)|serve|dev)\b|--watch")
_SHELL: Final = re.compile(r"[|&;<>$]|^\w+=|^(?!pulsering )")
_SCP: Final = '#!/bin/sh\nexec cp "$1" "${2#*:}"\n'


class Stage:
    """``open`` it, ``type`` commands, ``close`` it. What was typed once is not typed again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        port = free_ports(2 * len(NODES))
        self._addresses = {name: f"127.0.0.{place}:{port}" for place, name in enumerate(NODES, 1)}
        self._admins = {name: f"127.0.0.1:{port + place}" for place, name in enumerate(NODES, 1)}
        self._runner = asyncio.Runner()
        self._codes: dict[str, int] = {}
        (directory / "etc").mkdir()
        (directory / "textfile").mkdir()
        for file in ("etc/cluster.yaml", "cluster.yaml", "old.yaml"):
            (directory / file).write_text(self._text(NODES, epoch=1), "utf-8")
        (directory / "new.yaml").write_text(self._text(NODES[:-1], epoch=2), "utf-8")
        for file in ("admin.token", "etc/admin.token"):
            (directory / file).write_text(TOKEN, "utf-8")
        trustme.CA().issue_cert("node-a.example").private_key_and_cert_chain_pem.write_to_path(
            directory / "node.pem"
        )
        self._programs = directory / "bin"
        self._programs.mkdir()
        self._program("scp", _SCP)
        self._program("pulsering", f'#!/bin/sh\nexec {sys.executable} -m pulsering_server "$@"\n')
        here = {key: value for key, value in os.environ.items() if not key.startswith("PULSERING_")}
        path = os.pathsep.join((str(self._programs), str(Path(sys.executable).parent), here["PATH"]))
        self._environment = {**here, "PATH": path, "COLUMNS": "110"}
        """In which nothing says which cluster."""
        self._cluster = LocalCluster(config_path=directory / "etc" / "cluster.yaml")
        (directory / "alone").mkdir()
        (directory / "empty").mkdir()

    @property
    def url(self) -> str:
        """Where a client finds the cluster."""
        return self._cluster.url

    def open(self) -> None:
        """Start the nodes."""
        self._runner.run(self._cluster.start())

    def close(self) -> None:
        """End them."""
        try:
            self._runner.run(self._cluster.stop())
        finally:
            self._runner.close()

    def type(self, command: str) -> int:
        """Run a command of a document; its exit code."""
        if command not in self._codes:
            self._runner.run(self._revive())
            if "pulsering drain" in command:
                self.type("pulsering apply new.yaml --push 'cp {file} etc/cluster.yaml'")
            self._codes[command] = self._run(self._translated(command))
        return self._codes[command]

    def _run(self, words: str) -> int:
        directory = self._directory_for(words)
        if _ENDLESS.search(words):
            return self._interrupted(words, directory)
        if _SHELL.search(words):
            done = subprocess.run(
                ["bash", "-c", words],
                cwd=directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                timeout=3 * PATIENCE_S,
                check=False,
            )
            return done.returncode
        before = os.environ.copy()
        os.environ.clear()
        os.environ.update(self._environment)
        try:
            with contextlib.chdir(directory):
                return run(shlex.split(words, comments=True)[1:])
        finally:
            os.environ.clear()
            os.environ.update(before)

    def _text(self, names: str, epoch: int) -> str:
        nodes = "".join(
            f"  - {{name: {name}, address: '{self._addresses[name]}', admin: '{self._admins[name]}'}}\n"
            for name in names
        )
        return (
            f"version: 1\ncluster: prod\nepoch: {epoch}\nttl: {TTL_S}s\nreplicas: 2\n"
            f"limits: {{memory: 64MiB}}\nadmin: {{token_file: admin.token}}\nnodes:\n{nodes}"
        )

    def _program(self, name: str, text: str) -> None:
        path = self._programs / name
        path.write_text(text, "utf-8")
        path.chmod(0o755)

    def _translated(self, command: str) -> str:
        """The command, with what is here in the place of what a document has to assume."""
        for place, name in enumerate(NODES, 1):
            command = command.replace(f"10.0.0.{place}:7400", self._addresses[name])
            command = re.sub(rf"\b{name}=127.0.0.1:840\d", f"{name}={self._admins[name]}", command)
        asked = self._admins[NODES[-1] if "/-/drain" in command else NODES[0]]
        here = {
            "127.0.0.1:8400": asked,
            "ADMIN/": f"{asked}/",
            "Bearer TOKEN": f"Bearer {TOKEN}",
            "/run/secrets/pulsering-admin": str(self.directory / "admin.token"),
            "/etc/pulsering/": f"{self.directory / 'etc'}/",
            "/var/lib/node_exporter/textfile/": f"{self.directory / 'textfile'}/",
            "--for 60s": "--for 100ms",
            "pulsering apply new.yaml": "pulsering apply new.yaml --yes",
            ">> online.jsonl": "",
            "watch 42 -o json |": "watch 42 -n 1 -o json |",
        }
        for there, replaced in here.items():
            command = command.replace(there, replaced)
        if command.startswith("pulsering latency") and "--for" not in command:
            command += " --for 100ms"
        return command

    def _directory_for(self, command: str) -> Path:
        """Where nothing is in the way of a new file, or of nodes at the addresses of the file."""
        if command == "pulsering config init":
            return self.directory / "empty"
        if "pulsering serve" not in command:
            return self.directory
        alone = self.directory / "alone"
        cores = CORES if "a-" in command else 1
        first = free_ports(cores)
        (alone / "cluster.yaml").write_text(
            f"version: 1\ncluster: alone\nepoch: 1\nreplicas: 1\nlimits: {{connections: 100}}\nnodes:\n"
            f"  - {{name: a, address: '127.0.0.1:{first}', cores: {cores}}}\n"
            f"  - {{name: b, address: '127.0.0.2:{first}'}}\n",
            "utf-8",
        )
        return alone

    def _interrupted(self, words: str, directory: Path) -> int:
        """Let it say a line, then end it as a person, or a supervisor, would."""
        arguments = shlex.split(words, comments=True)[1:]
        with subprocess.Popen(
            [sys.executable, "-m", "pulsering_server", *arguments],
            cwd=directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            said = process.stdout.readline()
            process.send_signal(signal.SIGTERM if arguments[0] == "serve" else signal.SIGINT)
            process.stdout.read()
        assert said.strip()
        return process.returncode

    async def _revive(self) -> None:
        """Start again what a command before has ended."""
        for node in self._cluster.nodes.values():
            if not node.running:
                await node.start()
