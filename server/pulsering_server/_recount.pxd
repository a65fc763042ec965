"""The table, recounted: whatever it says of itself is compared with what lies in its lines and cells.

For tests and for builds that check themselves: it makes Python objects a user. Invariant: it changes nothing.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from pulsering_server._cells cimport Cell, cell_at, keys_in, payload_in
from pulsering_server._geometry cimport Geometry, first_of, key_of, mixed_at
from pulsering_server._line cimport LINE, META, NEXT, capacity, guests, rest_at
from pulsering_server._place cimport place_of, rank_of
from pulsering_server._table cimport GROWING, SHRINKING, Place, Table

cdef enum:
    SLOT_SHIFT = 50


cdef inline int recount(Table table) except -1:
    """AssertionError where the table contradicts itself."""
    cdef uint64_t at, low, last = table._old.lines, mixed
    cdef const Geometry* g
    cdef Cell* cell
    cdef uint8_t* line
    cdef uint8_t code
    cdef int i, c, kind, rank, found
    cdef int64_t beat = 0, left
    cdef uint32_t index, word
    cdef Place place
    ranks = {}
    held = 0
    if table._phase == GROWING:
        last = table._new.lines
    for at in range(last + 1):
        g = &table._old
        if (table._phase == GROWING and at > table._frontier) or (
            table._phase == SHRINKING and at < table._frontier
        ):
            g = &table._new
        line = table._base + at * LINE
        kind = g.kind
        c = capacity(kind)
        if at:
            beside = bool((line - LINE)[META] & NEXT)
            assert beside == bool(guests(line)), f"line {at}: {guests(line)} guests, NEXT {beside}"
        for i in range(c):
            code = line[c + i]
            if not code:
                assert i < c - guests(line), f"line {at}: an empty guest"
                continue
            low = first_of(g, at - (i >= c - guests(line)))
            mixed = mixed_at(g, low, rest_at(line, kind, i))
            held += 1
            if table._rank[code]:
                assert mixed not in ranks, f"{key_of(mixed)} is held twice"
                ranks[mixed] = table._rank[code]
    assert held == table._held, f"{held} entries in lines, {table._held} counted"
    numbers = 0
    for index in range(table._annex.used):
        cell = cell_at(&table._annex, index)
        for i in range(cell.count):
            numbers += 1
            memcpy(&word, payload_in(&table._annex, cell, i), 4)
            rank = <int32_t>(word - <uint32_t>table._tick)
            if rank > 0:
                assert keys_in(cell)[i] not in ranks, "held in line and annex"
                ranks[keys_in(cell)[i]] = rank
    assert numbers == table._annex.count, f"{numbers} entries in the annex, {table._annex.count} counted"
    numbers = 0
    for index in range(table._ledger.used):
        cell = cell_at(&table._ledger, index)
        for i in range(cell.count):
            numbers += 1
            memcpy(&left, payload_in(&table._ledger, cell, i), 8)
            memcpy(&word, payload_in(&table._ledger, cell, i) + 8, 4)
            rank = <int32_t>(word - <uint32_t>table._tick)
            if rank > 0 and table._tick_of(left) + table._ticks + 1 > table._tick:
                assert keys_in(cell)[i] not in ranks, "held in ledger and elsewhere"
                ranks[keys_in(cell)[i]] = rank
    assert numbers == table._ledger.count, f"{numbers} entries in the ledger, {table._ledger.count} counted"
    totals = [0] * table._groups_room
    for known, rank in ranks.items():
        mixed = known
        place_of(table, mixed, &place)
        found = rank_of(table, &place, &beat)
        assert found == rank, f"{key_of(mixed)}: held with rank {rank}, found with {found}"
        totals[table._groups_of[table._code(rank)][key_of(mixed) >> SLOT_SHIFT]] += 1
    counted = [table._totals[i] for i in range(table._groups_room)]
    assert totals == counted, f"recount {totals}, counters {counted}"
    assert len(ranks) == table._online, f"recount {len(ranks)}, online {table._online}"
    return 0
