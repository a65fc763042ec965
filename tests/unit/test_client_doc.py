"""docs/client.md is true: its tables name every option, error, reason and metric.

That its Python runs is shown by tests/e2e/test_docs_code.py.
"""

import dataclasses
import re
from pathlib import Path

import pytest

from pulsering import ClientOptions, PresenceClient, PresenceError, Reason, errors

DOCUMENT = Path(__file__).parents[2] / "docs" / "client.md"

pytestmark = pytest.mark.skipif(not DOCUMENT.is_file(), reason="only the wheel is here, no documents")


def text() -> str:
    return DOCUMENT.read_text("utf-8") if DOCUMENT.is_file() else ""


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
