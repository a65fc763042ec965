"""Where a key lives: its home line in the order that holds it, brought into the cache ahead of its turn.

A loop over keys has two groups of places: while it looks at one, the lines of the next are on their way.
Invariant: a place is good until the table migrates; who migrates places anew what is to come.
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from pulsering_server._line cimport ANNEX, LINE, META, NEXT, capacity, fetch, find, guests, load64, wide
from pulsering_server._geometry cimport Geometry, mixed_of
from pulsering_server._table cimport GROWING, Place, Table

cdef enum:
    GROUP = 12  # keys whose lines are fetched at once: docs/table.md has what more and fewer cost
    PLACES = 2 * 12


cdef inline void place_of(Table table, uint64_t mixed, Place* place) noexcept nogil:
    """Where a key's home is, in the order that holds it."""
    cdef const Geometry* g = &table._old
    cdef wide product = <wide>mixed * g.lines
    cdef uint64_t line = <uint64_t>(product >> 64)
    if table._phase and (line >= table._frontier) == (table._phase == GROWING):
        g = &table._new
        product = <wide>mixed * g.lines
        line = <uint64_t>(product >> 64)
    place.line = table._base + line * LINE
    place.rest = <uint64_t>product >> g.shift
    place.mixed = mixed
    place.kind = g.kind


cdef inline void fetch_home(Table table, const uint8_t* key, Place* place) noexcept nogil:
    """Place a key and have its line brought into the cache; the next too, a fifth of all users are guests."""
    place_of(table, mixed_of(load64(key)), place)
    fetch(place.line)
    fetch(place.line + LINE)


cdef inline void fetch_group(
    Table table, const uint8_t* keys, size_t first, size_t n, Place* places,
) noexcept nogil:
    """Fetch a group of keys in one short loop, so that many searches of the page tables overlap."""
    cdef size_t i
    for i in range(first, min(first + GROUP, n)):
        fetch_home(table, keys + 8 * i, &places[i % PLACES])


cdef inline int slot_in_line(const Place* place, uint8_t** line) noexcept nogil:
    """The slot that holds a key, -1 if none; ``line`` its line, home or next."""
    cdef int c = capacity(place.kind)
    cdef int i = find(place.line, place.kind, place.rest, 0, c - guests(place.line))
    line[0] = place.line
    if i < 0 and place.line[META] & NEXT:
        line[0] = place.line + LINE
        i = find(line[0], place.kind, place.rest, c - guests(line[0]), c)
    return i


cdef inline int rank_of(Table table, const Place* place, int64_t* beat) noexcept nogil:
    """Ticks until the key's deadline, 0 if it is not online; ``beat`` its last heartbeat's tick if it is."""
    cdef uint8_t* line
    cdef int i = slot_in_line(place, &line), rank
    if i < 0:
        return table._rank_far(place.mixed, beat) if place.line[META] & ANNEX else 0
    rank = table._rank[line[capacity(place.kind) + i]]
    beat[0] = table._tick + rank - table._ticks - 1
    return rank
