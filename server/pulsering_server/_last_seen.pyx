# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: auto_pickle=False, autotestdict=False
"""The store of those who went offline, compiled: eight bytes a user, exact keys, two lines touched.

``_last_seen_reference.py`` is the specification; ``docs/last-seen.md`` has the layout and its figures. Two
sides, each an array of 64-byte lines of eight entries; a key may be in one line of either, by two bijections
of it (two-choice hashing; where both are full, one of the 16 moves to its other line). A line's number is at
least the low 16 bits of what the key is mixed to, so an entry has when the user was last seen in their place:
a class of 2 bits, and a value on a ring of 16,383 units of 1, 8, 64 or 512 s. Every line is swept before a
value comes round again; the sweep makes old entries coarser. The sides grow in turn, doubled in place, some
lines at a time. Invariants: an answer follows from an entry and ``now``, never from the sweep; a key is in at
most one place; no call reads a clock or waits. Memory only: mmap.
"""

cimport cython
from cpython.buffer cimport PyBuffer_Release
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from pulsering_server._buffers cimport keys_of
from pulsering_server._cells cimport munmap, reserved
from pulsering_server._geometry cimport key_of, mixed_of
from pulsering_server._line cimport fetch, load64

from pulsering_server import _last_seen_reference as _reference

cdef object checked_ms = _reference.checked_ms
cdef object checked_count = _reference.checked_count

cdef enum:
    LINE = 64
    ENTRIES = 8
    VALUES = 16383  # of 14 bits, less the one that says empty
    VALUE = 0x3FFF
    CODE = 0xFFFF
    CLASS_SHIFT = 14
    STEP = 3  # as _reference.STEP
    FRESH = 8192  # as _reference.FRESH_S
    BUCKET = 9  # as _reference.BUCKET
    BUCKETS = 16384  # of 512 s: 97 days, more than anything is kept
    GROW_PERCENT = 84
    SPLIT = 4  # lines split for each user noted while growing: done when the load is up by 2 %
    ROUND = 2048  # seconds that a sweep of all lines takes
    UNSWEPT = 8000  # and may take: what is younger than FRESH then is below VALUES now
    SLICE = 8192  # lines done at a time at most: a tenth of a millisecond, a quarter for those split
    AHEAD = 8  # how many keys before its turn a key's lines are fetched

cdef uint32_t NONE = 0xFFFFFFFF


cdef inline uint64_t scattered(uint64_t key) noexcept nogil:
    """A bijection whose low bits depend on all bits: once for the line of one side, twice for the other's."""
    cdef uint64_t mixed = mixed_of(key)
    return mixed ^ (mixed >> 32)


cdef inline uint64_t gathered(uint64_t scattered) noexcept nogil:
    """What was scattered."""
    return key_of(scattered ^ (scattered >> 32))


@cython.final
cdef class LastSeen:
    """Key -> second last seen; see ``_last_seen_reference.LastSeen``, whose face and answers are the same."""

    def __cinit__(self, *, keep_ms, memory_max=_reference.MEMORY_MIN, now_ms=0):
        cdef int side
        cdef size_t size
        self._keep = checked_count(
            keep_ms, "keep_ms", _reference.KEEP_MS_MIN, _reference.KEEP_MS_MAX) // 1000
        checked_count(memory_max, "memory_max", _reference.MEMORY_MIN, _reference.MEMORY_MAX)
        self._users_max = _reference.users_within(memory_max)
        self._growing = -1
        for side, lines_max in enumerate(_reference.sides_within(memory_max)):
            size = lines_max * LINE
            self._sides[side].base = <uint64_t*>reserved(size, size, &self._sides[side].reserve)
            if self._sides[side].base == NULL:
                raise MemoryError("no address space for the users to remember")
            self._sides[side].lines = _reference.LINES_MIN
            self._sides[side].lines_max = lines_max
        self._buckets = <uint32_t*>calloc(BUCKETS, sizeof(uint32_t))
        if self._buckets == NULL:
            raise MemoryError
        self._set_now(checked_ms(now_ms, "now_ms") // 1000)
        self._swept_at = self._round_began = self._now

    def __dealloc__(self):
        cdef int side
        for side in range(2):
            if self._sides[side].base != NULL:
                munmap(self._sides[side].base, self._sides[side].reserve)
        free(self._buckets)

    # --- time ---

    cdef void _set_now(self, int64_t now_s) noexcept nogil:
        cdef int step
        self._now = now_s
        for step in range(4):
            self._values[step] = (now_s >> STEP * step) % VALUES

    cdef int64_t _seen_of(self, uint64_t entry) noexcept nogil:
        """The second that an entry says, as coarse as it is stored."""
        cdef int step = <int>(entry >> CLASS_SHIFT & 3)
        cdef int64_t ago = self._values[step] - <int64_t>((entry & VALUE) - 1)
        if ago < 0:
            ago += VALUES
        return ((self._now >> STEP * step) - ago) << STEP * step

    cdef uint64_t _code_of(self, int64_t seen_s) noexcept nogil:
        """Class and value of a second, as coarse as its age allows; the mirror of ``_reference.told``."""
        cdef int step = 0
        cdef int64_t rounded = seen_s
        while step < 3 and self._now - rounded >= <int64_t>FRESH << STEP * step:
            step += 1
            rounded = seen_s >> STEP * step << STEP * step
        return <uint64_t>step << CLASS_SHIFT | <uint64_t>(1 + (seen_s >> STEP * step) % VALUES)

    cdef uint32_t raw_age(self, int64_t seen_s) noexcept nogil:
        """What is said of a user last seen at ``seen_s``: seconds since, or NONE."""
        cdef int step = 0
        cdef int64_t rounded = seen_s
        if seen_s >> BUCKET < self._horizon:
            return NONE
        while step < 3 and self._now - rounded >= <int64_t>FRESH << STEP * step:
            step += 1
            rounded = seen_s >> STEP * step << STEP * step
        return <uint32_t>(self._now - rounded) if self._now - rounded <= self._keep else NONE

    cdef void raw_advance(self, int64_t now_s) noexcept nogil:
        cdef uint64_t lines
        if now_s <= self._now:
            return
        self._settle_waiting()
        lines = self._sides[0].lines + self._sides[1].lines
        while now_s - self._swept_at >= UNSWEPT:
            # Nobody swept in time: no value may come round before its line was visited.
            self._set_now(max(self._now, self._swept_at + UNSWEPT - 1))
            self._forget_below(max(self._now - self._keep, <int64_t>0) >> BUCKET)
            self._hand = 0
            self._round_began = self._now
            self._sweep(lines)
            self._forced += lines
        self._credit = min(self._credit + lines * (now_s - self._now) // ROUND + 1, lines)
        self._set_now(now_s)
        self._forget_below(max(now_s - self._keep, <int64_t>0) >> BUCKET)

    cdef uint64_t _forget_below(self, int64_t bucket) noexcept nogil:
        """Whoever was last seen before ``bucket`` is forgotten; returns how many."""
        cdef uint64_t before = self._count
        cdef uint32_t* users
        if bucket - self._horizon >= BUCKETS:
            self._horizon = bucket - BUCKETS  # what was before is forgotten already
        while self._horizon < bucket:
            users = &self._buckets[self._horizon % BUCKETS]
            self._count -= users[0]
            users[0] = 0
            self._horizon += 1
        return before - self._count

    def advance(self, now_ms):
        """Go on to ``now_ms``."""
        self.raw_advance(checked_ms(now_ms, "now_ms") // 1000)

    # --- where a key is ---

    cdef uint64_t* _line_of(self, int side, uint64_t mixed) noexcept nogil:
        cdef const Side* s = &self._sides[side]
        cdef uint64_t at = mixed & (s.lines - 1)
        if at < s.split:
            at = mixed & (2 * s.lines - 1)
        return s.base + at * ENTRIES

    cdef void _fetch(self, uint64_t key) noexcept nogil:
        cdef uint64_t mixed = scattered(key)
        fetch(<uint8_t*>self._line_of(0, mixed))
        fetch(<uint8_t*>self._line_of(1, scattered(mixed)))

    cdef void raw_note(self, uint64_t key, int64_t seen_s) noexcept nogil:
        """Take a user over; it waits with some others until its lines are in the cache."""
        self._fetch(key)
        self._keys[self._waiting] = key
        self._times[self._waiting] = min(max(seen_s, <int64_t>0), self._now)
        self._waiting += 1
        self.noted += 1
        if self._waiting == WAITING:
            self._settle_waiting()

    cdef void _settle_waiting(self) noexcept nogil:
        cdef int i
        for i in range(self._waiting):
            self._settle(self._keys[i], self._times[i])
        self._waiting = 0

    cdef void _settle(self, uint64_t key, int64_t seen_s) noexcept nogil:
        cdef uint64_t[2] mixed
        cdef uint64_t* lines[2]
        cdef uint64_t* vacant[2]
        cdef int[2] alive
        cdef uint64_t* at = NULL
        cdef int64_t found
        cdef int side, i
        if seen_s >> BUCKET < self._horizon:
            return
        mixed[0] = scattered(key)
        mixed[1] = scattered(mixed[0])
        for side in range(2):
            lines[side] = self._line_of(side, mixed[side])
            vacant[side] = NULL
            alive[side] = 0
            for i in range(ENTRIES):
                found = self._seen_of(lines[side][i]) if lines[side][i] & CODE else -1
                if found >> BUCKET < self._horizon:
                    vacant[side] = &lines[side][i]
                elif not (lines[side][i] ^ mixed[side]) >> 16:
                    if seen_s > found:
                        self._buckets[(found >> BUCKET) % BUCKETS] -= 1
                        self._buckets[(seen_s >> BUCKET) % BUCKETS] += 1
                        lines[side][i] = (mixed[side] & ~<uint64_t>CODE) | self._code_of(seen_s)
                    return
                else:
                    alive[side] += 1
        side = alive[1] < alive[0]
        if vacant[side] != NULL:
            at = vacant[side]
        else:
            at = self._kicked(lines)
        if at == NULL:
            at = self._oldest(lines)
            found = self._seen_of(at[0])
            self._crowded += 1
            self._complete = max(self._complete, min(found, seen_s) + 1)
            if found >= seen_s:
                return
            self._buckets[(found >> BUCKET) % BUCKETS] -= 1
            self._count -= 1
        side = not lines[0] <= at < lines[0] + ENTRIES
        at[0] = (mixed[side] & ~<uint64_t>CODE) | self._code_of(seen_s)
        self._buckets[(seen_s >> BUCKET) % BUCKETS] += 1
        self._count += 1
        self._fit()

    cdef uint64_t* _kicked(self, uint64_t** lines) noexcept nogil:
        """Make room in one of two full lines: move an entry to its line of the other side; NULL if all are
        full."""
        cdef uint64_t entry, mixed, other
        cdef uint64_t* line
        cdef int side, i, j
        for side in range(2):
            for i in range(ENTRIES):
                entry = lines[side][i]
                mixed = (entry & ~<uint64_t>CODE) | (
                    <uint64_t>(lines[side] - self._sides[side].base) // ENTRIES & CODE)
                other = scattered(mixed) if side == 0 else gathered(mixed)
                line = self._line_of(1 - side, other)
                for j in range(ENTRIES):
                    if not line[j] & CODE or self._seen_of(line[j]) >> BUCKET < self._horizon:
                        line[j] = (other & ~<uint64_t>CODE) | (entry & CODE)
                        return &lines[side][i]
        return NULL

    cdef uint64_t* _oldest(self, uint64_t** lines) noexcept nogil:
        """Of the entries of two full lines the one last seen longest ago."""
        cdef uint64_t* oldest = lines[0]
        cdef int side, i
        for side in range(2):
            for i in range(ENTRIES):
                if self._seen_of(lines[side][i]) < self._seen_of(oldest[0]):
                    oldest = &lines[side][i]
        return oldest

    cdef void _fit(self) noexcept nogil:
        """After one more: grow while that is allowed; then forget the oldest."""
        cdef Side* sides = self._sides
        cdef int side = sides[1].lines < sides[0].lines
        if self._growing >= 0:
            self._split(SPLIT)
        elif self._count * 100 > (sides[0].lines + sides[1].lines) * ENTRIES * GROW_PERCENT:
            if sides[side].lines < sides[side].lines_max:
                self._growing = side
        while self._count > self._users_max:
            while not self._buckets[self._horizon % BUCKETS]:
                self._horizon += 1
            if self._horizon < self._now >> BUCKET:
                self._forgotten += self._forget_below(self._horizon + 1)
            self._complete = max(self._complete, self._horizon << BUCKET)
            if self._horizon == self._now >> BUCKET:
                return

    def note(self, keys, seen_ms, now_ms):
        """Note users last seen at ``seen_ms``. ``keys``: packed little-endian u64, any alignment."""
        cdef Py_buffer view
        cdef int64_t seen = checked_ms(seen_ms, "seen_ms") // 1000, now = checked_ms(now_ms, "now_ms") // 1000
        cdef Py_ssize_t i
        keys_of(keys, &view)
        self.raw_advance(now)
        for i in range(view.len // 8):
            self.raw_note(load64(<const uint8_t*>view.buf + 8 * i), seen)
        self._settle_waiting()
        PyBuffer_Release(&view)

    # --- reads ---

    cdef void raw_find(self, const uint8_t* keys, size_t n, uint32_t* ages) noexcept nogil:
        """Look those up whose place in ``ages`` has NONE."""
        cdef size_t i
        cdef int side, j
        cdef uint64_t mixed
        cdef uint64_t* line
        self._settle_waiting()
        for i in range(min(n, <size_t>AHEAD)):
            self._fetch(load64(keys + 8 * i))
        for i in range(n):
            if i + AHEAD < n and ages[i + AHEAD] == NONE:
                self._fetch(load64(keys + 8 * (i + AHEAD)))
            if ages[i] != NONE:
                continue
            mixed = load64(keys + 8 * i)
            for side in range(2):
                mixed = scattered(mixed)
                line = self._line_of(side, mixed)
                for j in range(ENTRIES):
                    if not (line[j] ^ mixed) >> 16 and line[j] & CODE:
                        ages[i] = self.raw_age(self._seen_of(line[j]))

    def find(self, keys, now_ms):
        """Seconds since each user was last seen, native u32 a key; ``NONE`` where it is not known."""
        cdef Py_buffer view
        cdef bytes ages
        cdef uint32_t* at
        cdef Py_ssize_t i
        cdef int64_t now = checked_ms(now_ms, "now_ms") // 1000
        keys_of(keys, &view)
        try:
            ages = PyBytes_FromStringAndSize(NULL, view.len // 2)
            at = <uint32_t*>PyBytes_AS_STRING(ages)
            for i in range(view.len // 8):
                at[i] = NONE
            self.raw_advance(now)
            self.raw_find(<const uint8_t*>view.buf, view.len // 8, at)
        finally:
            PyBuffer_Release(&view)
        return ages

    # --- growing and sweeping ---

    cdef void _split(self, uint64_t lines) noexcept nogil:
        """Split up to ``lines`` lines of the side that grows: half of the keys of each are of a line so much
        further."""
        cdef Side* side = &self._sides[self._growing]
        cdef uint64_t* line
        cdef uint64_t* upper
        cdef uint64_t stop = min(side.split + lines, side.lines)
        cdef int i
        while side.split < stop:
            line = side.base + side.split * ENTRIES
            upper = line + side.lines * ENTRIES
            for i in range(ENTRIES):
                if line[i] & CODE and line[i] & side.lines:
                    upper[i] = line[i]
                    line[i] = 0
            side.split += 1
        if side.split == side.lines:
            side.lines *= 2
            side.split = 0
            self._growing = -1
            self._grown += 1
            self._hand = 0  # lines are numbered anew: the round starts again
            self._round_began = self._now

    cdef void _sweep_line(self, uint64_t* line) noexcept nogil:
        cdef int i
        cdef int64_t seen_s
        for i in range(ENTRIES):
            if line[i] & CODE:
                seen_s = self._seen_of(line[i])
                if seen_s >> BUCKET < self._horizon:
                    line[i] = 0
                else:
                    line[i] = (line[i] & ~<uint64_t>CODE) | self._code_of(seen_s)

    cdef void _sweep(self, uint64_t lines) noexcept nogil:
        """Drop what is forgotten and make coarser what is old, in the next ``lines`` lines."""
        cdef uint64_t left = self._sides[0].lines, total = left + self._sides[1].lines, at
        cdef Side* side
        for _ in range(lines):
            at = self._hand
            side = &self._sides[0]
            if at >= left:
                at -= left
                side = &self._sides[1]
            self._sweep_line(side.base + at * ENTRIES)
            if at < side.split:
                self._sweep_line(side.base + (at + side.lines) * ENTRIES)
            self._hand += 1
            if self._hand == total:
                self._hand = 0
                self._swept_at = self._round_began
                self._round_began = self._now
        self._swept += lines

    cdef uint64_t raw_maintain(self, uint64_t lines) noexcept nogil:
        self._settle_waiting()
        if self._growing >= 0:
            self._split(min(lines, <uint64_t>SLICE))
        lines = min(min(lines, <uint64_t>SLICE), self._credit)
        self._sweep(lines)
        self._credit -= lines
        return self._credit

    def maintain(self, now_ms, lines):
        """Do up to ``lines`` lines of housekeeping; returns how many more are due now."""
        cdef uint64_t budget = checked_count(lines, "lines", 0, 2**62)
        self.raw_advance(checked_ms(now_ms, "now_ms") // 1000)
        return self.raw_maintain(budget)

    # --- facts ---

    @property
    def complete_s(self):
        """Whoever was seen at or after this second, and noted, is remembered; nobody was forgotten early."""
        self._settle_waiting()
        return self._complete

    @property
    def keep_ms(self):
        """How long users are remembered."""
        return self._keep * 1000

    @property
    def users(self):
        """Users remembered."""
        self._settle_waiting()
        return self._count

    @property
    def users_max(self):
        """How many there may be."""
        return self._users_max

    @property
    def memory_bytes(self):
        """Bytes in use; what is resident may be less."""
        cdef uint64_t lines = self._sides[0].lines + self._sides[1].lines
        if self._growing >= 0:
            lines += self._sides[self._growing].lines
        return lines * LINE

    def stats(self):
        """Plain ints for metrics; the same names in the twin and the kernel."""
        return dict(zip(_reference.STATS, (
            self.users,
            self._sides[0].lines + self._sides[1].lines,
            self._crowded,
            self._forgotten,
            self._grown,
            self._swept,
            self._forced,
        ), strict=True))

    def _verify(self):
        """Recount everything; AssertionError where the store contradicts itself. O(entries): for tests."""
        cdef int side, i
        cdef uint64_t at, lines, mixed, key, entry
        cdef int64_t seen_s
        self._settle_waiting()
        found = {}
        for side in range(2):
            lines = self._sides[side].lines + self._sides[side].split
            for at in range(lines):
                for i in range(ENTRIES):
                    entry = self._sides[side].base[at * ENTRIES + i]
                    if not entry & CODE:
                        continue
                    seen_s = self._seen_of(entry)
                    assert 0 <= seen_s <= self._now, f"seen at {seen_s}, now {self._now}"
                    mixed = (entry & ~<uint64_t>CODE) | (at & CODE)
                    assert self._line_of(side, mixed) == self._sides[side].base + at * ENTRIES
                    key = gathered(mixed if side == 0 else gathered(mixed))
                    if seen_s >> BUCKET >= self._horizon:
                        assert key not in found, f"{key} is remembered twice"
                        found[key] = seen_s
        counted = {i: self._buckets[i] for i in range(BUCKETS) if self._buckets[i]}
        recount = {}
        for seen in found.values():
            recount[(seen >> BUCKET) % BUCKETS] = recount.get((seen >> BUCKET) % BUCKETS, 0) + 1
        assert counted == recount, f"recount {recount}, counters {counted}"
        assert len(found) == self._count, f"recount {len(found)}, {self._count} counted"
