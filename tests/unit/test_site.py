"""The documents hold together: each is in the site, each link leads somewhere, colours are the console's.

`make docs` builds the site and is as strict, but takes what builds it; this takes a second and nothing.
"""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from support.documents import DOCUMENTS, REPOSITORY

from pulsering import errors
from pulsering_server import errors_doc, limits_doc
from pulsering_server.cli.reference import verbs as verbs_of_ours
from pulsering_server.metrics import FAMILIES

DOCS = REPOSITORY / "docs"
LINK = re.compile(r"(?<!`)\[[^\]`]*(?:`[^`]*`[^\]`]*)*\]\(([^)\s]+)\)")
CHECK_METRICS = {"pulsering_check_grade", "pulsering_check_part_grade", "pulsering_check_value"}
"""Of `pulsering check`, not of nodes."""

pytestmark = pytest.mark.skipif(
    not (REPOSITORY / "mkdocs.yml").is_file(), reason="only the wheel is here, no sources"
)


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def prose(document: Path) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> list[str]:
    """What its headings are called in links, as both the site and a forge have it."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]+)\]\([^)]*\)|[`*]", r"\1", heading) for heading in headings)
    return [re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in plain]


def entries(nav: Any) -> list[str]:
    """The pages in a part of the navigation."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in entries(part)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_link_leads_somewhere(document: Path) -> None:
    for link in LINK.findall(prose(document)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.is_file(), link
        assert target.is_relative_to(REPOSITORY), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_document_has_one_title_and_no_anchor_twice(document: Path) -> None:
    assert len(re.findall(r"^# ", prose(document), re.MULTILINE)) == 1
    assert len(anchors(document)) == len(set(anchors(document)))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_metrics_and_verbs_that_are_named_in_a_sentence_exist(document: Path) -> None:
    metrics = {family.full_name for family in FAMILIES}
    known = {name.removesuffix(end) for name in metrics for end in ("", "_total")} | CHECK_METRICS
    named = re.findall(r"`(pulsering_[a-z_]+?)(?:_bucket|_count|_sum)?(?:\{[^`]*)?`", prose(document))
    assert set(named) <= known
    verbs = {verb.name for verb in verbs_of_ours()} | {"pulsering demo", "pulsering size", "pulsering bench"}
    assert set(re.findall(r"`(pulsering (?:config )?[a-z][a-z-]*)", prose(document))) <= verbs


def test_every_page_is_in_the_site_once() -> None:
    nav = YAML(typ="safe").load((REPOSITORY / "mkdocs.yml").read_text("utf-8"))["nav"]
    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(entries(nav)) == sorted(pages)


def test_colours_and_icon_are_those_of_the_console() -> None:
    console = REPOSITORY / "server" / "pulsering_server" / "console"
    theirs = set(re.findall(r"#[0-9a-f]{3,6}\b", (console / "console.css").read_text("utf-8")))
    ours = re.findall(r"#[0-9a-f]{3,8}\b", (DOCS / "stylesheets" / "pulsering.css").read_text("utf-8"))
    assert {colour[:7] for colour in ours} <= theirs
    assert (DOCS / "images" / "pulsering.svg").read_bytes() == (console / "icon.svg").read_bytes()


# --- Pages that are made from the code ----------------------------------------------------------------------


def test_page_of_limits_is_what_the_code_says() -> None:
    """Otherwise: python -m pulsering_server.limits_doc > docs/limits.md."""
    assert (DOCS / "limits.md").read_text("utf-8") == limits_doc.reference()


def test_every_limit_has_a_reason() -> None:
    for limit in limits_doc.all_limits():
        assert re.fullmatch(r"[A-Z0-9].+\.", limit.why), limit.name


def test_page_of_limits_says_where_another_value_is_given() -> None:
    text = limits_doc.reference()
    for words in (
        "10,000 | `limits.connections`",
        "`TTL_MS` | 20s | `ttl`",
        "250ms | `timeout=`",
    ):
        assert words in text


def test_page_of_errors_is_what_the_code_says() -> None:
    """Otherwise: python -m pulsering_server.errors_doc > docs/errors.md."""
    assert (DOCS / "errors.md").read_text("utf-8") == errors_doc.reference()


def test_every_error_stands_in_the_tree_below_what_it_is() -> None:
    told = [each.kind for each in errors_doc.all_errors()]
    assert {kind.__name__ for kind in told} == set(errors.__all__) - {"PresenceError"}
    for each in errors_doc.all_errors():
        builtins = {kind.__name__ for kind in each.kind.__mro__ if kind.__module__ == "builtins"}
        (line,) = (line for line in errors_doc.reference().splitlines() if f"─ {each.kind.__name__} " in line)
        assert set(re.findall(r"\((\w+)\) ", line)) <= builtins
        assert each.fault
