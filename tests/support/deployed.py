"""What rules and dashboard in deploy/ ask for."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

DEPLOY = Path(__file__).parents[2] / "deploy"


def rules() -> list[dict[str, Any]]:
    """The alerts."""
    document = YAML(typ="safe").load((DEPLOY / "prometheus" / "pulsering.rules.yaml").read_text("utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def dashboard_expressions() -> list[str]:
    """Every query of the dashboard, annotations included."""
    return list(_expressions(json.loads((DEPLOY / "grafana" / "pulsering.json").read_text("utf-8"))))


def _expressions(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("expr"), str):
            yield value["expr"]
        for inner in value.values():
            yield from _expressions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _expressions(inner)


def metrics_in(text: str) -> set[str]:
    """Names of metrics that a text mentions: ours, and those of the process."""
    found: set[str] = set(re.findall(r"\b(?:pulsering|process)_[a-z][a-z0-9_]*[a-z0-9]\b", text))
    return found


def metrics_asked_for() -> set[str]:
    """By rules and dashboard."""
    return metrics_in("\n".join([*(rule["expr"] for rule in rules()), *dashboard_expressions()]))
