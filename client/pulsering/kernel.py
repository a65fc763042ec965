"""The one door to the client's native code: compiled where it was built, else its plain-Python twin.

Everything above imports from here, so the client also runs where no compiler was (and on big-endian machines,
which the compiled kernel does not serve). ``PULSERING_PURE_PYTHON=1`` forces the twin. Invariant: both have
the same names, results and exceptions; one test suite runs over both.
"""

import os
import sys
from importlib.util import find_spec

_FORCED = os.environ.get("PULSERING_PURE_PYTHON") == "1"

COMPILED: bool = not _FORCED and sys.byteorder == "little" and find_spec("pulsering._kernel") is not None
"""Whether the compiled kernel is in use. One that was built but does not load raises ``ImportError``."""

if COMPILED:
    from pulsering._kernel import (
        hash_id,
        hash_ids,
        hash_integers,
        is_buffer,
        mark,
        merge_ages,
        merge_seconds,
        merge_states,
        partition,
        rank_owners,
        read_get_reply,
        read_write_reply,
        reorder_owners,
        select,
        tally,
        xxh64,
    )
else:
    from pulsering._kernel_reference import (
        hash_id,
        hash_ids,
        hash_integers,
        is_buffer,
        mark,
        merge_ages,
        merge_seconds,
        merge_states,
        partition,
        rank_owners,
        read_get_reply,
        read_write_reply,
        reorder_owners,
        select,
        tally,
        xxh64,
    )

__all__ = [
    "COMPILED",
    "hash_id",
    "hash_ids",
    "hash_integers",
    "is_buffer",
    "mark",
    "merge_ages",
    "merge_seconds",
    "merge_states",
    "partition",
    "rank_owners",
    "read_get_reply",
    "read_write_reply",
    "reorder_owners",
    "select",
    "tally",
    "xxh64",
]
