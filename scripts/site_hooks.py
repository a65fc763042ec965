"""What the site needs beside the pages: for mkdocs, which calls these by their names.

Pages are written to be read where they lie, so they link to files of the repository (``../deploy/…``) and
name their blocks (``hex hello``). A site has neither: such files are put into it, beside the pages, and such
names left out.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

REPOSITORY = Path(__file__).parents[1]
OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)")
TYPED = re.compile(r"^```console\b", re.MULTILINE)
NAMED = re.compile(r"^(```\w+) (?!title=).+$", re.MULTILINE)


def on_files(files: Any, config: Any) -> Any:
    """Add each file of the repository that a page links to."""
    linked = {path for page in files.documentation_pages() for path in OUTSIDE.findall(page.content_string)}
    for path in sorted(linked):
        files.append(File.generated(config, path, abs_src_path=str(REPOSITORY / path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links lead to those files, and fences say what the theme has colours for."""
    return TYPED.sub("```sh", NAMED.sub(r"\1", OUTSIDE.sub(r"](\1", markdown)))
