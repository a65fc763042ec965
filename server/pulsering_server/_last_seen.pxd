"""The internal header of the store of those who went offline, for the table that hands them over.

The ``raw`` methods expect ``raw_advance`` to have been called with the time as it is, in seconds.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    WAITING = 16  # users handed over whose lines are on their way to the cache

cdef struct Side:
    uint64_t* base
    size_t reserve
    uint64_t lines  # a power of two
    uint64_t split  # of these, how many have been split into two already
    uint64_t lines_max


@cython.final
cdef class LastSeen:
    cdef Side[2] _sides
    cdef int _growing  # which side, -1 if none
    cdef int64_t _keep
    cdef int64_t _now
    cdef int64_t[4] _values  # by class, what a time of now is stored as
    cdef int64_t _horizon  # in buckets: what was last seen before it is forgotten
    cdef int64_t _complete
    cdef uint32_t* _buckets
    cdef uint64_t _count
    cdef uint64_t _users_max
    cdef int64_t _swept_at  # every line has been visited since
    cdef int64_t _round_began
    cdef uint64_t _hand
    cdef uint64_t _credit
    cdef uint64_t[WAITING] _keys
    cdef int64_t[WAITING] _times
    cdef int _waiting
    cdef uint64_t noted  # how many were ever handed over: work, for whoever hands over
    cdef uint64_t _crowded
    cdef uint64_t _forgotten
    cdef uint64_t _grown
    cdef uint64_t _swept
    cdef uint64_t _forced

    cdef void raw_advance(self, int64_t now_s) noexcept nogil
    cdef void raw_note(self, uint64_t key, int64_t seen_s) noexcept nogil
    cdef void raw_find(self, const uint8_t* keys, size_t n, uint32_t* ages) noexcept nogil
    cdef uint32_t raw_age(self, int64_t seen_s) noexcept nogil
    cdef uint64_t raw_maintain(self, uint64_t lines) noexcept nogil

    cdef void _set_now(self, int64_t now_s) noexcept nogil
    cdef int64_t _seen_of(self, uint64_t entry) noexcept nogil
    cdef uint64_t _code_of(self, int64_t seen_s) noexcept nogil
    cdef uint64_t* _line_of(self, int side, uint64_t mixed) noexcept nogil
    cdef void _fetch(self, uint64_t key) noexcept nogil
    cdef void _settle_waiting(self) noexcept nogil
    cdef void _settle(self, uint64_t key, int64_t seen_s) noexcept nogil
    cdef uint64_t* _kicked(self, uint64_t** lines) noexcept nogil
    cdef uint64_t* _oldest(self, uint64_t** lines) noexcept nogil
    cdef uint64_t _forget_below(self, int64_t bucket) noexcept nogil
    cdef void _fit(self) noexcept nogil
    cdef void _split(self, uint64_t lines) noexcept nogil
    cdef void _sweep(self, uint64_t lines) noexcept nogil
    cdef void _sweep_line(self, uint64_t* line) noexcept nogil
