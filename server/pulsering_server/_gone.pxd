"""Those who are gone: handed over before their entry is dropped, and when each was last seen.

An expired entry says when its user was last seen for as long as it lies in its line or in the annex; whatever
drops it hands it over first, if the table remembers at all. Invariant: that of a user is known in the table
or in the store, and where in both, the table's is not the earlier one.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from pulsering_server._cells cimport Hit, cells_find, payload_in
from pulsering_server._geometry cimport Geometry, first_of, key_of, mixed_at
from pulsering_server._line cimport (
    ANNEX, LINE, META, capacity, empty_native, expired, guests, load64, rest_at,
)
from pulsering_server._place cimport GROUP, PLACES, fetch_group, slot_in_line
from pulsering_server._table cimport GROWING, SHRINKING, Place, Table

cdef enum:
    NONE_32 = 0xFFFFFFFF
    ONLINE_32 = 0xFFFFFFFE  # while a batch is looked up: nobody to look for elsewhere


cdef inline int64_t deadline_of(Table table, uint8_t code) noexcept nogil:
    """The deadline tick that a code means, alive or expired."""
    return table._tick + table._rank[code] if table._rank[code] else table._gone[code]


cdef inline int64_t second_of(Table table, int64_t deadline) noexcept nogil:
    """The second of the heartbeat that a deadline tick is of."""
    return max(deadline - table._ticks - 1, <int64_t>0) * table._ttl // (table._ticks * 1000)


cdef inline void hand_over(Table table, uint64_t mixed, int64_t deadline) noexcept nogil:
    table._seen.raw_note(key_of(mixed), second_of(table, deadline))


cdef inline void hand_over_line(Table table, uint64_t at) noexcept nogil:
    """Hand over whoever has expired in a line; they stay there."""
    cdef bint is_new = table._phase == GROWING and at > table._frontier
    cdef const Geometry* g = &table._old
    cdef const uint8_t* line = table._base + at * LINE
    cdef int c, i
    if is_new or table._phase == SHRINKING and at < table._frontier:
        g = &table._new
    c = capacity(g.kind)
    for i in range(c):
        if line[c + i] and not table._rank[line[c + i]]:
            hand_over(
                table,
                mixed_at(g, first_of(g, at - (i >= c - guests(line))), rest_at(line, g.kind, i)),
                table._gone[line[c + i]],
            )


cdef inline void hand_over_on_way(Table table, const Place* place) noexcept nogil:
    """Hand over those of whom ``settle`` may drop one: the expired in the first line where it finds room."""
    cdef uint8_t* line = place.line
    for _ in range(table._reach(place) + 1):
        if empty_native(line, place.kind) >= 0:
            return
        if expired(line, place.kind, table._code(1), table._span):
            hand_over_line(table, (line - table._base) // LINE)
            return
        line += LINE


cdef inline int64_t deadline_held(Table table, const Place* place) noexcept nogil:
    """The deadline tick of a key that is held, also when it has passed; 0 if it is not, or has left."""
    cdef uint8_t* line
    cdef int i = slot_in_line(place, &line)
    cdef int64_t beat = 0
    cdef uint32_t word
    cdef Hit hit
    if i >= 0:
        return deadline_of(table, line[capacity(place.kind) + i])
    if not place.line[META] & ANNEX:
        return 0
    if table._rank_far(place.mixed, &beat):
        return table._tick + 1
    hit = cells_find(&table._annex, place.mixed)
    if hit.cell == NULL:
        return 0
    memcpy(&word, payload_in(&table._annex, hit.cell, hit.i), 4)
    return table._tick + <int32_t>(word - <uint32_t>table._tick)


cdef inline void read_last_seen(Table table, const uint8_t* keys, size_t n, uint32_t* ages) noexcept nogil:
    """Seconds since each user was last seen; NONE_32 where online, or where nothing is known."""
    cdef Place[PLACES] places
    cdef int64_t deadline
    cdef size_t i
    fetch_group(table, keys, 0, n, places)
    for i in range(n):
        if i % GROUP == 0:
            fetch_group(table, keys, i + GROUP, n, places)
        deadline = deadline_held(table, &places[i % PLACES])
        ages[i] = NONE_32
        if deadline > table._tick:
            ages[i] = ONLINE_32
        elif deadline:
            ages[i] = table._seen.raw_age(second_of(table, deadline))
    table._seen.raw_find(keys, n, ages)
    for i in range(n):
        if ages[i] == ONLINE_32:
            ages[i] = NONE_32
