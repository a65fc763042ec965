"""One 64-byte cache line of the table: where its entries' bits lie, and how to find, put, move and drop one.

A line is a structure of arrays: C tags (low 8 bits of the key's rest), C codes (the deadline's spoke, 0 =
empty), C packed fields (the other bits of the rest), and in the top six bits of byte 63: a guest count, NEXT
and ANNEX. Natives fill slots from 0; guests, entries whose home is the line before, fill slots from C - 1
down. All-zero is a valid empty line. Words are read by memcpy as little-endian, so alignment and byte order
do not matter. Invariant: a line with guests has NEXT set in the line before it, and no line else has.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    #ifndef PULSERING_INTRINSICS
    #define PULSERING_INTRINSICS
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    #define pulsering_le64(x) __builtin_bswap64(x)
    #else
    #define pulsering_le64(x) ((unsigned long long)(x))
    #endif
    #define pulsering_ctz(x) __builtin_ctzll(x)
    /* Without the barrier gcc takes a function that only prefetches for one without effect: no calls. */
    static inline void pulsering_fetch(const void *p) { __builtin_prefetch(p, 1, 3); __asm__ volatile(""); }
    #define pulsering_likely(x) __builtin_expect(!!(x), 1)
    __extension__ typedef unsigned __int128 pulsering_wide;
    #endif
    """
    ctypedef uint64_t wide "pulsering_wide"
    uint64_t le64 "pulsering_le64"(uint64_t) noexcept nogil
    int ctz "pulsering_ctz"(uint64_t) noexcept nogil
    void fetch "pulsering_fetch"(const void*) noexcept nogil
    bint likely "pulsering_likely"(bint) noexcept nogil

cdef enum:
    LINE = 64
    META = 63
    GUEST_SHIFT = 2
    GUESTS = 15 << 2
    NEXT = 1 << 6
    ANNEX = 1 << 7
    FLAGS = 63 << 2  # the two bits below belong to a field where C = 11
    KINDS = 4


# The four layouts: 6 entries of 64 bits of rest, 9 of 48 (from 2^16 lines), 10 of 42 (2^22), 11 of 38 (2^26).
cdef inline int capacity(int kind) noexcept nogil:
    return 11 if kind == 3 else 10 if kind == 2 else 9 if kind == 1 else 6


cdef inline uint64_t load64(const uint8_t* at) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, at, 8)
    return le64(value)


cdef inline void store64(uint8_t* at, uint64_t value) noexcept nogil:
    value = le64(value)
    memcpy(at, &value, 8)


cdef inline int guests(const uint8_t* line) noexcept nogil:
    return (line[META] & GUESTS) >> GUEST_SHIFT


cdef inline void set_guests(uint8_t* line, int number) noexcept nogil:
    line[META] = <uint8_t>((line[META] & ~GUESTS) | (number << GUEST_SHIFT))


cdef inline void clear(uint8_t* line, int flags) noexcept nogil:
    line[META] &= <uint8_t>~flags


# A field is read with one 8-byte load that never passes the end of the line.
cdef inline uint64_t field_c(const uint8_t* line, int c, int w, int i) noexcept nogil:
    cdef int bit = 16 * c + i * w
    cdef int byte = bit >> 3
    if byte > 56:
        byte = 56
    return (load64(line + byte) >> (bit - 8 * byte)) & ((<uint64_t>1 << w) - 1)


cdef inline void set_field_c(uint8_t* line, int c, int w, int i, uint64_t value) noexcept nogil:
    cdef int bit = 16 * c + i * w
    cdef int byte = bit >> 3
    if byte > 56:
        byte = 56
    cdef int shift = bit - 8 * byte
    cdef uint64_t mask = ((<uint64_t>1 << w) - 1) << shift
    store64(line + byte, (load64(line + byte) & ~mask) | (value << shift))


cdef inline uint64_t field(const uint8_t* line, int kind, int i) noexcept nogil:
    if kind == 3:
        return field_c(line, 11, 30, i)
    if kind == 2:
        return field_c(line, 10, 34, i)
    if kind == 1:
        return field_c(line, 9, 40, i)
    return field_c(line, 6, 56, i)


cdef inline void put(uint8_t* line, int kind, int i, uint64_t rest, uint8_t code) noexcept nogil:
    """Write slot ``i``."""
    line[i] = <uint8_t>rest
    line[capacity(kind) + i] = code
    if kind == 3:
        set_field_c(line, 11, 30, i, rest >> 8)
    elif kind == 2:
        set_field_c(line, 10, 34, i, rest >> 8)
    elif kind == 1:
        set_field_c(line, 9, 40, i, rest >> 8)
    else:
        set_field_c(line, 6, 56, i, rest >> 8)


cdef inline uint64_t rest_at(const uint8_t* line, int kind, int i) noexcept nogil:
    return field(line, kind, i) << 8 | line[i]


cdef inline void move(uint8_t* line, int kind, int source, int target) noexcept nogil:
    put(line, kind, target, rest_at(line, kind, source), line[capacity(kind) + source])


cdef inline int find_c(const uint8_t* line, int c, int w, uint64_t rest, int first, int last) noexcept nogil:
    """Slot in ``first..last-1`` that holds ``rest``, or -1. Eight tags are compared at a time."""
    cdef uint64_t ones = 0x0101010101010101
    cdef uint64_t tags = (rest & 255) * ones
    cdef uint64_t high = rest >> 8
    cdef uint64_t x = load64(line) ^ tags
    cdef uint64_t hits = (x - ones) & ~x & (ones << 7)
    cdef int i
    if c < 8:
        hits &= (<uint64_t>1 << (8 * c)) - 1
    while hits:
        i = ctz(hits) >> 3
        if field_c(line, c, w, i) == high and line[c + i] and first <= i < last:
            return i
        hits &= hits - 1
    if c > 8:
        x = load64(line + 8) ^ tags
        hits = (x - ones) & ~x & (ones << 7) & ((<uint64_t>1 << (8 * (c - 8))) - 1)
        while hits:
            i = 8 + (ctz(hits) >> 3)
            if field_c(line, c, w, i) == high and line[c + i] and first <= i < last:
                return i
            hits &= hits - 1
    return -1


cdef inline int find(const uint8_t* line, int kind, uint64_t rest, int first, int last) noexcept nogil:
    if kind == 3:
        return find_c(line, 11, 30, rest, first, last)
    if kind == 2:
        return find_c(line, 10, 34, rest, first, last)
    if kind == 1:
        return find_c(line, 9, 40, rest, first, last)
    return find_c(line, 6, 56, rest, first, last)


cdef inline void drop_guest(uint8_t* line, int kind, int i) noexcept nogil:
    """Remove the guest in slot ``i``: the last guest takes its place."""
    cdef int number = guests(line)
    cdef int c = capacity(kind)
    if i != c - number:
        move(line, kind, c - number, i)
    line[2 * c - number] = 0
    set_guests(line, number - 1)
    if number == 1:
        clear(line - LINE, NEXT)


cdef inline void drop(uint8_t* line, int kind, int i) noexcept nogil:
    """Remove slot ``i``, native or guest."""
    if i >= capacity(kind) - guests(line):
        drop_guest(line, kind, i)
    else:
        line[capacity(kind) + i] = 0


cdef inline int empty_native(const uint8_t* line, int kind) noexcept nogil:
    """The first empty native slot, or -1; eight codes are looked at at a time."""
    cdef int c = capacity(kind), last = c - guests(line), i
    cdef uint64_t ones = 0x0101010101010101
    cdef uint64_t x = load64(line + c)
    cdef uint64_t hits = (x - ones) & ~x & (ones << 7)  # its lowest bit is exact
    if hits:
        i = ctz(hits) >> 3
        return i if i < last else -1
    if c > 8:
        x = load64(line + c + 8)
        hits = (x - ones) & ~x & (ones << 7)
        if hits:
            i = 8 + (ctz(hits) >> 3)
            return i if i < last else -1
    return -1


cdef inline int room(uint8_t* line, int kind, const uint8_t* rank, int* freed) noexcept nogil:
    """An empty native slot, made by dropping an expired entry if need be; -1 if there is none.

    ``rank`` is NULL where nothing can have expired; ``freed`` counts what was dropped.
    """
    cdef int i = empty_native(line, kind), c = capacity(kind), last
    if i >= 0 or rank == NULL:
        return i
    last = c - guests(line)
    for i in range(last):
        if not rank[line[c + i]]:
            line[c + i] = 0
            freed[0] += 1
            return i
    for i in range(last, c):
        if not rank[line[c + i]]:
            drop_guest(line, kind, i)
            freed[0] += 1
            return last
    return -1


cdef inline bint vacant(const uint8_t* line, int kind) noexcept nogil:
    """Whether a line holds nobody and says nothing of others."""
    cdef int c = capacity(kind)
    cdef uint64_t codes = load64(line + 2 * c - 8)
    if c > 8:
        codes |= load64(line + c)
    else:
        codes >>= 8 * (8 - c)
    return not codes and not line[META] & FLAGS


cdef inline uint64_t outside(uint64_t codes, uint8_t first, int span) noexcept nogil:
    """High bits of those of eight codes that are not 0 nor at most ``span`` (below 127) after ``first``."""
    cdef uint64_t ones = 0x0101010101010101
    cdef uint64_t high = ones << 7
    cdef uint64_t after = ((codes | high) - ((first & 127) * ones)) ^ ((codes ^ ~(first * ones)) & high)
    cdef uint64_t used = ((codes & ~high) + ~high) | codes
    return (after | ((after & ~high) + (127 - span) * ones)) & used & high


cdef inline bint expired(const uint8_t* line, int kind, uint8_t first, int span) noexcept nogil:
    """Whether any entry of a line has expired: its code is not among the ``span`` + 1 from ``first`` on."""
    cdef int c = capacity(kind)
    cdef uint64_t codes = load64(line + 2 * c - 8)
    if c > 8:
        return (outside(codes, first, span) | outside(load64(line + c), first, span)) != 0
    return outside(codes >> 8 * (8 - c), first, span) != 0


cdef inline bint settle(
    uint8_t* line, int kind, uint64_t rest, uint8_t code, const uint8_t* rank, int reach, int* freed,
) noexcept nogil:
    """Put an entry into its home line; or as a guest into the next, each line on the way handing a native on.

    ``reach``: how many lines after the home may take part. False when all of them are full.
    """
    cdef int i = room(line, kind, rank, freed), c = capacity(kind), j = 0, last
    cdef uint8_t* there
    cdef uint8_t* before
    if i >= 0:
        put(line, kind, i, rest, code)
        return True
    while i < 0:
        j += 1
        there = line + j * LINE
        if j > reach:
            return False
        i = room(there, kind, rank, freed)
        if i < 0 and guests(there) == c:
            return False  # nobody here could be handed on
    last = c - guests(there) - 1
    if i != last:
        move(there, kind, last, i)
    while j:
        # Slot ``last`` of line ``there`` is free and next to its guests.
        before = there - LINE
        set_guests(there, c - last)
        before[META] |= NEXT
        if j == 1:
            put(there, kind, last, rest, code)
        else:
            i = c - guests(before) - 1
            put(there, kind, last, rest_at(before, kind, i), before[c + i])
            before[c + i] = 0
            last = i
        there = before
        j -= 1
    return True


cdef inline void fill_c(
    uint8_t* line, int c, int w, const uint64_t* rests, const uint8_t* codes, int number,
) noexcept nogil:
    cdef uint64_t bits = 0, high
    cdef uint8_t* at = line + 2 * c
    cdef int have = 0, i
    memset(line, 0, LINE)
    for i in range(number):
        line[i] = <uint8_t>rests[i]
        line[c + i] = codes[i]
        high = rests[i] >> 8
        bits |= high << have
        have += w
        if have >= 64:
            store64(at, bits)
            at += 8
            have -= 64
            bits = high >> (w - have)
    while have > 0:
        at[0] = <uint8_t>bits
        at += 1
        bits >>= 8
        have -= 8


cdef inline void fill(
    uint8_t* line, int kind, const uint64_t* rests, const uint8_t* codes, int number,
) noexcept nogil:
    """Write a whole line of ``number`` natives; what it held before is gone."""
    if kind == 3:
        fill_c(line, 11, 30, rests, codes, number)
    elif kind == 2:
        fill_c(line, 10, 34, rests, codes, number)
    elif kind == 1:
        fill_c(line, 9, 40, rests, codes, number)
    else:
        fill_c(line, 6, 56, rests, codes, number)


cdef inline int take_c(
    const uint8_t* line, int c, int w, int first, int last, uint64_t* rests, uint8_t* codes,
) noexcept nogil:
    cdef int i, taken = 0
    for i in range(first, last):
        rests[taken] = field_c(line, c, w, i) << 8 | line[i]
        codes[taken] = line[c + i]
        taken += line[c + i] != 0
    return taken


cdef inline int take(
    const uint8_t* line, int kind, int first, int last, uint64_t* rests, uint8_t* codes,
) noexcept nogil:
    """Read the entries of the slots ``first..last-1``; returns how many there are."""
    if kind == 3:
        return take_c(line, 11, 30, first, last, rests, codes)
    if kind == 2:
        return take_c(line, 10, 34, first, last, rests, codes)
    if kind == 1:
        return take_c(line, 9, 40, first, last, rests, codes)
    return take_c(line, 6, 56, first, last, rests, codes)
