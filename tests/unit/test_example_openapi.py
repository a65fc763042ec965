"""The example server does what its OpenAPI document says: Schemathesis sends what it allows, and forbids."""

import asyncio
import shutil
import sys
from pathlib import Path

import pytest
from starlette.routing import Route
from support.example import SECRET, example

from examples.api_server.app import make_app
from examples.api_server.auth import token_for
from examples.api_server.openapi import document_of
from examples.api_server.settings import Settings

SCHEMATHESIS = shutil.which("schemathesis", path=str(Path(sys.executable).parent))


def test_every_route_is_in_the_document_and_no_other() -> None:
    routes = [
        route for route in make_app(Settings()).routes if isinstance(route, Route) and route.include_in_schema
    ]
    documented = {
        (path, method.upper()) for path, methods in document_of()["paths"].items() for method in methods
    }
    assert documented == {(route.path, method) for route in routes for method in (route.methods or ())} - {
        (route.path, "HEAD") for route in routes
    }


@pytest.mark.skipif(not SCHEMATHESIS, reason="schemathesis is not installed: pip install -e '.[dev]'")
async def test_it_takes_what_the_document_allows_and_refuses_the_rest(tmp_path: Path) -> None:
    async with example("memory://") as caller:
        process = await asyncio.create_subprocess_exec(
            str(SCHEMATHESIS), "--no-color", "run", f"{caller.url}openapi.json",
            *("--header", f"Authorization: Bearer {token_for('ada', SECRET)}"),
            *("--max-examples", "10", "--seed", "1", "--generation-database", "none"),
            cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert b"No issues found" in output, output.decode()
