"""``python -m fuzz``: what strangers' bytes meet, fed with bytes that nobody would send.

Run it in ``tests/``, or by ``make fuzz``::

    python -m fuzz                              # both targets: guided for a minute each, and 10^7 inputs
    python -m fuzz --seconds 600 --inputs 1e8   # longer
    python -m fuzz --only reply --keep          # one target; what it found is added to corpus/
    python -m fuzz --only reply --replay FILE   # one input again

*Guided* is atheris: libFuzzer, steered by which lines of Python an input reaches, starting from ``corpus/``
and the seeds. A *storm* (``storm``) is for the native readers, which it cannot see into. Each runs in a
process of its own, whose memory must not grow. The last line is JSON. Exit code 1 for a crash, a difference,
or growth; an input that broke something is then in ``build/fuzz/``.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Any, Final

CORPUS: Final = Path(__file__).parent / "corpus"
FOUND: Final = Path(__file__).parents[2] / "build" / "fuzz"
GROWTH_BYTES: Final = 32 << 20
"""What a process may grow by once it is warm: fragments of what came and went, not something per input."""

INPUT_BYTES_MAX: Final = 1024


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _guided(target: str, seconds: int, corpus: str) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["pulsering", "pulsering_server"]):
        from fuzz.seeds import SEEDS
        from fuzz.targets import TARGETS
    run = TARGETS[target]
    for number, seed in enumerate(SEEDS[target]):
        (Path(corpus) / f"seed-{number:03}").write_bytes(seed)
    ran, warm = 0, 0

    def one(data: bytes) -> None:
        nonlocal ran, warm
        run(data)
        ran += 1
        if ran == 20_000:
            warm = _resident_bytes()
        elif ran % 20_000 == 0 and _resident_bytes() - warm > GROWTH_BYTES + (ran >> 4):
            # libFuzzer keeps what it finds, some bytes an input.
            raise MemoryError(f"grew from {warm} to {_resident_bytes()} bytes in {ran} inputs")

    FOUND.mkdir(parents=True, exist_ok=True)
    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={seconds}",
            f"-max_len={INPUT_BYTES_MAX}",
            f"-artifact_prefix={FOUND}/{target}-",
            "-print_final_stats=1",
            "-timeout=10",
            "-rss_limit_mb=2048",
            corpus,
        ],
        one,
    )
    atheris.Fuzz()


def _storm(target: str, inputs: int, seed: int) -> dict[str, Any]:
    from fuzz.seeds import SEEDS
    from fuzz.storm import storm

    seeds = [*SEEDS[target], *(path.read_bytes() for path in sorted((CORPUS / target).iterdir()))]
    storm(target, seeds, min(inputs, 100_000), seed)
    warm, began = _resident_bytes(), time.monotonic()
    ran = storm(target, seeds, inputs, seed + 1)
    grown = _resident_bytes() - warm
    if grown > GROWTH_BYTES:
        raise SystemExit(f"{target}: grew by {grown} bytes in {ran} inputs")
    return {"inputs": ran, "seconds": round(time.monotonic() - began, 1), "grown_bytes": grown}


def _run(*arguments: str) -> str:
    """Run this module as another process; what it said, or the end of us."""
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        print(done.stdout[-6000:], file=sys.stderr)
        raise SystemExit(1)
    return done.stdout


def _guide(target: str, seconds: int, *, keep: bool) -> dict[str, Any]:
    """Run atheris from the corpus on; with ``keep``, put the least that covers as much into the corpus."""
    with tempfile.TemporaryDirectory() as corpus:
        for path in (CORPUS / target).iterdir():
            (Path(corpus) / path.name).write_bytes(path.read_bytes())
        said = _run("--guided", target, "--seconds", str(seconds), "--at", corpus)
        if keep:
            _run("--merge", target, "--at", corpus)
    facts = {name: int(value) for name, value in re.findall(r"stat::(\w+):\s+(\d+)", said)}
    covered = re.findall(r"cov: (\d+)", said)
    return {
        "inputs": facts["number_of_executed_units"],
        "seconds": seconds,
        "lines_covered": int(covered[-1]) if covered else 0,
        "peak_mb": facts["peak_rss_mb"],
    }


def _merge(target: str, found: str) -> None:
    """Keep, of the corpus and of what was found, whatever takes a step between two lines that no smaller one
    takes.
    """
    from fuzz.seeds import SEEDS
    from fuzz.targets import TARGETS

    steps: set[tuple[object, int, int]] = set()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if "pulsering" not in frame.f_code.co_filename:
            return None
        last = frame.f_lineno

        def line(frame: FrameType, event: str, _: object) -> Any:
            nonlocal last
            steps.add((frame.f_code, last, frame.f_lineno))
            last = frame.f_lineno
            return line

        return line

    kept = CORPUS / target
    inputs = {path.read_bytes() for path in (*kept.iterdir(), *Path(found).iterdir())}
    for path in kept.iterdir():
        path.unlink()
    for data in [*SEEDS[target], *sorted(inputs - {*SEEDS[target]}, key=lambda data: (len(data), data))]:
        before = len(steps)
        sys.settrace(trace)
        try:
            TARGETS[target](data)
        finally:
            sys.settrace(None)
        if len(steps) > before and data not in SEEDS[target]:
            (kept / sha256(data).hexdigest()[:16]).write_bytes(data)


def main(arguments: list[str]) -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__, add_help=True)
    parser.add_argument("--seconds", type=int, default=60, help="of guided fuzzing, each target")
    parser.add_argument("--inputs", type=float, default=1e7, help="in storms, both targets together")
    parser.add_argument("--seed", type=int, default=1, help="of the storms")
    parser.add_argument("--only", choices=("request", "reply"))
    parser.add_argument("--keep", action="store_true", help="add to the corpus what was found")
    parser.add_argument("--replay", type=Path, help="an input, by --only")
    for inner in ("--guided", "--merge", "--storm", "--at"):
        parser.add_argument(inner, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.guided:
        _guided(chosen.guided, chosen.seconds, chosen.at)
    if chosen.merge:
        _merge(chosen.merge, chosen.at)
        return 0
    if chosen.storm:
        print(json.dumps(_storm(chosen.storm, int(chosen.inputs), chosen.seed)))
        return 0
    targets = [chosen.only] if chosen.only else ["request", "reply"]
    if chosen.replay:
        from fuzz.targets import TARGETS

        for target in targets:
            TARGETS[target](chosen.replay.read_bytes())
        return 0
    told: dict[str, Any] = {}
    for target in targets:
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        told[f"{target} guided"] = _guide(target, chosen.seconds, keep=chosen.keep)
        print(f"{target}: guided {told[f'{target} guided']}", flush=True)
        share = str(chosen.inputs / len(targets))
        said = _run("--storm", target, "--inputs", share, "--seed", str(chosen.seed))
        told[f"{target} storm"] = json.loads(said.splitlines()[-1])
        print(f"{target}: storm {told[f'{target} storm']}", flush=True)
    told["inputs"] = sum(each["inputs"] for each in list(told.values()))
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    sys.exit(main(sys.argv[1:]))
