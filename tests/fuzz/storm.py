"""Millions of damaged frames for the native readers: no coverage to steer by, so structure and speed.

A fuzzer that is steered by coverage sees Python's lines, not those of compiled code, and hands over some
thousand inputs a second. The native readers are small and take hundreds of thousands. So real frames are
damaged where it matters, by rows of a matrix: bytes become the ones that mean something in msgpack, lengths
are one off, ends are missing; and one of a thousand goes to the slow target as well, which compares with
Python. An input is one call of a reader.
"""

import random
from collections.abc import Iterator
from typing import Final

import numpy as np
from fuzz.targets import TARGETS

from pulsering import kernel, messages
from pulsering.wire import HEADER_BYTES, Op
from pulsering_server.datapath import DataPath, FrameAge
from pulsering_server.table import Table

__all__ = ["storm"]

ROWS: Final = 4096
SAMPLE: Final = 1009
"""One of so many goes to the slow target too; a prime, so that all kinds of damage get there."""

_TELLING: Final = np.array(
    [
        *(0, 1, 2, 3, 7, 8, 0x7F, 0x80, 0x81, 0x90, 0x93, 0x95, 0x9F, 0xA0, 0xC0, 0xC1),
        *(*range(0xC4, 0xCA), *range(0xCC, 0xD0), *range(0xD4, 0xD9), 0xDC, 0xDD, 0xDE, 0xFF),
    ],
    dtype=np.uint8,
)


def _rows(frame: bytes, rng: np.random.Generator) -> Iterator[bytes]:
    """Yield ``ROWS`` damaged versions of a frame."""
    size = len(frame)
    matrix = np.tile(np.frombuffer(frame, dtype=np.uint8), (ROWS, 1))
    every = np.arange(ROWS)
    for hit in range(3):
        # All rows get one, half of them two, a quarter three; mostly where a body begins.
        rows = every[: ROWS >> hit]
        front = rng.integers(0, min(size, HEADER_BYTES + 24), len(rows))
        at = np.where(rng.random(len(rows)) < 0.8, front, rng.integers(0, size, len(rows)))
        wild = rng.integers(0, 256, len(rows), dtype=np.uint8)
        near = matrix[rows, at] + rng.integers(-1, 2, len(rows), dtype=np.int8).astype(np.uint8)
        kind = rng.random(len(rows))
        matrix[rows, at] = np.where(
            kind < 0.6, rng.choice(_TELLING, len(rows)), np.where(kind < 0.8, wild, near)
        )
    # A third keeps its header, or hardly a body would be looked at; another gets the length that is left.
    matrix[every % 3 == 0, :HEADER_BYTES] = np.frombuffer(frame[:HEADER_BYTES], dtype=np.uint8)
    ends = np.where(every % 4 == 1, rng.integers(0, size + 1, ROWS), size).tolist()
    blob = matrix.tobytes()
    for row, end in enumerate(ends):
        start = row * size
        part = blob[start : start + end]
        if row % 3 == 1 and end >= HEADER_BYTES:
            length = (end - HEADER_BYTES).to_bytes(4, "little")
            part = b"".join((part[:8], length, part[12:]))
        yield part


def _requests(seeds: list[bytes], inputs: int, seed: int) -> int:
    """Hand frames to the node's data path; how many."""
    rng, done = np.random.default_rng(seed), 0
    frames = [part[1:] for part in seeds if len(part) > HEADER_BYTES]
    chooser = random.Random(seed)
    table = Table(ttl_ms=20_000, users_max=1000, memory_max=1 << 20)
    path = DataPath(table, 64, 8192, messages.encode_error(18, "busy", 250))
    now_ms, busy_bytes = 1_000_000, 0
    while done < inputs:
        age = FrameAge(1000, now_ms)
        path.refuse_older(*((50, 125) if chooser.random() < 0.2 else (None, None)))
        may_write = chooser.random() < 0.8
        for part in _rows(chooser.choice(frames), rng):
            end, answered, work, said = path.run(
                memoryview(part), 0, age, now_ms, 1, 0, 4096, 65536, may_write
            )
            assert end <= len(part)
            assert (answered > 0) == (len(said) > 0) == (end > 0) == (work > 0)
            busy_bytes += len(said)
            done += 1
            if not done % SAMPLE:
                TARGETS["request"](bytes([done & 0xFF]) + part)
        now_ms += 250
    assert busy_bytes, "nothing was answered: the storm misses its aim"
    return done


def _replies(seeds: list[bytes], inputs: int, seed: int) -> int:
    """Hand bodies to the client's native readers; how many."""
    rng, done, taken = np.random.default_rng(seed), 0, 0
    frames = [part[1:] for part in seeds if len(part) > HEADER_BYTES and part[3] in (Op.HEARTBEAT, Op.GET)]
    chooser = random.Random(seed)
    read_get, read_write = kernel.read_get_reply, kernel.read_write_reply
    while done < inputs:
        frame = chooser.choice(frames)
        is_get, count, want_ages = frame[2] == Op.GET, chooser.randint(3, 6), chooser.random() < 0.5
        for part in _rows(frame, rng):
            body = part[HEADER_BYTES:]
            found = read_get(body, count, want_ages) if is_get else read_write(body, count)
            taken += found is not None
            done += 1
            if not done % SAMPLE:
                TARGETS["reply"](bytes([count | want_ages << 3]) + part)
    assert taken, "nothing was taken: the storm misses its aim"
    return done


def storm(target: str, seeds: list[bytes], inputs: int, seed: int) -> int:
    """Run at least so many inputs of a target; how many. The same seed damages the same way."""
    return (_requests if target == "request" else _replies)(seeds, inputs, seed)
