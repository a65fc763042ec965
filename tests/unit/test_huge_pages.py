"""A node says in its log where the system gives its table no huge pages."""

from pathlib import Path

import pytest

from pulsering_server.huge_pages import why_no_huge_pages


@pytest.mark.parametrize("setting", ["always [madvise] never", "[always] madvise never"])
def test_where_the_table_gets_them_nothing_is_said(tmp_path: Path, setting: str) -> None:
    switch = tmp_path / "enabled"
    switch.write_text(setting)
    assert why_no_huge_pages(switch) is None


def test_a_switch_at_never_is_named_with_what_to_do(tmp_path: Path) -> None:
    switch = tmp_path / "enabled"
    switch.write_text("always madvise [never]\n")
    reason = why_no_huge_pages(switch)
    assert reason is not None
    assert str(switch) in reason
    assert "madvise" in reason


def test_a_system_without_them_is_a_reason_too(tmp_path: Path) -> None:
    assert why_no_huge_pages(tmp_path / "enabled") is not None
