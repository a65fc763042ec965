"""What ``import pulsering`` gives, and that it needs nothing but the client's own few dependencies."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pulsering
from pulsering import errors

SERVER_ONLY = [
    "aiohttp", "hdrhistogram", "numpy", "prometheus_client", "psutil", "pydantic", "pydantic_core",
    "pulsering_bench", "pulsering_server", "rich", "ruamel", "structlog", "typer", "uvloop",
]  # fmt: skip

WITHOUT_THE_SERVER = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {SERVER_ONLY!r}:
            raise ModuleNotFoundError(f"no module named {{name!r}} without the server extra", name=name)

sys.meta_path.insert(0, Absent())
import pulsering
for name in pulsering.__all__:
    getattr(pulsering, name)
"""


def test_client_imports_without_the_server_extra() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_THE_SERVER], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_client_imports_quickly_and_starts_nothing() -> None:
    """Importing a library must not start threads or event loops in the caller's process."""
    code = "import pulsering, threading, sys; sys.exit(threading.active_count() - 1)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_exists_and_has_a_docstring() -> None:
    assert len(set(pulsering.__all__)) == len(pulsering.__all__)
    for name in pulsering.__all__:
        assert getattr(getattr(pulsering, name), "__doc__", None), name


def test_public_names_are_sorted_and_all_that_is_handed_on() -> None:
    """A name that is imported into the package but not in ``__all__`` would be public by accident."""
    tree = ast.parse(Path(pulsering.__file__).read_text())
    handed_on = {
        alias.asname or alias.name
        for statement in tree.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert {name for name in handed_on if not name.startswith("_")} == set(pulsering.__all__) - {
        "__version__"
    }


@pytest.mark.parametrize("name", ["PresenceClient", "Status", "UnknownPresence"])
def test_names_that_the_readme_starts_with_are_public(name: str) -> None:
    assert name in pulsering.__all__


def test_every_error_is_public() -> None:
    """Whoever catches an error must be able to name it without reaching into a module of ours."""
    assert set(errors.__all__) <= set(pulsering.__all__)
