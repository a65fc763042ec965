"""What fuzzing once found is not forgotten: each input again, and a small storm; ``make fuzz`` is more."""

from pathlib import Path

import pytest
from fuzz.seeds import SEEDS
from fuzz.storm import storm
from fuzz.targets import TARGETS

from pulsering_server.datapath import DataPath

CORPUS = Path(__file__).parent / "corpus"
INPUTS = [
    pytest.param(target, path.read_bytes(), id=f"{target}-{path.name}")
    for target in TARGETS
    for path in sorted((CORPUS / target).iterdir())
]


@pytest.mark.parametrize(("target", "data"), INPUTS)
def test_an_input_that_was_kept_is_answered_or_refused(target: str, data: bytes) -> None:
    TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_real_frames_and_all_their_beginnings_are_answered_or_refused(target: str) -> None:
    for seed in SEEDS[target]:
        for end in {*range(0, len(seed), 7), len(seed)}:
            TARGETS[target](seed[:end])


@pytest.mark.skipif("reference" in DataPath.__module__, reason="the native readers are not compiled here")
@pytest.mark.parametrize("target", TARGETS)
def test_a_small_storm_breaks_nothing(target: str) -> None:
    assert storm(target, SEEDS[target], 20_000, 7) >= 20_000


def test_the_corpus_is_there_and_small() -> None:
    for target in TARGETS:
        files = list((CORPUS / target).iterdir())
        assert files
        assert sum(path.stat().st_size for path in files) < 256 << 10
