"""The table's internal header, for native callers that run frames from a socket buffer without Python
objects.

The ``raw`` methods take packed little-endian u64 keys at any alignment, need no GIL beyond exclusive use of
the table, and expect ``raw_advance`` to have been called with the same ``now``.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from pulsering_server._cells cimport Cells
from pulsering_server._geometry cimport Geometry
from pulsering_server._last_seen cimport LastSeen

cdef enum:
    IDLE = 0
    GROWING = 1
    SHRINKING = 2

cdef struct RawTally:
    uint64_t accepted
    uint64_t stale
    uint64_t refused
    uint64_t moved

cdef struct Place:
    uint8_t* line
    uint64_t rest
    uint64_t mixed
    int kind

cdef struct Filling:
    # A line of the new order on its way: first the natives, then those that will have to be guests.
    int number
    bint far           # some of its keys stay in the annex or the ledger
    uint64_t[48] rests
    uint8_t[48] codes

cdef enum:
    # As in _table_reference.
    APPEARS = 0
    STAYS = 1
    LEAVES = 2

# What a table tells who watches: ``rank`` ticks from now the user is offline.
ctypedef void (*Told)(void* watcher, uint64_t key, int what, int rank) noexcept nogil

cdef struct Grouping:
    int64_t first      # deadline tick from which it counts
    uint16_t* groups


@cython.final
cdef class Table:
    cdef uint8_t* _base
    cdef size_t _reserve
    cdef size_t _reserve_lines
    cdef uint8_t* _mapping
    cdef Geometry _old
    cdef Geometry _new
    cdef int _phase
    cdef uint64_t _frontier
    cdef int64_t _migration_began
    cdef uint64_t _populated_of  # lines to grow to
    cdef uint64_t _populated  # of those, from here on they have their memory
    cdef Cells _annex
    cdef Cells _ledger
    cdef uint64_t _held
    cdef uint64_t _online
    cdef uint64_t _lines_min
    cdef int _shift_min  # for tests: layouts of large tables at small sizes, for keys that have so few bits
    cdef uint64_t _pay

    cdef int64_t _ttl
    cdef int64_t _ticks
    cdef int64_t _now
    cdef int64_t _tick
    cdef int64_t _hand
    cdef int64_t _newest
    cdef uint8_t[256] _rank
    cdef int _span
    cdef uint16_t* _groups_of[256]

    cdef uint32_t* _counters
    cdef uint64_t* _totals
    cdef uint32_t _groups_room
    cdef Grouping* _groupings
    cdef int _groupings_used
    cdef uint8_t* _absent

    cdef Told _told
    cdef void* _watcher  # NULL while nobody is watched
    cdef LastSeen _seen
    cdef bint _remembers
    cdef int64_t[256] _gone  # by code, the tick at which it last expired

    cdef uint64_t _users_max
    cdef uint64_t _memory_max
    cdef bint _huge

    cdef int64_t* _visited
    cdef uint64_t _visited_room
    cdef uint64_t _blocks
    cdef int64_t _block
    cdef uint64_t _block_line
    cdef int64_t _block_began
    cdef bint _block_empty
    cdef int64_t _oldest
    cdef uint64_t _credit
    cdef uint64_t _cell_credit
    cdef uint32_t _annex_hand
    cdef uint32_t _ledger_hand

    cdef uint64_t _grown
    cdef uint64_t _shrunk
    cdef uint64_t _swept
    cdef uint64_t _forced
    cdef uint64_t _released
    cdef uint64_t _expired
    cdef RawTally _sum

    cdef void raw_advance(self, int64_t now_ms) noexcept nogil
    cdef RawTally raw_heartbeat(self, const uint8_t* keys, size_t n, int64_t age_ms) noexcept nogil
    cdef RawTally raw_leave(
        self, const uint8_t* keys, size_t n, int64_t age_ms, int64_t grace_ms) noexcept nogil
    cdef void raw_get(self, const uint8_t* keys, size_t n, uint8_t* states) noexcept nogil
    cdef void raw_ages(self, const uint8_t* keys, size_t n, uint8_t* ages) noexcept nogil
    cdef uint32_t raw_groups(self) noexcept nogil
    cdef uint64_t raw_count(self, uint32_t group) noexcept nogil
    cdef uint64_t raw_maintain(self, uint64_t lines) noexcept nogil

    cdef int64_t _tick_of(self, int64_t ms) noexcept nogil
    cdef uint8_t _code(self, int rank) noexcept nogil
    cdef void _direct(self) noexcept nogil
    cdef void _count_in(self, uint64_t slot, uint8_t code) noexcept nogil
    cdef void _count_out(self, uint64_t slot, uint8_t code) noexcept nogil
    cdef RawTally _tallied(self, const uint64_t* tally) noexcept nogil
    cdef bint _may_grow(self) noexcept nogil
    cdef uint64_t _memory(self) noexcept nogil
    cdef bint _insert(self, const Place* place, uint8_t code, int rank, bint may_grow) noexcept nogil
    cdef int _beat_new(
        self, const Place* place, uint64_t slot, uint8_t code, int rank, int64_t said) noexcept nogil
    cdef int _beat_far(
        self, const Place* place, uint64_t slot, uint8_t code, int rank, int64_t said) noexcept nogil
    cdef int _leave_one(
        self, const Place* place, uint64_t slot, int64_t said, int64_t grace) noexcept nogil
    cdef int _rank_far(self, uint64_t mixed, int64_t* beat) noexcept nogil
    cdef void _resize(self) noexcept nogil
    cdef uint64_t _lines_next(self, int early_percent) noexcept nogil
    cdef uint64_t _populate_from(self, uint64_t* last) noexcept nogil
    cdef void _begin(self, uint64_t lines) noexcept nogil
    cdef void _finish(self) noexcept nogil
    cdef uint64_t _migrate(self, uint64_t budget) noexcept nogil
    cdef void _migrate_homes(self, uint64_t first, uint64_t last) noexcept nogil
    cdef uint64_t _sweep(self, uint64_t budget) noexcept nogil
    cdef uint64_t _noted(self) noexcept nogil
    cdef bint _block_still_empty(self, uint64_t start, uint64_t end) noexcept nogil
    cdef int _debug(self) except -1
    cdef int _reach(self, const Place* place) noexcept nogil
    cdef bint _sweep_line(self, uint64_t at) noexcept nogil
    cdef bint _pull(self, uint64_t low, uint64_t high, Filling* fillings) noexcept nogil
    cdef void _grow(self, uint64_t stop) noexcept nogil
    cdef int _take_home(self, uint8_t* line, uint64_t* rests, uint8_t* codes) noexcept nogil
    cdef bint _fill_in(self, Filling* fillings, uint64_t mixed, uint8_t code, int room) noexcept nogil
    cdef void _write_line(self, uint64_t at, Filling* filling, bint fresh) noexcept nogil
    cdef bint _settle(self, const Place* place, uint8_t code) noexcept nogil
    cdef void _sweep_cell(self, Cells* cells, uint32_t* hand, bint ledger) noexcept nogil
    cdef void _choose_block(self) noexcept nogil
    cdef void _reset_blocks(self, int64_t tick) noexcept nogil
    cdef void _empty(self) noexcept nogil
