"""Which line a key lives in, and how a line's number and what it stores give the key back.

A key is mixed by a bijection; the mixed key times the number of lines, 128 bits, has the home line in its
high half and the rest in its low half, whose last ``shift`` bits follow from the others. So lines are in the
order of the mixed keys for any number of lines, not only powers of two.
"""

from libc.stdint cimport uint64_t

from pulsering_server._line cimport wide

cdef struct Geometry:
    uint64_t lines
    uint64_t step      # floor(2^64 / lines)
    uint64_t spare     # 2^64 - step * lines
    uint64_t inverse   # 2^(64 + log) / lines, rounded down
    int log            # floor(log2(lines))
    int shift          # the same, or more in tests: a rest has 64 - shift bits
    int kind           # which layout of a line

# x ^= x >> 32 brings the high bits into the low half; the odd multiplier, 2^64 / golden ratio (Knuth, TAOCP
# 6.4), brings the low bits up. Both steps can be undone.
cdef extern from *:
    """
    #define PULSERING_GOLDEN 0x9E3779B97F4A7C15ULL
    #define PULSERING_GOLDEN_INVERSE 0xF1DE83E19937733DULL
    """
    const uint64_t GOLDEN "PULSERING_GOLDEN"
    const uint64_t GOLDEN_INVERSE "PULSERING_GOLDEN_INVERSE"


cdef inline uint64_t mixed_of(uint64_t key) noexcept nogil:
    return (key ^ (key >> 32)) * GOLDEN


cdef inline uint64_t key_of(uint64_t mixed) noexcept nogil:
    cdef uint64_t x = mixed * GOLDEN_INVERSE
    return x ^ (x >> 32)


cdef inline uint64_t home_of(const Geometry* geometry, uint64_t mixed) noexcept nogil:
    cdef wide product = <wide>mixed * geometry.lines
    return <uint64_t>(product >> 64)


cdef inline uint64_t first_of(const Geometry* geometry, uint64_t line) noexcept nogil:
    """The smallest mixed key whose home is ``line``: ceil(line * 2^64 / lines); 0 for the line past the
    end."""
    cdef uint64_t part
    if line >= geometry.lines:
        return 0
    part = line * geometry.spare
    return line * geometry.step + part // geometry.lines + (part % geometry.lines != 0)


cdef inline uint64_t mixed_at(const Geometry* geometry, uint64_t first, uint64_t rest) noexcept nogil:
    """The one mixed key of a line (``first``: its smallest) that has this rest."""
    cdef uint64_t low = first * geometry.lines  # mod 2^64: below ``lines``
    cdef uint64_t want = rest << geometry.shift
    cdef uint64_t over, guess
    cdef wide product
    if want <= low:
        return first
    over = want - low
    product = <wide>over * geometry.inverse
    guess = (<uint64_t>(product >> 64) >> geometry.log) + 1  # never too many
    while guess * geometry.lines < over:
        guess += 1
    return first + guess


cdef inline Geometry geometry_of(uint64_t lines, int shift_min) noexcept nogil:
    cdef Geometry g
    g.lines = lines
    g.step = (<uint64_t>0 - lines) // lines + 1
    g.spare = <uint64_t>0 - g.step * lines
    g.log = 0
    while lines >> (g.log + 1):
        g.log += 1
    g.shift = max(g.log, shift_min)
    # Below the true quotient, also where that is whole: a product with it rounds down to one too few.
    g.inverse = <uint64_t>(((<wide>1 << (64 + g.log)) - 1) // g.lines)
    g.kind = 3 if g.shift >= 26 else 2 if g.shift >= 22 else 1 if g.shift >= 16 else 0
    return g


cdef inline uint64_t full_percent(uint64_t lines) noexcept nogil:
    """Load at which the table grows; see docs/table.md for what ends in the annex at which load."""
    return 92 if lines >= 1 << 22 else 91


cdef inline uint64_t growth_of(uint64_t lines) noexcept nogil:
    """How many lines to add; at most 9 bytes a user right after, from 10^7 users on."""
    return lines >> 1 if lines < 1 << 19 else lines // 12 if lines < 1 << 22 else lines >> 2
