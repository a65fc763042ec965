"""docs/client.md is true: its Python runs, and its tables name every option, error, reason and metric."""

import ast
import dataclasses
import inspect
import re
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from pulsering import ClientOptions, PresenceClient, PresenceError, Reason, Status, errors

DOCUMENT = Path(__file__).parents[2] / "docs" / "client.md"

pytestmark = pytest.mark.skipif(not DOCUMENT.is_file(), reason="only the wheel is here, no documents")


def text() -> str:
    return DOCUMENT.read_text("utf-8") if DOCUMENT.is_file() else ""


def blocks() -> list[Any]:
    found = re.finditer(r"```python\n(.*?)```", text(), re.DOTALL)
    return [
        pytest.param(match[1], id=f"line {text()[: match.start()].count(chr(10)) + 2}") for match in found
    ]


def compiled(block: str) -> CodeType:
    local = re.sub(r"presence://h1:7400[\w:,/]*", "memory://", block)
    code: CodeType = compile(local, str(DOCUMENT), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return code


@pytest.mark.parametrize("block", blocks())
async def test_every_block_runs(block: str) -> None:
    """With an open client where users 1 to 100 are online, as the text around it says or implies."""
    async with PresenceClient.from_url("memory://", timeout=5) as presence:
        await presence.heartbeat_many(range(1, 101))
        names = {"presence": presence, "PresenceClient": PresenceClient, "Status": Status}
        outcome = eval(compiled(block), names)
        if inspect.isawaitable(outcome):
            await outcome


def rows() -> set[str]:
    return set(re.findall(r"^\| `([^`]+)`", text(), re.MULTILINE))


def test_every_option_is_there_with_its_default() -> None:
    for field in dataclasses.fields(ClientOptions):
        default = repr(field.default).replace("'", '"')
        assert f"| `{field.name}` | {default} |" in text(), field.name


def test_every_error_says_what_to_do() -> None:
    assert {name for name in errors.__all__ if getattr(errors, name) is not PresenceError} <= rows()


def test_every_reason_is_explained() -> None:
    assert {reason.name for reason in Reason if reason is not Reason.NONE} <= rows()


def test_every_metric_is_there_and_no_other() -> None:
    source = (DOCUMENT.parents[1] / "client" / "pulsering" / "_telemetry.py").read_text("utf-8")
    made = set(re.findall(r'create_\w+\(\s*"([\w.]+)"', source))
    assert made
    assert {row for row in rows() if "client." in row} == made


def test_every_public_method_is_mentioned() -> None:
    for name in dir(PresenceClient):
        if not name.startswith("_") and name not in ("open", "topology"):
            assert name in text(), name
