# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: auto_pickle=False, autotestdict=False
"""The shard table, compiled: one array of cache lines that is its own timing wheel.

``_table_reference.py`` is the specification; ``docs/table.md`` draws the layout. Strategy: a bijective mix of
the key times the number of lines gives the home line (high half) and the rest that is stored (low half), so
lines stay sorted by mixed key and the table grows and shrinks in place behind a frontier, a few lines at a
time. An entry's code is its deadline's spoke on a ring of 255; at most 81 are alive, and every line is swept
before a code comes round again. Invariants: an answer follows from code and ``now``, never from the sweep;
the counters equal a recount (``_verify``); no call reads a clock, does I/O or waits. Memory only: mmap and
madvise.
"""

cimport cython
from cpython.buffer cimport PyBuffer_Release
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from pulsering_server._buffers cimport buffer_of, keys_of
from pulsering_server._cells cimport (
    MADV_DONTNEED, MADV_HUGEPAGE, MADV_POPULATE_WRITE, Cell, Cells, Hit, cell_at, cells_add, cells_bytes,
    cells_close, cells_find, cells_first, cells_open, cells_remove, keys_in, madvise, munmap, payload_in,
    reserved,
)
from pulsering_server._geometry cimport (
    Geometry, first_of, full_percent, geometry_of, growth_of, home_of, key_of, mixed_at,
)
from pulsering_server._gone cimport (
    deadline_of, hand_over, hand_over_line, hand_over_on_way, read_last_seen,
)
from pulsering_server._last_seen cimport LastSeen
from pulsering_server._line cimport (
    ANNEX, FLAGS, LINE, META, NEXT, capacity, clear, drop, drop_guest, empty_native, expired, fetch, fill,
    guests, load64, put, set_guests, settle, take, vacant, wide,
)
from pulsering_server._place cimport GROUP, PLACES, fetch_group, fetch_home, place_of, rank_of, slot_in_line
from pulsering_server._recount cimport recount

import os as _os

from pulsering_server import _table_reference as _reference

cdef object checked_ms = _reference.checked_ms
cdef object checked_count = _reference.checked_count
cdef object Tally = _reference.Tally

cdef extern from *:
    """
    #ifdef PULSERING_DEBUG
    #define pulsering_debug 1
    #else
    #define pulsering_debug 0
    #endif
    """
    const bint DEBUG "pulsering_debug"

cdef enum:
    SLOTS = 16384
    SLOT_SHIFT = 50
    NOT_OWNED = 0xFFFF
    RING = 255
    PEEK = 8  # how many keys before its turn a new user's home is looked at
    HOMES = 144  # that a single call takes at the front: a step is a 64th of the lines at least
    FETCH_LINES = 16  # how many lines ahead a pass over lines fetches
    PULLED = 24  # the annex fills so many of a new line's 48 places: the next home may bring 2 * 11
    REACH = 8  # lines that may hand an entry on before it goes to the annex
    BLOCK_LINES = 32768  # 2 MiB, the unit of sweeping, of giving back and of populating
    LINES_START = 1024
    PAY = 3  # lines migrated for each new user
    PAY_LINES = 1024  # and how many of them at a time
    POPULATE_EARLY_PERCENT = 2  # before growing is due, the memory that it will touch first is populated
    POPULATE_LINES = 8 * 32768  # and how much of it at most, then and while growing
    ACCEPTED = 0
    STALE = 1
    REFUSED = 2
    ELSEWHERE = 3
    POOR_PERCENT = 66  # of the lines' capacity: start to shrink
    FIT_PERCENT = 80  # what shrinking aims at
    CELL_LINES = 16  # a cell of the annex is as much work as so many lines
    GONE_LINES = 16  # and so is a user who is handed over


@cython.final
cdef class Table:
    """Key -> deadline for one shard; see ``_table_reference.Table``, whose face and answers are the same."""

    def __cinit__(
        self, *, ttl_ms, ticks_per_ttl=80, now_ms=0, users_max=0, memory_max=0, last_seen_ms=0,
        last_seen_bytes=_reference.LAST_SEEN_BYTES, _lines=0, _shift=0,
    ):
        cdef size_t got = 0
        cdef uint64_t address
        self._ttl = checked_count(ttl_ms, "ttl_ms", _reference.TTL_MS_MIN, _reference.TTL_MS_MAX)
        self._ticks = checked_count(
            ticks_per_ttl, "ticks_per_ttl", _reference.TICKS_PER_TTL_MIN, _reference.TICKS_PER_TTL_MAX)
        self._now = checked_ms(now_ms, "now_ms")
        self._users_max = checked_count(users_max, "users_max", 0, 2**32 - 1)
        self._memory_max = checked_count(memory_max, "memory_max", 0, 2**62)
        self._lines_min = max(checked_count(_lines, "_lines", 0, 2**32) or LINES_START, 2)
        self._shift_min = checked_count(_shift, "_shift", 0, 26)
        self._tick = self._tick_of(self._now)
        self._newest = self._tick
        self._remembers = last_seen_ms != 0
        if self._remembers:
            self._seen = LastSeen(keep_ms=last_seen_ms, memory_max=last_seen_bytes, now_ms=self._now)
        physical = _os.sysconf("SC_PHYS_PAGES") * _os.sysconf("SC_PAGE_SIZE")
        least = (self._lines_min + 2) * LINE + (4 << 20)
        self._mapping = <uint8_t*>reserved(max(physical, least), least, &got)
        if self._mapping == NULL:
            raise MemoryError("no address space for the table's lines")
        self._reserve = got
        address = <uint64_t><size_t>self._mapping
        address = (address + (1 << 21) - 1) >> 21 << 21
        self._base = <uint8_t*><size_t>address
        self._reserve_lines = (got - (1 << 21)) // LINE // BLOCK_LINES * BLOCK_LINES - 2
        self._huge = madvise(self._base, self._reserve_lines * LINE, MADV_HUGEPAGE) == 0
        if not cells_open(&self._annex, 4, 1 << 24) or not cells_open(&self._ledger, 16, 1 << 25):
            raise MemoryError("no address space for the table's annex")
        self._old = geometry_of(self._lines_min, self._shift_min)
        self._new = self._old
        self._absent = <uint8_t*>calloc(SLOTS, 1)
        self._groupings = <Grouping*>calloc(<int>_reference.TICKS_PER_TTL_MAX + 4, sizeof(Grouping))
        self._groups_room = 1
        self._counters = <uint32_t*>calloc(256, sizeof(uint32_t))
        self._totals = <uint64_t*>calloc(1, sizeof(uint64_t))
        if not (self._absent and self._groupings and self._counters and self._totals):
            raise MemoryError
        self._groupings[0].first = -(<int64_t>1 << 62)
        self._groupings[0].groups = <uint16_t*>calloc(SLOTS, sizeof(uint16_t))
        if self._groupings[0].groups == NULL:
            raise MemoryError
        self._groupings_used = 1
        # One tick per 32768 lines of whatever could ever be held, so that growing never allocates.
        self._visited_room = self._reserve_lines // BLOCK_LINES + 2
        self._visited = <int64_t*>calloc(self._visited_room, sizeof(int64_t))
        if self._visited == NULL:
            raise MemoryError
        self._direct()
        self._reset_blocks(0)

    def __dealloc__(self):
        cdef int i
        if self._mapping != NULL:
            munmap(self._mapping, self._reserve)
        cells_close(&self._annex)
        cells_close(&self._ledger)
        for i in range(self._groupings_used):
            free(self._groupings[i].groups)
        free(self._groupings)
        free(self._absent)
        free(self._counters)
        free(self._totals)
        free(self._visited)

    # --- time and counting ---

    cdef int64_t _tick_of(self, int64_t ms) noexcept nogil:
        if ms < 0:
            return -((-ms * self._ticks + self._ttl - 1) // self._ttl)
        return ms * self._ticks // self._ttl

    cdef uint8_t _code(self, int rank) noexcept nogil:
        return <uint8_t>(1 + (self._hand + rank) % RING)

    cdef void _direct(self) noexcept nogil:
        """Say again which codes are alive, and under which groups each counts."""
        cdef int rank, i
        cdef uint8_t code
        memset(self._rank, 0, 256)
        for i in range(256):
            self._groups_of[i] = self._groupings[0].groups
        # As bytes, codes that go on from 255 to 1 are one more apart.
        self._span = <int>self._ticks + (self._code(1) > self._code(<int>self._ticks + 1))
        i = 0
        for rank in range(1, <int>self._ticks + 2):
            while i + 1 < self._groupings_used and self._groupings[i + 1].first <= self._tick + rank:
                i += 1
            code = self._code(rank)
            self._rank[code] = <uint8_t>rank
            self._groups_of[code] = self._groupings[i].groups

    cdef void _count_in(self, uint64_t slot, uint8_t code) noexcept nogil:
        cdef uint16_t group = self._groups_of[code][slot]
        self._counters[code * self._groups_room + group] += 1
        self._totals[group] += 1
        self._online += 1

    cdef void _count_out(self, uint64_t slot, uint8_t code) noexcept nogil:
        cdef uint16_t group = self._groups_of[code][slot]
        self._counters[code * self._groups_room + group] -= 1
        self._totals[group] -= 1
        self._online -= 1

    cdef void raw_advance(self, int64_t now_ms) noexcept nogil:
        cdef int64_t tick, step, k
        cdef uint32_t group
        cdef uint32_t* spoke
        cdef int gone = 0
        if now_ms <= self._now:
            return
        self._now = now_ms
        if self._remembers:
            self._seen.raw_advance(now_ms // 1000)
        tick = self._tick_of(now_ms)
        if tick == self._tick:
            return
        # The hand need not turn past the newest deadline: everything has expired by then.
        step = max(min(tick, self._newest) - self._tick, <int64_t>0)
        # No code may come round before its line was visited since it expired.
        while self._hand + step > self._oldest + (RING - 1 - self._ticks):
            self._forced += self._migrate(BLOCK_LINES) if self._phase else self._sweep(BLOCK_LINES)
        for k in range(1, step + 1):
            self._gone[self._code(<int>k)] = self._tick + k
            spoke = self._counters + self._code(<int>k) * self._groups_room
            for group in range(self._groups_room):
                self._totals[group] -= spoke[group]
                self._online -= spoke[group]
                self._expired += spoke[group]
                spoke[group] = 0
        self._hand += step
        self._credit += (self._old.lines + 1) * min(tick - self._tick, self._ticks) // self._ticks + 1
        self._credit = min(self._credit, self._old.lines + 1)
        k = self._annex.used + self._ledger.used
        self._cell_credit += k * min(tick - self._tick, self._ticks) // self._ticks + 1
        self._cell_credit = min(self._cell_credit, <uint64_t>k)
        self._tick = tick
        while gone + 1 < self._groupings_used and self._groupings[gone + 1].first <= tick + 1:
            free(self._groupings[gone].groups)
            gone += 1
        if gone:
            self._groupings_used -= gone
            for k in range(self._groupings_used):
                self._groupings[k] = self._groupings[k + gone]
        self._direct()

    def advance(self, now_ms):
        """Turn the wheel to ``now_ms``."""
        self.raw_advance(checked_ms(now_ms, "now_ms"))
        self._debug()

    def set_slots(self, groups, absent, now_ms):
        """Say which slots are ours, where they count, and what a read says of a key that is not online."""
        cdef Py_buffer view
        cdef bytes packed, states
        cdef uint16_t* new
        cdef uint16_t* old
        cdef uint32_t* counters
        cdef uint64_t* totals
        cdef uint32_t room = 0, group
        cdef int i, slot, code
        cdef int64_t first, now = checked_ms(now_ms, "now_ms")
        buffer_of(groups, &view, "groups")
        packed = PyBytes_FromStringAndSize(<char*>view.buf, view.len)
        PyBuffer_Release(&view)
        buffer_of(absent, &view, "absent")
        states = PyBytes_FromStringAndSize(<char*>view.buf, view.len)
        PyBuffer_Release(&view)
        if len(packed) != 2 * SLOTS:
            raise ValueError(f"groups must be {SLOTS} native u16, not {len(packed)} bytes")
        if len(states) != SLOTS:
            raise ValueError(f"absent must be {SLOTS} bytes, one state a slot, not {len(states)}")
        if not set(states) <= {0, 2, 3}:
            raise ValueError("absent must hold OFFLINE (0), UNKNOWN (2) or MOVED (3) only")
        self.raw_advance(now)
        memcpy(self._absent, PyBytes_AS_STRING(states), SLOTS)
        if not memcmp(self._groupings[self._groupings_used - 1].groups, PyBytes_AS_STRING(packed), 2 * SLOTS):
            return
        new = <uint16_t*>malloc(2 * SLOTS)
        if new == NULL:
            raise MemoryError
        memcpy(new, PyBytes_AS_STRING(packed), 2 * SLOTS)
        for slot in range(SLOTS):
            if new[slot] != NOT_OWNED and new[slot] + <uint32_t>1 > room:
                room = new[slot] + 1
        if room > self._groups_room:
            counters = <uint32_t*>calloc(<size_t>256 * room, sizeof(uint32_t))
            totals = <uint64_t*>calloc(room, sizeof(uint64_t))
            if counters == NULL or totals == NULL:
                free(counters)
                free(totals)
                free(new)
                raise MemoryError
            for code in range(256):
                for group in range(self._groups_room):
                    counters[code * room + group] = self._counters[code * self._groups_room + group]
            memcpy(totals, self._totals, self._groups_room * sizeof(uint64_t))
            free(self._counters)
            free(self._totals)
            self._counters = counters
            self._totals = totals
            self._groups_room = room
        first = self._tick + self._ticks + 2
        if self._online == 0:
            for i in range(self._groupings_used):
                free(self._groupings[i].groups)
            self._groupings_used = 0
            first = -(<int64_t>1 << 62)
        for i in range(self._groupings_used):
            old = self._groupings[i].groups
            for slot in range(SLOTS):
                if old[slot] == NOT_OWNED:
                    old[slot] = new[slot]
        if self._groupings_used and self._groupings[self._groupings_used - 1].first == first:
            self._groupings_used -= 1
            free(self._groupings[self._groupings_used].groups)
        self._groupings[self._groupings_used].first = first
        self._groupings[self._groupings_used].groups = new
        self._groupings_used += 1
        self._direct()
        self._debug()

    cdef uint32_t raw_groups(self) noexcept nogil:
        """Length of ``count``: one more than the highest group of any grouping that is still in use."""
        cdef uint32_t room = 0
        cdef int i, slot
        cdef uint16_t group
        for i in range(self._groupings_used):
            for slot in range(SLOTS):
                group = self._groupings[i].groups[slot]
                if group != NOT_OWNED and group + <uint32_t>1 > room:
                    room = group + 1
        return room

    cdef uint64_t raw_count(self, uint32_t group) noexcept nogil:
        return self._totals[group]

    def count(self, now_ms):
        """Users online by counting group, exact; the index is the group."""
        cdef uint32_t group, groups
        self.raw_advance(checked_ms(now_ms, "now_ms"))
        groups = self.raw_groups()
        return [self.raw_count(group) for group in range(groups)]

    # --- finding and placing ---

    cdef int _reach(self, const Place* place) noexcept nogil:
        """How many lines after a home may take its guests: up to the end of its order, REACH at most."""
        cdef uint64_t line = (place.line - self._base) // LINE, end = self._old.lines
        cdef bint below = home_of(&self._old, place.mixed) < self._frontier
        cdef bint old = self._phase == IDLE or below == (self._phase == GROWING)
        if self._phase == GROWING:
            end = self._frontier if old else self._new.lines
        elif self._phase == SHRINKING and not old:
            end = self._frontier - 1
        return <int>min(end - line, <uint64_t>REACH)

    cdef uint64_t _memory(self) noexcept nogil:
        cdef uint64_t lines = self._new.lines if self._phase == GROWING else self._old.lines
        return (
            (lines + 1) * LINE + cells_bytes(&self._annex) + cells_bytes(&self._ledger)
            + <uint64_t>256 * 4 * self._groups_room + (self._groupings_used * <uint64_t>2 + 1) * SLOTS
        )

    cdef bint _may_grow(self) noexcept nogil:
        # A new cell may double a directory.
        cdef uint64_t step = 2048 + (<uint64_t>4 << self._annex.depth) + (<uint64_t>4 << self._ledger.depth)
        return not self._memory_max or self._memory() + step <= self._memory_max

    cdef bint _settle(self, const Place* place, uint8_t code) noexcept nogil:
        """Put a key that is in no line into its home or, by guests, beside it; False if there is no room."""
        cdef int i = empty_native(place.line, place.kind), freed = 0
        cdef const uint8_t* rank = self._rank
        cdef bint done
        if i >= 0:
            put(place.line, place.kind, i, place.rest, code)
            self._held += 1
            return True
        if self._held + self._annex.count + self._ledger.count <= self._online:
            rank = NULL  # nothing can have expired unswept
        elif self._remembers:
            hand_over_on_way(self, place)
        done = settle(place.line, place.kind, place.rest, code, rank, self._reach(place), &freed)
        self._held += done - freed
        return done

    cdef bint _insert(self, const Place* place, uint8_t code, int rank, bint may_grow) noexcept nogil:
        """Give a key that is nowhere a place: its line, the next, the annex. False if there is no memory."""
        cdef uint32_t deadline
        cdef uint8_t* payload
        if self._settle(place, code):
            return True
        payload = cells_add(&self._annex, place.mixed, may_grow)
        if payload == NULL:
            return False
        deadline = <uint32_t>(self._tick + rank)
        memcpy(payload, &deadline, 4)
        place.line[META] |= ANNEX
        return True

    # --- heartbeats ---

    cdef int _beat_new(
        self, const Place* place, uint64_t slot, uint8_t code, int rank, int64_t said,
    ) noexcept nogil:
        """A heartbeat of a key that is in no line."""
        if place.line[META] & ANNEX:
            return self._beat_far(place, slot, code, rank, said)
        if self._users_max and self._online >= self._users_max:
            return REFUSED
        if not self._insert(place, code, rank, self._may_grow()):
            return REFUSED
        self._count_in(slot, code)
        tell(self, place, APPEARS, rank)
        self._pay += PAY
        return ACCEPTED

    cdef int _beat_far(
        self, const Place* place, uint64_t slot, uint8_t code, int rank, int64_t said,
    ) noexcept nogil:
        """A heartbeat of a key that is in no line, though the annex or the ledger may have it."""
        cdef Hit leave, hit
        cdef int64_t left
        cdef uint32_t deadline
        cdef int before = 0
        hit.cell = NULL
        leave.cell = NULL
        if self._ledger.count:
            leave = cells_find(&self._ledger, place.mixed)
        if leave.cell != NULL:
            memcpy(&left, payload_in(&self._ledger, leave.cell, leave.i), 8)
            if self._tick_of(left) + self._ticks + 1 > self._tick:
                if said < left:
                    return STALE
                memcpy(&deadline, payload_in(&self._ledger, leave.cell, leave.i) + 8, 4)
                before = max(<int32_t>(deadline - <uint32_t>self._tick), 0)
        else:
            hit = cells_find(&self._annex, place.mixed)
            if hit.cell != NULL:
                memcpy(&deadline, payload_in(&self._annex, hit.cell, hit.i), 4)
                before = max(<int32_t>(deadline - <uint32_t>self._tick), 0)
                if before >= rank:
                    return ACCEPTED
        if not before and self._users_max and self._online >= self._users_max:
            return REFUSED
        if hit.cell != NULL:
            deadline = <uint32_t>(self._tick + rank)
            memcpy(payload_in(&self._annex, hit.cell, hit.i), &deadline, 4)
        else:
            # The new place comes first, so that a refusal forgets nothing.
            if not self._insert(place, code, rank, self._may_grow()):
                return REFUSED
            self._pay += PAY
            if leave.cell != NULL:
                cells_remove(&self._ledger, leave)
        if before:
            self._count_out(slot, self._code(before))
        self._count_in(slot, code)
        if not before or leave.cell != NULL:
            tell(self, place, STAYS if before else APPEARS, rank)
        return ACCEPTED

    cdef RawTally raw_heartbeat(self, const uint8_t* keys, size_t n, int64_t age_ms) noexcept nogil:
        cdef uint64_t[4] tally
        cdef int64_t said = self._now - age_ms
        cdef int64_t deadline = self._tick_of(said) + self._ticks + 1
        cdef const uint16_t* owned = self._groupings[self._groupings_used - 1].groups
        cdef bint stale = deadline <= self._tick
        cdef int rank = 0 if stale else <int>(deadline - self._tick)
        cdef uint8_t code = self._code(rank)
        cdef Place[PLACES] places
        cdef Place* place
        cdef size_t i, k
        cdef uint64_t slot
        memset(tally, 0, sizeof(tally))
        self._newest = max(self._newest, deadline)
        fetch_group(self, keys, 0, n, places)
        for i in range(n):
            if i % GROUP == 0:
                fetch_group(self, keys, i + GROUP, n, places)
            slot = load64(keys + 8 * i) >> SLOT_SHIFT
            if owned[slot] == NOT_OWNED:
                tally[ELSEWHERE] += 1
            elif stale:
                tally[STALE] += 1
            else:
                tally[beat(self, &places[i % PLACES], slot, code, rank, said)] += 1
            if self._pay:  # the next are new users too, it seems
                place = &places[(i + PEEK) % PLACES]
                if i + PEEK < n and empty_native(place.line, place.kind) < 0:
                    fetch(place.line + 2 * LINE)  # and these may have to hand an entry on
                    fetch(place.line + 3 * LINE)
            if self._pay >= PAY_LINES:
                self._resize()
                for k in range(i + 1, min(n, i // GROUP * GROUP + PLACES)):  # they may have moved
                    fetch_home(self, keys + 8 * k, &places[k % PLACES])
        if self._pay:
            self._resize()
        return self._tallied(tally)

    cdef RawTally _tallied(self, const uint64_t* tally) noexcept nogil:
        cdef RawTally result
        result.accepted = tally[ACCEPTED]
        result.stale = tally[STALE]
        result.refused = tally[REFUSED]
        result.moved = tally[ELSEWHERE]
        self._sum.accepted += result.accepted
        self._sum.stale += result.stale
        self._sum.refused += result.refused
        self._sum.moved += result.moved
        return result

    def heartbeat(self, keys, now_ms, age_ms=0):
        """Note heartbeats said ``age_ms`` ago. ``keys``: packed little-endian u64, any alignment."""
        cdef Py_buffer view
        cdef RawTally tally
        cdef int64_t now = checked_ms(now_ms, "now_ms"), age = checked_ms(age_ms, "age_ms")
        keys_of(keys, &view)
        self.raw_advance(now)
        tally = self.raw_heartbeat(<const uint8_t*>view.buf, view.len // 8, age)
        PyBuffer_Release(&view)
        self._debug()
        return Tally(tally.accepted, tally.stale, tally.refused, tally.moved)

    # --- leaves ---

    cdef int _leave_one(
        self, const Place* place, uint64_t slot, int64_t said, int64_t grace,
    ) noexcept nogil:
        cdef uint8_t* line
        cdef int i = slot_in_line(place, &line)
        cdef Hit known, hit
        cdef int before = 0, after = 0
        cdef int64_t left, beat = 0, deadline = 0
        cdef uint32_t word
        cdef uint8_t* payload
        known.cell = NULL
        hit.cell = NULL
        if i >= 0:
            before = self._rank[line[capacity(place.kind) + i]]
            deadline = deadline_of(self, line[capacity(place.kind) + i])
        elif place.line[META] & ANNEX:
            known = cells_find(&self._ledger, place.mixed)
            if known.cell != NULL:
                payload = payload_in(&self._ledger, known.cell, known.i)
                memcpy(&left, payload, 8)
                memcpy(&word, payload + 8, 4)
                if self._tick_of(left) + self._ticks + 1 > self._tick:
                    before = max(<int32_t>(word - <uint32_t>self._tick), 0)
                memcpy(&word, payload + 12, 4)
                beat = self._tick + <int32_t>(word - <uint32_t>self._tick)
            else:
                hit = cells_find(&self._annex, place.mixed)
                if hit.cell != NULL:
                    memcpy(&word, payload_in(&self._annex, hit.cell, hit.i), 4)
                    deadline = self._tick + <int32_t>(word - <uint32_t>self._tick)
                    before = <int>max(deadline - self._tick, <int64_t>0)
        if before:
            if known.cell == NULL:
                beat = self._tick + before - self._ticks - 1
            if self._tick_of(said) < beat:
                return STALE
            if grace:
                after = <int>max(self._tick_of(said + grace) + 1 - self._tick, <int64_t>0)
                after = min(before, after)
        if known.cell == NULL:
            payload = cells_add(&self._ledger, place.mixed, self._may_grow())
            if payload == NULL:
                return REFUSED
            left = said
        else:
            payload = payload_in(&self._ledger, known.cell, known.i)
            left = max(left, said)
        memcpy(payload, &left, 8)
        word = <uint32_t>(self._tick + after)
        memcpy(payload + 8, &word, 4)
        word = <uint32_t>beat
        memcpy(payload + 12, &word, 4)
        if deadline and self._remembers:
            hand_over(self, place.mixed, deadline)
        if i >= 0:
            drop(line, place.kind, i)
            self._held -= 1
        elif hit.cell != NULL:
            cells_remove(&self._annex, hit)
        place.line[META] |= ANNEX
        if before:
            self._count_out(slot, self._code(before))
            tell(self, place, LEAVES, after)
        if after:
            self._count_in(slot, self._code(after))
        return ACCEPTED

    cdef RawTally raw_leave(
        self, const uint8_t* keys, size_t n, int64_t age_ms, int64_t grace_ms,
    ) noexcept nogil:
        cdef uint64_t[4] tally
        cdef int64_t said = self._now - age_ms
        cdef int64_t grace = min(grace_ms, 2 * self._ttl)  # longer shortens nothing, and cannot overflow
        cdef const uint16_t* owned = self._groupings[self._groupings_used - 1].groups
        cdef Place[PLACES] places
        cdef size_t i
        cdef uint64_t slot
        memset(tally, 0, sizeof(tally))
        fetch_group(self, keys, 0, n, places)
        for i in range(n):
            if i % GROUP == 0:
                fetch_group(self, keys, i + GROUP, n, places)
            slot = load64(keys + 8 * i) >> SLOT_SHIFT
            if owned[slot] == NOT_OWNED:
                tally[ELSEWHERE] += 1
            elif age_ms >= self._ttl:
                tally[STALE] += 1
            else:
                tally[self._leave_one(&places[i % PLACES], slot, said, grace)] += 1
        return self._tallied(tally)

    def leave(self, keys, now_ms, age_ms=0, grace_ms=0):
        """Note leaves said ``age_ms`` ago: offline at once, or at the latest ``grace_ms`` after that."""
        cdef Py_buffer view
        cdef RawTally tally
        cdef int64_t now = checked_ms(now_ms, "now_ms"), age = checked_ms(age_ms, "age_ms")
        cdef int64_t grace = checked_ms(grace_ms, "grace_ms")
        keys_of(keys, &view)
        self.raw_advance(now)
        tally = self.raw_leave(<const uint8_t*>view.buf, view.len // 8, age, grace)
        PyBuffer_Release(&view)
        self._debug()
        return Tally(tally.accepted, tally.stale, tally.refused, tally.moved)

    # --- reads ---

    cdef int _rank_far(self, uint64_t mixed, int64_t* beat) noexcept nogil:
        cdef Hit hit
        cdef int64_t left
        cdef uint32_t word
        cdef int rank
        hit.cell = NULL
        if self._ledger.count:
            hit = cells_find(&self._ledger, mixed)
        if hit.cell != NULL:
            memcpy(&left, payload_in(&self._ledger, hit.cell, hit.i), 8)
            if self._tick_of(left) + self._ticks + 1 <= self._tick:
                return 0
            memcpy(&word, payload_in(&self._ledger, hit.cell, hit.i) + 12, 4)
            beat[0] = self._tick + <int32_t>(word - <uint32_t>self._tick)
            memcpy(&word, payload_in(&self._ledger, hit.cell, hit.i) + 8, 4)
            return max(<int32_t>(word - <uint32_t>self._tick), 0)
        hit = cells_find(&self._annex, mixed)
        if hit.cell == NULL:
            return 0
        memcpy(&word, payload_in(&self._annex, hit.cell, hit.i), 4)
        rank = max(<int32_t>(word - <uint32_t>self._tick), 0)
        beat[0] = self._tick + rank - self._ticks - 1
        return rank

    cdef void raw_get(self, const uint8_t* keys, size_t n, uint8_t* states) noexcept nogil:
        cdef Place[PLACES] places
        cdef size_t i
        cdef int64_t beat = 0
        cdef uint8_t state
        memset(states, 0, (n + 3) // 4)
        fetch_group(self, keys, 0, n, places)
        for i in range(n):
            if i % GROUP == 0:
                fetch_group(self, keys, i + GROUP, n, places)
            state = 1
            if not rank_of(self, &places[i % PLACES], &beat):
                state = self._absent[load64(keys + 8 * i) >> SLOT_SHIFT]
            states[i >> 2] |= <uint8_t>(state << (2 * (i & 3)))

    cdef void raw_ages(self, const uint8_t* keys, size_t n, uint8_t* ages) noexcept nogil:
        cdef Place[PLACES] places
        cdef size_t i
        cdef int64_t beat = 0
        cdef bint online
        fetch_group(self, keys, 0, n, places)
        for i in range(n):
            if i % GROUP == 0:
                fetch_group(self, keys, i + GROUP, n, places)
            online = rank_of(self, &places[i % PLACES], &beat)
            ages[i] = <uint8_t>(self._tick - beat) if online else 255

    def get(self, keys, now_ms):
        """State of each key, 2 bits a key, 4 keys a byte, least significant bits first; unused bits are 0."""
        cdef Py_buffer view
        cdef bytes states
        cdef int64_t now = checked_ms(now_ms, "now_ms")
        keys_of(keys, &view)
        try:
            states = PyBytes_FromStringAndSize(NULL, (view.len // 8 + 3) // 4)
            self.raw_advance(now)
            self.raw_get(<const uint8_t*>view.buf, view.len // 8, <uint8_t*>PyBytes_AS_STRING(states))
        finally:
            PyBuffer_Release(&view)
        return states

    def get_ages(self, keys, now_ms):
        """Whole ticks since each key's last heartbeat, one byte a key; 255 where it is not online."""
        cdef Py_buffer view
        cdef bytes ages
        cdef int64_t now = checked_ms(now_ms, "now_ms")
        keys_of(keys, &view)
        try:
            ages = PyBytes_FromStringAndSize(NULL, view.len // 8)
            self.raw_advance(now)
            self.raw_ages(<const uint8_t*>view.buf, view.len // 8, <uint8_t*>PyBytes_AS_STRING(ages))
        finally:
            PyBuffer_Release(&view)
        return ages

    def get_last_seen(self, keys, now_ms):
        """Seconds since each user was last seen, native u32 a key; 2^32 - 1 where online or not known."""
        cdef Py_buffer view
        cdef bytes ages
        cdef int64_t now = checked_ms(now_ms, "now_ms")
        if not self._remembers:
            raise ValueError("this table remembers nobody: last_seen_ms is 0")
        keys_of(keys, &view)
        try:
            ages = PyBytes_FromStringAndSize(NULL, view.len // 2)
            self.raw_advance(now)
            read_last_seen(
                self, <const uint8_t*>view.buf, view.len // 8, <uint32_t*>PyBytes_AS_STRING(ages))
        finally:
            PyBuffer_Release(&view)
        return ages

    # --- growing and shrinking, in place ---

    cdef void _resize(self) noexcept nogil:
        """Start to grow where that is due, and pay for the batch's new users."""
        cdef uint64_t to
        if not self._phase:
            to = self._lines_next(0)
            if to:
                self._begin(to)
        if self._phase:
            self._migrate(self._pay)
        self._pay = 0

    cdef uint64_t _lines_next(self, int early_percent) noexcept nogil:
        """Lines to grow to, if that is due at a load lower by ``early_percent``; else 0."""
        cdef uint64_t n = self._old.lines, full = full_percent(n) - early_percent, to, spare
        if (self._held + self._annex.count) * 100 <= n * capacity(self._old.kind) * full:
            return 0
        to = n + growth_of(n) + 1
        if self._memory_max:
            # A sixteenth of it is not for lines: moving them may need cells of the annex.
            spare = self._memory_max - self._memory_max // 16
            to = min(to, n + (max(spare, self._memory()) - self._memory()) // LINE)
        to = min(to, <uint64_t>self._reserve_lines)
        return to if to > n + (n >> 6) else 0

    cdef void _begin(self, uint64_t lines) noexcept nogil:
        """Start to migrate to ``lines`` lines: backward from the end to grow, forward to shrink."""
        self._new = geometry_of(lines, self._shift_min)
        self._phase = GROWING if lines > self._old.lines else SHRINKING
        self._frontier = self._old.lines if self._phase == GROWING else 0
        self._migration_began = self._hand
        self._block = -1

    cdef uint64_t _populate_from(self, uint64_t* last) noexcept nogil:
        """The next lines, up to ``last``, whose memory growing will be the first to touch; none if it is
        ``last``."""
        cdef uint64_t n = self._old.lines, to = self._new.lines, at = to, ahead
        if self._phase == IDLE:
            at = to = self._lines_next(POPULATE_EARLY_PERCENT)
        elif self._phase == GROWING:
            at = home_of(&self._new, first_of(&self._old, self._frontier) - 1)
        if to <= n:
            return last[0]
        if to != self._populated_of:
            self._populated_of = to
            self._populated = to + 1
        last[0] = min(self._populated, at + 1)  # what lies behind has been written to
        ahead = min(at, min(<uint64_t>POPULATE_LINES, n >> 5))
        if last[0] <= max(n + 1, at - ahead):
            return last[0]
        return (last[0] - 1) // BLOCK_LINES * BLOCK_LINES

    cdef uint64_t _migrate(self, uint64_t budget) noexcept nogil:
        """Move up to about ``budget`` home lines; returns how many."""
        cdef uint64_t n = self._old.lines, done = 0, to
        cdef uint64_t edge = min(
            n, 2 * n // (self._new.lines - n if self._phase == GROWING else n - self._new.lines) + REACH + 4)
        while self._phase and done < budget:
            if self._phase == GROWING:
                if self._frontier <= edge:
                    done += self._frontier
                    self._migrate_homes(0, self._frontier)
                else:
                    to = self._frontier - min(budget - done, self._frontier - edge)
                    done += self._frontier - to
                    self._grow(to)
                if self._frontier == 0:
                    self._finish()
            else:
                if self._frontier == 0:
                    done += edge
                    self._migrate_homes(0, edge)
                else:
                    done += 1
                    self._migrate_homes(self._frontier, self._frontier + 1)
                if self._frontier == n:
                    self._finish()
        return done

    cdef void _grow(self, uint64_t stop) noexcept nogil:
        """Migrate the homes from the frontier down to ``stop``: read line by line, place, write line by line.

        New lines lie ahead of what is read. A home's users go to at most four of them; those behind the first
        get nobody any more and are written. Only the first to be written may have been written to before.
        """
        cdef Filling[4] fillings
        cdef uint64_t[24] rests
        cdef uint8_t[24] codes
        cdef const Geometry* old = &self._old
        cdef uint64_t at = self._frontier, low, last = first_of(old, at) - 1, to = home_of(&self._new, last)
        cdef uint64_t touched = to
        cdef int number, i
        cdef bint far
        cdef uint8_t* line
        for i in range(4):
            fillings[i].number = 0
            fillings[i].far = False
        while at > stop:
            at -= 1
            low = first_of(old, at)
            line = self._base + at * LINE
            fetch(line - FETCH_LINES * LINE)
            far = line[META] & ANNEX
            number = self._take_home(line, rests, codes)
            for i in range(number):
                if self._rank[codes[i]]:
                    self._fill_in(fillings, mixed_at(old, low, rests[i]), codes[i], 48)
                elif self._remembers:
                    hand_over(self, mixed_at(old, low, rests[i]), self._gone[codes[i]])
            if far and not self._pull(low, last, fillings):
                for i in range(<int>(home_of(&self._new, last) - home_of(&self._new, low)) + 1):
                    fillings[(home_of(&self._new, low) + i) & 3].far = True
            memset(line + LINE, 0, LINE)  # all bytes, for another layout may come
            self._frontier = at
            last = low - 1
            while to > home_of(&self._new, low):
                self._write_line(to, &fillings[to & 3], to != touched)
                to -= 1
        self._write_line(to, &fillings[to & 3], to != touched)

    cdef int _take_home(self, uint8_t* line, uint64_t* rests, uint8_t* codes) noexcept nogil:
        """Take the users of an old home out of it and the next line; returns how many. Its guests stay."""
        cdef int kind = self._old.kind, c = capacity(kind), natives = c - guests(line), first
        cdef uint8_t* beside = line + LINE
        cdef int number = take(line, kind, 0, natives, rests, codes)
        if line[META] & NEXT:
            first = c - guests(beside)
            number += take(beside, kind, first, c, rests + number, codes + number)
            memset(beside + c + first, 0, c - first)
            set_guests(beside, 0)
        memset(line, 0, natives)
        memset(line + c, 0, natives)
        clear(line, NEXT | ANNEX)
        self._held -= number
        return number

    cdef bint _fill_in(self, Filling* fillings, uint64_t mixed, uint8_t code, int room) noexcept nogil:
        """Add a user to the new line it belongs to; False if more than ``room`` would be in it."""
        cdef wide product = <wide>mixed * self._new.lines
        cdef Filling* filling = &fillings[<uint64_t>(product >> 64) & 3]
        if filling.number >= room:
            return False
        filling.rests[filling.number] = <uint64_t>product >> self._new.shift
        filling.codes[filling.number] = code
        filling.number += 1
        return True

    cdef void _write_line(self, uint64_t at, Filling* filling, bint fresh) noexcept nogil:
        """Write a line of the new order, ``fresh`` if it holds nobody yet; who does not fit finds a place."""
        cdef uint8_t* line = self._base + at * LINE
        cdef int i = 0
        cdef Place place
        if fresh:
            i = min(filling.number, capacity(self._new.kind))
            fill(line, self._new.kind, filling.rests, filling.codes, i)
            self._held += i
        if filling.far:
            line[META] |= ANNEX
        while i < filling.number:
            place_of(self, mixed_at(&self._new, first_of(&self._new, at), filling.rests[i]), &place)
            self._insert(&place, filling.codes[i], self._rank[filling.codes[i]], True)
            i += 1
        filling.number = 0
        filling.far = False

    cdef void _migrate_homes(self, uint64_t first, uint64_t last) noexcept nogil:
        """Take the entries of home lines ``first..last-1`` out of the old order and place them in the new.

        Shrinking, one home at a time, whose new places end before ``last``. That holds from ``edge`` on:
        nearer to the front a single call takes all homes at once, growing or shrinking.
        """
        cdef uint64_t[HOMES * 22] mixed
        cdef uint8_t[HOMES * 22] codes
        cdef uint8_t[HOMES] far
        cdef int number, i, taken = 0
        cdef uint64_t at, low, target, stop
        cdef uint8_t* line
        cdef Place place
        for at in range(first, last):
            line = self._base + at * LINE
            low = first_of(&self._old, at)
            far[at - first] = line[META] & ANNEX
            number = taken + self._take_home(line, mixed + taken, codes + taken)
            for i in range(taken, number):
                if self._rank[codes[i]]:
                    mixed[taken] = mixed_at(&self._old, low, mixed[i])
                    codes[taken] = codes[i]
                    taken += 1
                elif self._remembers:
                    hand_over(self, mixed_at(&self._old, low, mixed[i]), self._gone[codes[i]])
        # Growing, also the line that had the last home's guests; all bytes, for another layout may come.
        memset(self._base + first * LINE, 0, (last - first + (self._phase == GROWING)) * LINE)
        self._frontier = first if self._phase == GROWING else last
        for i in range(taken):
            place_of(self, mixed[i], &place)
            self._insert(&place, codes[i], self._rank[codes[i]], True)
        for at in range(first, last):
            if far[at - first]:
                low = first_of(&self._old, at)
                stop = first_of(&self._old, at + 1) - 1
                if not self._pull(low, stop, NULL):
                    target = home_of(&self._new, low)
                    while target <= home_of(&self._new, stop):
                        self._base[target * LINE + META] |= ANNEX
                        target += 1

    cdef void _finish(self) noexcept nogil:
        """The migration is through: the new order is the only one."""
        cdef uint64_t block = self._new.lines // BLOCK_LINES + 1, size
        cdef uint64_t last = max(self._old.lines, self._populated_of) // BLOCK_LINES
        if self._phase == GROWING:
            self._grown += 1
        else:
            self._shrunk += 1
            if block <= last:
                size = (last - block + 1) * BLOCK_LINES * LINE
                madvise(self._base + block * BLOCK_LINES * LINE, size, MADV_DONTNEED)
            self._populated_of = 0
        self._old = self._new
        self._phase = IDLE
        self._reset_blocks(self._migration_began)

    cdef void _empty(self) noexcept nogil:
        """Nothing is held: go back to the smallest table and give everything else to the system."""
        cdef uint64_t lines = max(self._old.lines, self._new.lines, self._populated_of)
        memset(self._base, 0, (min(lines, <uint64_t>BLOCK_LINES) + 1) * LINE)
        madvise(self._base, (lines // BLOCK_LINES + 1) * BLOCK_LINES * LINE, MADV_DONTNEED)
        if lines > self._lines_min:
            self._shrunk += 1
        self._old = geometry_of(self._lines_min, self._shift_min)
        self._new = self._old
        self._populated_of = 0
        self._phase = IDLE
        self._credit = 0
        self._cell_credit = 0
        self._reset_blocks(self._hand)

    # --- sweeping ---

    cdef void _reset_blocks(self, int64_t tick) noexcept nogil:
        """All blocks count as visited at ``tick``."""
        cdef uint64_t i
        self._blocks = self._old.lines // BLOCK_LINES + 1
        for i in range(self._blocks):
            self._visited[i] = tick
        self._choose_block()

    cdef void _choose_block(self) noexcept nogil:
        """Next, sweep the block that was visited longest ago."""
        cdef uint64_t i, best = 0
        for i in range(1, self._blocks):
            if self._visited[i] < self._visited[best]:
                best = i
        self._block = best
        self._block_line = best * BLOCK_LINES
        self._oldest = self._visited[best]

    cdef uint64_t _sweep(self, uint64_t budget) noexcept nogil:
        """Sweep ``budget`` lines, blocks in the order of their last visit."""
        cdef uint64_t done = 0, start, end, noted = self._noted()
        if self._block < 0:
            self._choose_block()
        while done + GONE_LINES * (self._noted() - noted) < budget:
            start = self._block * <uint64_t>BLOCK_LINES
            end = min(start + BLOCK_LINES, self._old.lines + 1)
            if self._block_line == start:
                self._block_began = self._hand
                self._block_empty = True
            while self._block_line < end and done + GONE_LINES * (self._noted() - noted) < budget:
                fetch(self._base + (self._block_line + FETCH_LINES) * LINE)
                if not self._sweep_line(self._block_line):
                    self._block_empty = False
                self._block_line += 1
                done += 1
            if self._block_line == end:
                # What came into a line after its visit is seen by a second look, before the block is given
                # back.
                if self._block_empty and self._block_still_empty(start, end):
                    madvise(self._base + start * LINE, BLOCK_LINES * LINE, MADV_DONTNEED)
                    self._released += 1
                self._visited[self._block] = self._block_began
                self._choose_block()
        self._swept += done
        return done

    cdef uint64_t _noted(self) noexcept nogil:
        """How many were handed over so far."""
        return self._seen.noted if self._remembers else 0

    cdef bint _block_still_empty(self, uint64_t start, uint64_t end) noexcept nogil:
        cdef uint64_t at
        for at in range(start, end):
            if not vacant(self._base + at * LINE, self._old.kind):
                return False
        return True

    cdef bint _sweep_line(self, uint64_t at) noexcept nogil:
        """Drop what has expired in one line and take back from the annex what fits; True if nothing is
        left."""
        cdef uint8_t* line = self._base + at * LINE
        cdef int kind = self._old.kind, c = capacity(kind), i, live = 0
        cdef uint8_t first = self._code(1)
        if not line[META] & ANNEX and not expired(line, kind, first, self._span):
            return vacant(line, kind)
        if self._remembers:
            hand_over_line(self, at)
        for i in range(c - guests(line)):
            if self._rank[line[c + i]]:
                live += 1
            elif line[c + i]:
                line[c + i] = 0
                self._held -= 1
        if line[META] & FLAGS:
            i = c - 1
            while i >= c - guests(line):
                if self._rank[line[c + i]]:
                    live += 1
                    i -= 1
                else:
                    drop_guest(line, kind, i)
                    self._held -= 1
                    if i < c - guests(line):
                        break
            if line[META] & ANNEX and live < c:
                if self._pull(first_of(&self._old, at), first_of(&self._old, at + 1) - 1, NULL):
                    clear(line, ANNEX)
        return not live and not line[META] & FLAGS

    cdef bint _pull(self, uint64_t low, uint64_t high, Filling* fillings) noexcept nogil:
        """Take the keys ``low..high`` back from the annex into ``fillings``, or if NULL into lines;
        True if neither store has any left."""
        cdef Place place
        cdef Hit hit
        cdef uint32_t deadline
        cdef uint64_t mixed
        cdef int rank
        cdef int64_t left
        cdef bint settled
        while self._annex.count:
            hit = cells_first(&self._annex, low, high)
            if hit.cell == NULL:
                break
            memcpy(&deadline, payload_in(&self._annex, hit.cell, hit.i), 4)
            rank = <int32_t>(deadline - <uint32_t>self._tick)
            if rank > 0:
                mixed = keys_in(hit.cell)[hit.i]
                if fillings != NULL:
                    settled = self._fill_in(fillings, mixed, self._code(rank), PULLED)
                else:
                    place_of(self, mixed, &place)
                    settled = self._settle(&place, self._code(rank))
                if not settled:
                    return False
            elif self._remembers:
                hand_over(self, keys_in(hit.cell)[hit.i], self._tick + rank)
            cells_remove(&self._annex, hit)
        while self._ledger.count:
            hit = cells_first(&self._ledger, low, high)
            if hit.cell == NULL:
                break
            memcpy(&left, payload_in(&self._ledger, hit.cell, hit.i), 8)
            if self._tick_of(left) + self._ticks + 1 > self._tick:
                return False
            cells_remove(&self._ledger, hit)
        return True

    cdef void _sweep_cell(self, Cells* cells, uint32_t* hand, bint ledger) noexcept nogil:
        """Drop the expired entries of one cell; where that merges or moves cells, the hand waits a turn."""
        cdef uint32_t used = cells.used, word
        cdef Cell* cell
        cdef Hit hit
        cdef int64_t left
        cdef bint dead
        cdef int i
        if hand[0] >= used:
            hand[0] = 0
        cell = cell_at(cells, hand[0])
        i = cell.count - 1
        while i >= 0:
            if ledger:
                memcpy(&left, payload_in(cells, cell, i), 8)
                dead = self._tick_of(left) + self._ticks + 1 <= self._tick
            else:
                memcpy(&word, payload_in(cells, cell, i), 4)
                dead = <int32_t>(word - <uint32_t>self._tick) <= 0
                if dead and self._remembers:
                    hand_over(self, keys_in(cell)[i], self._tick + <int32_t>(word - <uint32_t>self._tick))
            if dead:
                hit.cell = cell
                hit.i = i
                cells_remove(cells, hit)
                if cells.used != used or not cells.count:
                    return
            i -= 1
        hand[0] += 1

    cdef uint64_t raw_maintain(self, uint64_t lines) noexcept nogil:
        cdef uint64_t done = 0, total, to, noted = self._noted()
        cdef int _i, c
        if not self._held and not self._annex.count and not self._ledger.count:
            if self._credit or self._phase:
                self._empty()
            return 0
        while self._cell_credit and done + CELL_LINES <= lines:
            if self._annex.count:
                self._sweep_cell(&self._annex, &self._annex_hand, False)
            if self._ledger.count:
                self._sweep_cell(&self._ledger, &self._ledger_hand, True)
            self._cell_credit -= 1
            done += CELL_LINES + GONE_LINES * (self._noted() - noted)
            noted = self._noted()
        if not self._phase and self._old.lines > self._lines_min:
            total = self._held + self._annex.count
            if total * 100 < self._old.lines * capacity(self._old.kind) * POOR_PERCENT:
                to = self._old.lines
                for _i in range(2):  # the second time with the capacity of what the first one found
                    c = capacity(geometry_of(to, self._shift_min).kind)
                    to = max(self._lines_min, total * 100 // (c * FIT_PERCENT) + 2)
                if to <= self._old.lines // 10 * 9:
                    self._begin(to)
        to = min(self._credit, lines - min(done, lines))
        if to:
            # All users of a line that is migrated may have to be handed over.
            if not self._phase:
                done = self._sweep(to)
            else:
                done = self._migrate((to + GONE_LINES - 1) // GONE_LINES if self._remembers else to)
            self._credit -= min(self._credit, done)
        return self._credit + CELL_LINES * self._cell_credit

    def maintain(self, now_ms, lines):
        """Do up to ``lines`` lines of housekeeping; returns how many lines more are due now."""
        cdef uint64_t budget = checked_count(lines, "lines", 0, 2**62)
        self.raw_advance(checked_ms(now_ms, "now_ms"))
        due = self.raw_maintain(budget)
        if self._remembers:
            due += self._seen.raw_maintain(budget)
        self._debug()
        return due

    @property
    def populate_due(self):
        """Whether ``populate`` has something to do."""
        cdef uint64_t last = 0
        return self._populate_from(&last) != last

    def populate(self):
        """Have the system find 2 MiB that growing needs next. It may block for milliseconds, without the GIL:
        for another thread, so that the one that uses the table need not wait for the system then."""
        cdef uint64_t last = 0, first = self._populate_from(&last)
        if first == last:
            return
        self._populated = first
        with nogil:  # where the system does not know this advice, growing will find the memory by itself
            madvise(self._base + first * LINE, (last - first) * LINE, MADV_POPULATE_WRITE)

    # --- facts ---

    @property
    def ttl_ms(self):
        """How long a heartbeat counts."""
        return self._ttl

    @property
    def tick_ms(self):
        """Length of a tick, ``ttl_ms / ticks_per_ttl``."""
        return <double>self._ttl / <double>self._ticks

    @property
    def online(self):
        """Users online at the last ``now_ms``, over all groups."""
        return self._online

    @property
    def last_seen(self):
        """Those who went offline, a ``LastSeen``; None if the table remembers nobody."""
        return self._seen

    @property
    def entries(self):
        """Entries held: online users, leaves remembered, and expired ones not yet swept."""
        return self._held + self._annex.count + self._ledger.count

    @property
    def memory_bytes(self):
        """Bytes in use for lines, annex, ledger and counters; what is resident may be less."""
        return self._memory()

    def stats(self):
        """Plain ints for metrics; the same names in the twin and the kernel."""
        return dict(zip(_reference.STATS, (
            self._old.lines,
            capacity(self._old.kind),
            self._held,
            self._annex.count,
            self._ledger.count,
            int(self._phase != IDLE),
            int(self._huge),
            self._grown,
            self._shrunk,
            self._swept,
            self._forced,
            self._released,
            self._sum.accepted,
            self._sum.stale,
            self._sum.refused,
            self._sum.moved,
            self._expired,
        ), strict=True))

    # --- invariants ---

    cdef int _debug(self) except -1:
        if DEBUG and self._old.lines < 2048:
            recount(self)
        return 0

    def _verify(self):
        """Recount everything; AssertionError where the table contradicts itself. O(entries): for tests."""
        recount(self)


# --- the hot path, inlined into its loops ---


cdef inline int beat(
    Table table, const Place* place, uint64_t slot, uint8_t code, int rank, int64_t said,
) noexcept nogil:
    cdef uint8_t* line
    cdef uint8_t* at
    cdef int i = slot_in_line(place, &line), before
    cdef uint8_t old
    cdef uint16_t group
    if i < 0:
        return table._beat_new(place, slot, code, rank, said)
    at = line + capacity(place.kind) + i
    old = at[0]
    before = table._rank[old]
    if before >= rank:
        return ACCEPTED
    if before and table._groups_of[old] == table._groups_of[code]:
        group = table._groups_of[code][slot]
        table._counters[old * table._groups_room + group] -= 1
        table._counters[code * table._groups_room + group] += 1
    elif before:
        table._count_out(slot, old)
        table._count_in(slot, code)
    elif table._users_max and table._online >= table._users_max:
        return REFUSED
    else:
        table._count_in(slot, code)
        tell(table, place, APPEARS, rank)
    at[0] = code
    return ACCEPTED


cdef inline void tell(Table table, const Place* place, int what, int rank) noexcept nogil:
    if table._watcher != NULL:
        table._told(table._watcher, key_of(place.mixed), what, rank)
