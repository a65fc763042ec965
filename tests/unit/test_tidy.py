"""The repository checks itself: what the house rules say and a machine can see."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ROOTS = {
    "pulsering": REPOSITORY / "client",
    "pulsering_server": REPOSITORY / "server",
    "pulsering_bench": REPOSITORY / "bench",
}
LINES_MAX = {".py": 500, ".pyx": 1300}
"""Native code spells out what Python implies, and a compiled class cannot be spread over files."""
POLL_HELPERS = {"tests/e2e/poll.py"}
"""The one place where a test may wait for a real process, always until something is true and with a limit."""

pytestmark = pytest.mark.skipif(not ROOTS["pulsering"].is_dir(), reason="only the wheel is here, no sources")


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


SOURCES = sorted(path for root in ROOTS.values() for path in root.rglob("*.py"))
NATIVE = sorted(path for root in ROOTS.values() for path in root.rglob("*.pyx"))
TESTS = sorted((REPOSITORY / "tests").rglob("*.py"))
EXAMPLES = sorted((REPOSITORY / "examples").rglob("*.py"))


@pytest.mark.parametrize("path", [*SOURCES, *TESTS, *EXAMPLES], ids=name_of)
def test_module_opens_with_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or not tree.body


@pytest.mark.parametrize("path", NATIVE, ids=name_of)
def test_native_module_opens_with_a_docstring(path: Path) -> None:
    assert re.match(r'(\s*#.*\n)*\s*r?"""\S', path.read_text())


@pytest.mark.parametrize("path", [*SOURCES, *TESTS, *EXAMPLES, *NATIVE], ids=name_of)
def test_module_is_about_one_noun(path: Path) -> None:
    assert len(path.read_text().splitlines()) < LINES_MAX[path.suffix]


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name == "__init__.py"], ids=name_of)
def test_init_only_hands_names_on(path: Path) -> None:
    for statement in ast.parse(path.read_text()).body:
        is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        is_dunder = isinstance(statement, ast.Assign) and all(
            isinstance(target, ast.Name) and re.fullmatch(r"__\w+__", target.id)
            for target in statement.targets
        )
        is_import = isinstance(statement, ast.Import | ast.ImportFrom)
        assert is_docstring or is_dunder or is_import, ast.unparse(statement)


def test_each_import_root_holds_its_one_package() -> None:
    """A stray package in another root would shadow the real one, or half of it."""
    for package, root in ROOTS.items():
        found = {path.name for path in root.iterdir() if path.is_dir() and path.name != "__pycache__"}
        assert found == {package}
        assert not list(root.glob("*.py"))
        assert (root / package / "py.typed").is_file()


def test_the_wheel_holds_what_is_imported_and_no_example() -> None:
    build = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]
    packages = {f"{root.name}/{package}" for package, root in ROOTS.items()}
    assert set(build["targets"]["wheel"]["packages"]) == packages


@pytest.mark.parametrize("path", NATIVE, ids=name_of)
def test_native_module_has_a_stub_and_a_twin(path: Path) -> None:
    assert path.with_suffix(".pyi").is_file()
    assert path.with_name(f"{path.stem}_reference.py").is_file()


def is_sleep(call: ast.Call) -> bool:
    """Return whether a call waits for a fixed time; ``sleep(0)`` only lets others run."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name != "sleep" or not call.args:
        return False
    length = call.args[0]
    return isinstance(length, ast.Constant) and isinstance(length.value, int | float) and length.value > 0


@pytest.mark.parametrize("path", [path for path in TESTS if name_of(path) not in POLL_HELPERS], ids=name_of)
def test_tests_do_not_sleep(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not [f"line {call.lineno}" for call in calls if is_sleep(call)]


WALL_CLOCK = {"server/pulsering_server/clock.py"}
"""Where it is read, to see it leap; ``clock_watch`` is told, and nobody else."""


def test_server_reads_no_wall_clock() -> None:
    """Design: one monotonic clock. A wall clock steps, and a step would make ghosts."""
    wall = re.compile(r"\btime\.time(_ns)?\(|\bdatetime\.(now|utcnow|today)\(|CLOCK_REALTIME")
    nodes = [path for path in SOURCES if ROOTS["pulsering_bench"] not in path.parents]
    assert {name_of(path) for path in nodes if wall.search(path.read_text())} == WALL_CLOCK
    told = {name_of(path) for path in nodes if "clock.wall_ms" in path.read_text()}
    assert told == {"server/pulsering_server/serve.py"}


@pytest.mark.parametrize("name", ["CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "cluster.yaml"])
def test_newcomers_find_what_they_look_for(name: str) -> None:
    assert (REPOSITORY / name).stat().st_size > 0


def test_version_is_said_once() -> None:
    """The package asks its own metadata; a number in the source would fall behind."""
    for path in SOURCES:
        assert not re.search(r"^__version__\s*=\s*[\"']\d", path.read_text(), re.MULTILINE), name_of(path)


FOUNDATION = {1, 2, 3, 4, 7, 9, 10, 11, *range(12, 38), 39, 46, 49, 57, 59, 60}
"""Numbers of the fault scenarios that some test must name; 12 to 37 are of reporters, time and nodes."""


def test_every_promised_scenario_is_named_by_a_test() -> None:
    named = {
        int(number)
        for path in Path(__file__).parents[1].rglob("*.py")
        for words in re.findall(r"[Ss]cenarios?[ _](\d[\d, and]*)", path.read_text(encoding="utf-8"))
        for number in re.findall(r"\d+", words)
    }
    assert named >= FOUNDATION, FOUNDATION - named
