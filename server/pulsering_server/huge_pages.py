"""Whether the system gives the table pages of 2 MiB: without them a random access costs about half again."""

from pathlib import Path
from typing import Final

__all__ = ["why_no_huge_pages"]

SWITCH: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def why_no_huge_pages(switch: Path = SWITCH) -> str | None:
    """The reason in words, with what to do; None where the table gets them. Linux only, else a reason too.

    The table asks for them with ``madvise``, which succeeds even where the switch says never.
    """
    try:
        setting = switch.read_text()
    except OSError:
        return "this system has no transparent huge pages"
    if "[never]" in setting:
        return f"{switch} says never: write madvise to it"
    return None
