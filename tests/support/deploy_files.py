"""What is in deploy/ beside rules and dashboard, read: Dockerfile, compose file, unit and manifests."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from support.deployed import DEPLOY

DOCKERFILE = DEPLOY / "container" / "Dockerfile"
UNIT = DEPLOY / "systemd" / "pulsering@.service"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
KUBERNETES = DEPLOY / "kubernetes"
ZONES = sorted(KUBERNETES.glob("zone-*.yaml"))


def documents(path: Path) -> list[dict[str, Any]]:
    """All documents of a YAML file; a key that is there twice is an error."""
    return list(YAML(typ="safe").load_all(path.read_text("utf-8")))


def manifest(kind: str) -> dict[str, Any]:
    """The one manifest of a kind that all zones share."""
    (found,) = [each for each in documents(KUBERNETES / "cluster.yaml") if each["kind"] == kind]
    return found


def stateful_set(path: Path) -> dict[str, Any]:
    """The nodes of one zone."""
    (found,) = documents(path)
    assert found["kind"] == "StatefulSet"
    return found


def unit() -> dict[str, list[str]]:
    """Settings of the unit; one may be there several times."""
    settings: dict[str, list[str]] = {}
    for line in UNIT.read_text("utf-8").splitlines():
        if match := re.fullmatch(r"([A-Za-z]+)=(.*)", line):
            settings.setdefault(match[1], []).append(match[2])
    return settings


def dockerfile() -> list[tuple[str, str]]:
    """Instructions with what they are given."""
    return [
        (match[1], match[2]) for match in re.finditer(r"^([A-Z]+) (.*)$", DOCKERFILE.read_text("utf-8"), re.M)
    ]


def texts() -> Iterator[tuple[Path, str]]:
    """Every file of deploy/."""
    for path in sorted(DEPLOY.rglob("*")):
        if path.is_file():
            yield path, path.read_text("utf-8")
