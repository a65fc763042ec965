"""Figures of a run into the documents: everything between two marks is replaced, nothing else is touched.

``python -m pulsering_bench.publish results.json README.md docs/scale.md …`` looks in each file for
``<!-- generated: NAME -->`` … ``<!-- end -->`` and puts there what NAME stands for, made of this run. So a
figure in a document always has its date, machine and command beside it, and is never typed. Invariant: a
document without marks, or with a name that is not known, is an error, and then no file is written.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from pulsering_bench import report, sizing
from pulsering_bench.quotients import shown

__all__ = ["BLOCKS", "main", "published"]

_BLOCK: Final = re.compile(r"(<!-- generated: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

Results = dict[str, Any]


def _compare(results: Results, _path: Path) -> str:
    return report.markdown_of(results)


def _verdicts(results: Results, _path: Path) -> str:
    lines = ["| | ratio | expected | best peer | |", "|---|---:|---:|---|---|"]
    for verdict in results["verdicts"]:
        ratio = shown(verdict["ratio"])
        best = results["peers"].get(verdict["best_peer"], {}).get("title", "-")
        lines.append(
            f"| {verdict['claim']} | {ratio} | {verdict['wanted']:g} | {best} | {verdict['verdict']} |"
        )
    return "\n".join(lines) + "\n"


def _size(batch: int) -> Callable[[Results, Path], str]:
    def made(results: Results, path: Path) -> str:
        demand = sizing.Demand(batch=batch)
        profile = sizing.load_profile(path)
        command = (
            f"pulsering size --users 1e9 --interval 10s --replicas 2 --batch {batch} --profile {path.name}"
        )
        table = sizing.markdown_of(sizing.size_of(demand, profile))
        return f"`{command}`; one core: {profile.source}, commit {results['machine']['commit']}.\n\n{table}"

    return made


BLOCKS: Final[dict[str, Callable[[Results, Path], str]]] = {
    "compare": _compare,
    "verdicts": _verdicts,
    "size-batch-1000": _size(1000),
    "size-batch-8192": _size(8192),
}
"""What a document may ask for."""


def published(text: str, results: Results, path: Path) -> str:
    """The document with its blocks made anew; ValueError if there are none or one is not known."""
    names = [match[1] for match in _BLOCK.findall(text)]
    unknown = set(names) - BLOCKS.keys()
    if unknown or not names:
        known = ", ".join(BLOCKS)
        what = f"asks for {', '.join(sorted(unknown))}" if unknown else "has no '<!-- generated: NAME -->'"
        raise ValueError(f"{what}; there are {known}")
    return _BLOCK.sub(lambda match: match[1] + "\n" + BLOCKS[match[2]](results, path) + "\n" + match[4], text)


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code."""
    if len(arguments) < 2:
        print("usage: python -m pulsering_bench.publish results.json DOCUMENT…", file=sys.stderr)
        return 2
    path, *documents = map(Path, arguments)
    made: dict[Path, str] = {}
    for document in documents:
        try:
            results = json.loads(path.read_text("utf-8"))
            made[document] = published(document.read_text("utf-8"), results, path)
        except (OSError, ValueError) as error:
            print(f"publish: {document}: {error}", file=sys.stderr)
            return 1
    for document, text in made.items():
        document.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
