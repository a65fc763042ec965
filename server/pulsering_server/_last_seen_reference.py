"""The store of those who went offline, as a specification: a dict of the second each was last seen.

``_last_seen`` must answer the same. A time is told the coarser the older it is (``told``): to the second for
two hours, to 8 s for most of a day, to a minute (64 s) for six days, beyond that to 512 s, always rounded to
an earlier time, so that nobody is said to have been seen later than they were. Forgotten is who was last seen
too long ago, and the oldest where there are more users than the memory is for, 512 s of last seen at a time.
Invariant: an answer follows from what was noted and ``now``, never from what was swept.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from pulsering_server.checked import checked_count, checked_keys, checked_ms

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined,unused-ignore]

NONE: Final = 0xFFFF_FFFF
"""Nothing is known of when a user was last seen."""

STEP: Final = 3
"""Each class of ages is told in units of 2^3 of the one before: 1, 8, 64 and 512 s."""
CLASSES: Final = 4
FRESH_S: Final = 8192
"""Up to this age to the second; 8 times as long to 8 s, and so on."""
BUCKET: Final = STEP * (CLASSES - 1)
"""Times are counted, and forgotten, by the 2^9 = 512 s."""

KEEP_MS_MIN, KEEP_MS_MAX = 60_000, 90 * 86_400_000
LINES_MIN: Final = 1 << 16
"""Of each side: the number of a line stands for 16 bits of the key."""
LINE_BYTES, LINE_USERS = 64, 8
MEMORY_MIN: Final = 2 * LINES_MIN * LINE_BYTES
MEMORY_MAX: Final = 1 << 44
FULL_PERCENT: Final = 88
"""Above it some keys find all of their lines full: in a simulation of 3 million, 1 at 90 % and 20 at 92."""

STATS = ("users", "lines", "crowded_total", "forgotten_total", "growth_steps", "swept_lines", "forced_lines")


def told(seen_s: int, now_s: int) -> int:
    """The second that is told of a user last seen at ``seen_s``: the same, or up to 511 s earlier."""
    for step in range(CLASSES - 1):
        rounded = seen_s >> STEP * step << STEP * step
        if now_s - rounded < FRESH_S << STEP * step:
            return rounded
    return seen_s >> BUCKET << BUCKET


def sides_within(memory_max: int) -> tuple[int, int]:
    """Lines of the two sides at their largest: each a power of two, doubled in turn while memory allows."""
    left = right = LINES_MIN
    while (left + right + min(left, right)) * LINE_BYTES <= memory_max:
        left, right = (2 * left, right) if left == right else (left, 2 * right)
    return left, right


def users_within(memory_max: int) -> int:
    """Users that are remembered in so many bytes: one for each 9.1 of the largest sides."""
    return sum(sides_within(memory_max)) * LINE_USERS * FULL_PERCENT // 100


class LastSeen:
    """Key -> second last seen, for ``keep_ms`` and in ``memory_max`` bytes.

    Time is that of the table, never goes back, and only its whole seconds count.
    """

    def __init__(self, *, keep_ms: int, memory_max: int = MEMORY_MIN, now_ms: int = 0) -> None:
        self._keep_s = checked_count(keep_ms, "keep_ms", KEEP_MS_MIN, KEEP_MS_MAX) // 1000
        self._memory_max = checked_count(memory_max, "memory_max", MEMORY_MIN, MEMORY_MAX)
        self.users_max = users_within(memory_max)
        self._now_s = checked_ms(now_ms, "now_ms") // 1000
        self._seen: dict[int, int] = {}
        self._horizon = 0
        self._complete_s = 0
        self._forgotten = 0

    def advance(self, now_ms: int) -> None:
        """Go on to ``now_ms``: who was last seen too long ago is forgotten at once."""
        self._now_s = max(self._now_s, checked_ms(now_ms, "now_ms") // 1000)
        self._forget_below(max(0, self._now_s - self._keep_s) >> BUCKET)

    def _forget_below(self, bucket: int) -> int:
        if bucket <= self._horizon:
            return 0
        self._horizon = bucket
        old = [key for key, seen_s in self._seen.items() if seen_s >> BUCKET < bucket]
        for key in old:
            del self._seen[key]
        return len(old)

    def note(self, keys: Buffer, seen_ms: int, now_ms: int) -> None:
        """Note users last seen at ``seen_ms``; of two times of a user the later one counts."""
        parsed, seen_s = checked_keys(keys), checked_ms(seen_ms, "seen_ms") // 1000
        self.advance(now_ms)
        for key in parsed:
            self.note_one(key, min(seen_s, self._now_s))

    def note_one(self, key: int, seen_s: int) -> None:
        """Note a user last seen at the second ``seen_s``."""
        if seen_s >> BUCKET < self._horizon:
            return
        self._seen[key] = max(seen_s, self._seen.get(key, 0))
        while len(self._seen) > self.users_max:
            oldest = min(self._seen.values()) >> BUCKET
            self._forget_below(oldest)
            if oldest < self._now_s >> BUCKET:
                self._forgotten += self._forget_below(oldest + 1)
            self._complete_s = max(self._complete_s, self._horizon << BUCKET)
            if self._horizon == self._now_s >> BUCKET:
                break

    def find(self, keys: Buffer, now_ms: int) -> bytes:
        """Seconds since each user was last seen, native u32 a key; ``NONE`` where it is not known."""
        parsed = checked_keys(keys)
        self.advance(now_ms)
        return array("I", map(self.find_one, parsed)).tobytes()

    def find_one(self, key: int) -> int:
        """Seconds since a user was last seen, or ``NONE``."""
        seen_s = self._seen.get(key)
        return NONE if seen_s is None else self.age_of(seen_s)

    def age_of(self, seen_s: int) -> int:
        """What is said of a user last seen at the second ``seen_s``: seconds since, or ``NONE``."""
        age = self._now_s - told(seen_s, self._now_s)
        return age if age <= self._keep_s and seen_s >> BUCKET >= self._horizon else NONE

    def maintain(self, now_ms: int, lines: int) -> int:
        """Do up to ``lines`` lines of housekeeping; returns how many more are due now."""
        checked_count(lines, "lines", 0, 2**62)
        self.advance(now_ms)
        return 0

    @property
    def complete_s(self) -> int:
        """Whoever was seen at or after this second, and noted, is remembered; nobody was forgotten early."""
        return self._complete_s

    @property
    def keep_ms(self) -> int:
        """How long users are remembered."""
        return self._keep_s * 1000

    @property
    def users(self) -> int:
        """Users remembered."""
        return len(self._seen)

    @property
    def memory_bytes(self) -> int:
        """Bytes in use; what is resident may be less."""
        return MEMORY_MIN

    def stats(self) -> dict[str, int]:
        """Plain ints for metrics; the same names in the twin and the kernel."""
        return dict.fromkeys(STATS, 0) | {"users": len(self._seen), "forgotten_total": self._forgotten}
