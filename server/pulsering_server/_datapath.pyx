# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: embedsignature=False, auto_pickle=False, autotestdict=False
"""From socket buffer to table and back without a Python object per frame: HEARTBEAT, LEAVE and GET.

``DataPath.run`` takes what one connection has delivered and answers every complete, well-formed data-plane
frame at its front into one buffer of replies. Anything else (another op, a bound exceeded, a byte that is
wrong) it leaves where it is and says so by the offset it returns: the session looks at that frame in Python,
where every error has its words. So this file knows only the happy path, and the session is its specification:
the same bytes must give the same answers with it and without it. No socket, and the only clock it reads is
for ``Stats.service``, on which no answer depends.

A slice is bounded by work, counted in keys: a frame costs its keys and ``FRAME_WORK`` more. Under overload
(``refuse_older``) a frame that is older than the bound of its op is answered BUSY instead of being done.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from pulsering_server._table cimport RawTally, Table

from pulsering_server.durations import BUCKETS as _BUCKETS
from pulsering_server.stats import ANSWERS as _ANSWERS

cdef extern from *:
    """
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    #define PULSERING_LE32(x) __builtin_bswap32(x)
    #else
    #define PULSERING_LE32(x) (x)
    #endif
    """
    uint32_t le32 "PULSERING_LE32" (uint32_t) noexcept nogil

cdef extern from *:
    """
    static inline int bit_length(unsigned long long x) { return x ? 64 - __builtin_clzll(x) : 0; }
    /* How many even bits are set; the odd ones are not. Without -mpopcnt the builtin is a call. */
    static inline int even_bits(unsigned long long x) {
        x = (x & 0x3333333333333333ULL) + (x >> 2 & 0x3333333333333333ULL);
        return (int)(((x + (x >> 4)) & 0x0F0F0F0F0F0F0F0FULL) * 0x0101010101010101ULL >> 56);
    }
    """
    int bit_length(uint64_t) noexcept nogil
    int even_bits(uint64_t) noexcept nogil

cdef enum:
    HEADER = 16
    MAGIC = 0xC1
    VERSION = 1
    REPLY = 1
    HEARTBEAT = 3
    LEAVE = 4
    GET = 5
    ERROR = 127
    BUSY = 18
    # As durations.BUCKETS.
    BUCKETS = 32
    WANT_AGES = 1
    KEYS_EXT = 1
    KEY_BYTES = 8
    # Reading a frame and writing its reply take as long as about so many keys.
    FRAME_WORK = 8
    # The longest reply without states and ages: header, array, five integers of 9 bytes, two bin headers.
    REPLY_ROOM = HEADER + 1 + 5 * 9 + 2 * 5

cdef extern from *:
    """
    #define PULSERING_LOW_BITS 0x5555555555555555ULL
    """
    const uint64_t LOW_BITS "PULSERING_LOW_BITS"

cdef int64_t NO_BOUND = 0x7FFFFFFFFFFFFFFF
cdef int64_t WRAP_US = (<int64_t>1 << 32) * 1000


# As durations.Durations.
cdef struct Histogram:
    uint64_t buckets[BUCKETS]
    uint64_t total


cdef inline void note(Histogram *histogram, int64_t units) noexcept nogil:
    histogram.buckets[min(bit_length(<uint64_t>units), BUCKETS - 1)] += 1
    histogram.total += units


cdef inline void add_answers(uint64_t *answers, uint64_t word) noexcept nogil:
    cdef uint64_t ones = word & LOW_BITS, twos = word >> 1 & LOW_BITS
    answers[1] += even_bits(ones & ~twos)
    answers[2] += even_bits(twos & ~ones)
    answers[3] += even_bits(ones & twos)


cdef inline int64_t monotonic_ns() noexcept nogil:
    cdef timespec at
    clock_gettime(CLOCK_MONOTONIC, &at)
    return <int64_t>at.tv_sec * 1000000000 + at.tv_nsec


cdef struct Request:
    uint32_t request_id
    uint32_t sender_ms
    uint64_t argument
    const uint8_t *keys
    size_t count
    size_t size  # header and body
    int op


@cython.final
cdef class FrameAge:
    """The age of each frame of one connection; ``frame_age.FrameAge`` is the same in Python, and says why."""

    cdef int64_t offset_us
    cdef int64_t arrival_ms

    def __init__(self, sender_ms, now_ms):
        self.offset_us = (<int64_t>now_ms - <int64_t>sender_ms) * 1000
        self.arrival_ms = now_ms

    def age_ms(self, sender_ms, now_ms):
        """Milliseconds that a frame arriving at ``now_ms`` was under way, beyond the fastest seen."""
        return self.age_of(<int64_t>sender_ms, <int64_t>now_ms)

    cdef int64_t age_of(self, int64_t sender_ms, int64_t now_ms) noexcept nogil:
        cdef int64_t offset_us = self.offset_us + (now_ms - self.arrival_ms)
        self.arrival_ms = now_ms
        cdef int64_t late_us = ((now_ms - sender_ms) * 1000 - offset_us) % WRAP_US
        if late_us < 0:
            late_us += WRAP_US
        if late_us >= WRAP_US // 2:
            late_us -= WRAP_US
        if late_us <= 0:
            self.offset_us = offset_us + late_us
            return 0
        self.offset_us = offset_us
        return late_us // 1000


# --- msgpack: the few forms that the data plane reads and writes --------------------------------------------

cdef struct Cursor:
    const uint8_t *at
    const uint8_t *end


cdef inline uint64_t big_endian(const uint8_t *at, int size) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(size):
        value = value << 8 | at[i]
    return value


cdef inline bint take_uint(Cursor *cursor, uint64_t maximum, uint64_t *value) noexcept nogil:
    cdef int size
    cdef uint8_t head
    if cursor.at == cursor.end:
        return False
    head = cursor.at[0]
    cursor.at += 1
    if head < 0x80:
        value[0] = head
    elif 0xCC <= head <= 0xCF:
        size = 1 << (head - 0xCC)
        if cursor.end - cursor.at < size:
            return False
        value[0] = big_endian(cursor.at, size)
        cursor.at += size
    else:
        return False
    return value[0] <= maximum


cdef inline bint take_array_of_3(Cursor *cursor) noexcept nogil:
    cdef Py_ssize_t left = cursor.end - cursor.at
    if left >= 1 and cursor.at[0] == 0x93:
        cursor.at += 1
    elif left >= 3 and cursor.at[0] == 0xDC and big_endian(cursor.at + 1, 2) == 3:
        cursor.at += 3
    elif left >= 5 and cursor.at[0] == 0xDD and big_endian(cursor.at + 1, 4) == 3:
        cursor.at += 5
    else:
        return False
    return True


cdef inline bint take_keys(Cursor *cursor, Request *request) noexcept nogil:
    # The keys are the last thing in a body: their length must be all that is left.
    cdef Py_ssize_t left = cursor.end - cursor.at
    cdef uint64_t size
    cdef int width
    if left < 2:
        return False
    if 0xD4 <= cursor.at[0] <= 0xD8:
        size = 1 << (cursor.at[0] - 0xD4)
        width = 0
    elif 0xC7 <= cursor.at[0] <= 0xC9:
        width = 1 << (cursor.at[0] - 0xC7)
        if left < 2 + width:
            return False
        size = big_endian(cursor.at + 1, width)
    else:
        return False
    if cursor.at[1 + width] != KEYS_EXT or size % KEY_BYTES or <uint64_t>(left - 2 - width) != size:
        return False
    request.keys = cursor.at + 2 + width
    request.count = size // KEY_BYTES
    return True


cdef inline uint8_t *put_big_endian(uint8_t *at, uint64_t value, int size) noexcept nogil:
    cdef int i
    for i in range(size):
        at[i] = <uint8_t>(value >> 8 * (size - 1 - i))
    return at + size


cdef inline uint8_t *put_uint(uint8_t *at, uint64_t value) noexcept nogil:
    if value < 0x80:
        at[0] = <uint8_t>value
        return at + 1
    cdef int power = 0 if value < 1 << 8 else 1 if value < 1 << 16 else 2 if value < <uint64_t>1 << 32 else 3
    at[0] = <uint8_t>(0xCC + power)
    return put_big_endian(at + 1, value, 1 << power)


cdef inline uint8_t *put_bin(uint8_t *at, uint64_t size) noexcept nogil:
    cdef int power = 0 if size < 1 << 8 else 1 if size < 1 << 16 else 2
    at[0] = <uint8_t>(0xC4 + power)
    return put_big_endian(at + 1, size, 1 << power)


cdef inline uint32_t load32(const uint8_t *at) noexcept nogil:
    cdef uint32_t word
    memcpy(&word, at, 4)
    return le32(word)


cdef inline void store32(uint8_t *at, uint32_t word) noexcept nogil:
    word = le32(word)
    memcpy(at, &word, 4)


@cython.final
cdef class DataPath:
    """Runs data-plane frames against one node's table; shared by all its connections.

    ``keys_per_frame`` and ``frame_bytes_max`` are the node's limits, ``busy_body`` the body of the ERROR for
    a frame refused under overload. What it counts, plain ints, ``collect`` hands over.
    """

    cdef Table table
    cdef size_t keys_max
    cdef size_t frame_bytes_max
    cdef uint64_t ttl_ms
    cdef bytes busy_body
    cdef size_t busy_size
    cdef int64_t get_age_max
    cdef int64_t write_age_max
    cdef uint8_t *out
    cdef size_t used
    cdef size_t room
    cdef bint counted
    cdef uint64_t frame_counts[6]
    cdef uint64_t refusals
    cdef uint64_t answers[4]
    cdef RawTally sums[6]
    cdef int64_t age_max
    cdef uint64_t frames_stale
    cdef Histogram ages
    cdef Histogram service[6]

    def __cinit__(self):
        assert BUCKETS == _BUCKETS
        assert _ANSWERS == ("offline", "online", "unknown", "moved")
        self.out = NULL
        self.forget()

    def __init__(self, table, keys_per_frame, frame_bytes_max, busy_body):
        self.table = table
        self.busy_body = busy_body
        self.busy_size = len(busy_body)
        self.get_age_max = self.write_age_max = NO_BOUND
        self.keys_max = keys_per_frame
        self.frame_bytes_max = frame_bytes_max
        self.ttl_ms = table.ttl_ms

    def __dealloc__(self):
        free(self.out)

    def refuse_older(self, get_age_ms, write_age_ms):
        """From now on refuse gets, and heartbeats and leaves, that are older than this; None: none."""
        self.get_age_max = NO_BOUND if get_age_ms is None else get_age_ms
        self.write_age_max = NO_BOUND if write_age_ms is None else write_age_ms

    def run(self, data, start, age, now_ms, epoch, warming_ms, work_max, output_max, may_write):
        """Answer the complete data-plane frames of ``data`` from ``start`` on.

        Stops before any other frame, before a write unless the peer ``may_write``, and once ``work_max`` work
        is done or the replies exceed ``output_max`` bytes. Returns (offset of what is left, frames answered,
        work done, replies).
        """
        cdef Py_buffer view
        cdef FrameAge frame_age = age
        cdef size_t offset = start, work = 0, work_bound = work_max, bound = output_max, answered
        cdef int64_t now = now_ms
        cdef uint64_t epoch_now = epoch, warming = warming_ms
        cdef const uint8_t *busy = self.busy_body
        cdef int failed = 0
        cdef int first_op = HEARTBEAT if may_write else GET
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if offset > <size_t>view.len:
                raise ValueError(f"start is {start}, beyond {view.len} bytes")
            self.used = 0
            with nogil:
                self.table.raw_advance(now)
                answered = self.run_frames(
                    <const uint8_t *>view.buf,
                    &offset,
                    view.len,
                    frame_age,
                    now,
                    epoch_now,
                    warming,
                    busy,
                    &work,
                    work_bound,
                    bound,
                    first_op,
                    &failed,
                )
            if failed:
                raise MemoryError("no memory for replies")
        finally:
            PyBuffer_Release(&view)
        replies = PyBytes_FromStringAndSize(<char *>self.out, self.used) if self.used else b""
        return offset, answered, work, replies

    cdef size_t run_frames(
        self, const uint8_t *data, size_t *offset, size_t size, FrameAge age, int64_t now, uint64_t epoch,
        uint64_t warming, const uint8_t *busy, size_t *work, size_t work_max, size_t output_max,
        int first_op, int *failed,
    ) noexcept nogil:
        cdef Request request
        cdef size_t frames = 0, start = self.used
        cdef int64_t age_ms, began = monotonic_ns(), ended
        while work[0] < work_max and self.used - start < output_max:
            if not self.parse(data + offset[0], size - offset[0], &request) or request.op < first_op:
                break
            if not self.ensure(REPLY_ROOM + self.busy_size + request.count + (request.count >> 2) + 1):
                failed[0] = 1
                break
            age_ms = age.age_of(request.sender_ms, now)
            work[0] += FRAME_WORK
            if age_ms > (self.get_age_max if request.op == GET else self.write_age_max):
                self.answer_busy(&request, busy, now)
                began = monotonic_ns()
            else:
                if request.op == GET:
                    self.answer_get(&request, now, epoch, warming)
                else:
                    self.answer_write(&request, age_ms, now, epoch)
                work[0] += request.count
                ended = monotonic_ns()
                note(&self.service[request.op], ended - began)
                began = ended
            offset[0] += request.size
            frames += 1
        return frames

    cdef inline void note_answers(self, const uint8_t *states, size_t count) noexcept nogil:
        # By the word of 32 states, two bits each: what is left of the last one is zero.
        cdef size_t size = (count + 3) >> 2, at = 0
        cdef uint64_t word
        cdef uint64_t answers[4]
        memset(answers, 0, sizeof(answers))
        while size - at >= 8:
            memcpy(&word, states + at, 8)
            add_answers(answers, word)
            at += 8
        if at < size:
            word = 0
            memcpy(&word, states + at, size - at)
            add_answers(answers, word)
        self.answers[0] += count - answers[1] - answers[2] - answers[3]
        self.answers[1] += answers[1]
        self.answers[2] += answers[2]
        self.answers[3] += answers[3]

    cdef bint parse(self, const uint8_t *data, size_t size, Request *request) noexcept nogil:
        cdef Cursor cursor
        cdef uint64_t epoch
        if size < HEADER or data[0] != MAGIC or data[1] != VERSION or data[3]:
            return False
        request.op = data[2]
        if request.op < HEARTBEAT or request.op > GET:
            return False
        request.request_id = load32(data + 4)
        request.size = HEADER + <size_t>load32(data + 8)
        request.sender_ms = load32(data + 12)
        if request.size > self.frame_bytes_max or request.size > size:
            return False
        cursor.at = data + HEADER
        cursor.end = data + request.size
        if not (
            take_array_of_3(&cursor)
            and take_uint(&cursor, 0xFFFFFFFF, &epoch)
            and take_uint(&cursor, 0xFFFFFFFF, &request.argument)
            and take_keys(&cursor, request)
        ):
            return False
        if request.op == HEARTBEAT and request.argument or request.op == GET and request.argument > WANT_AGES:
            return False
        return request.count <= self.keys_max

    cdef bint ensure(self, size_t more) noexcept nogil:
        cdef size_t wanted = self.used + more
        cdef uint8_t *larger
        if wanted <= self.room:
            return True
        wanted = max(wanted, 2 * self.room)
        larger = <uint8_t *>realloc(self.out, wanted)
        if larger == NULL:
            return False
        self.out = larger
        self.room = wanted
        return True

    cdef void answer_busy(self, const Request *request, const uint8_t *busy, int64_t now) noexcept nogil:
        cdef uint8_t *at = self.out + self.used + HEADER
        memcpy(at, busy, self.busy_size)
        self.refusals += 1
        self.finish(request, ERROR, at + self.busy_size, now)

    cdef void answer_write(
        self, const Request *request, int64_t age_ms, int64_t now, uint64_t epoch
    ) noexcept nogil:
        cdef RawTally tally
        cdef RawTally *sum
        cdef uint8_t *at = self.out + self.used + HEADER
        note(&self.ages, age_ms)
        self.age_max = max(self.age_max, age_ms)
        self.frames_stale += age_ms >= <int64_t>self.ttl_ms
        age_ms = min(age_ms, <int64_t>(2 * self.ttl_ms))
        if request.op == HEARTBEAT:
            tally = self.table.raw_heartbeat(request.keys, request.count, age_ms)
        else:
            tally = self.table.raw_leave(
                request.keys, request.count, age_ms, <int64_t>min(request.argument, self.ttl_ms)
            )
        sum = &self.sums[request.op]
        sum.accepted += tally.accepted
        sum.stale += tally.stale
        sum.refused += tally.refused
        sum.moved += tally.moved
        at[0] = 0x95
        at = put_uint(at + 1, epoch)
        at = put_uint(at, tally.accepted)
        at = put_uint(at, tally.stale)
        at = put_uint(at, tally.refused)
        at = put_uint(at, tally.moved)
        self.finish(request, request.op, at, now)

    cdef void answer_get(
        self, const Request *request, int64_t now, uint64_t epoch, uint64_t warming
    ) noexcept nogil:
        cdef uint8_t *at = self.out + self.used + HEADER
        at[0] = 0x95
        at = put_uint(at + 1, epoch)
        at = put_uint(at, warming)
        at = put_uint(at, request.count)
        at = put_bin(at, (request.count + 3) >> 2)
        self.table.raw_get(request.keys, request.count, at)
        self.note_answers(at, request.count)
        at += (request.count + 3) >> 2
        if request.argument:
            at = put_bin(at, request.count)
            self.table.raw_ages(request.keys, request.count, at)
            at += request.count
        else:
            at = put_bin(at, 0)
        self.finish(request, request.op, at, now)

    cdef void finish(self, const Request *request, int op, const uint8_t *end, int64_t now) noexcept nogil:
        # The header comes last, when the body's length is known.
        cdef uint8_t *header = self.out + self.used
        header[0] = MAGIC
        header[1] = VERSION
        header[2] = <uint8_t>op
        header[3] = REPLY
        store32(header + 4, request.request_id)
        store32(header + 8, <uint32_t>(end - header - HEADER))
        store32(header + 12, <uint32_t>now)
        self.used = end - self.out
        self.frame_counts[request.op] += 1
        self.counted = True

    def collect(self, stats):
        """Move what was counted since the last call into ``stats``."""
        if not self.counted:
            return
        self.counted = False
        for op in (HEARTBEAT, LEAVE, GET):
            stats.requests[op] += self.frame_counts[op]
            hand_over(stats.service[op], &self.service[op])
        hand_over(stats.frame_age, &self.ages)
        for op, outcomes in ((HEARTBEAT, stats.heartbeats), (LEAVE, stats.leaves)):
            outcomes["accepted"] += self.sums[op].accepted
            outcomes["stale"] += self.sums[op].stale
            outcomes["refused"] += self.sums[op].refused
            outcomes["moved"] += self.sums[op].moved
        for state, answer in enumerate(_ANSWERS):
            stats.answers[answer] += self.answers[state]
        stats.unknown[stats.cold] += self.answers[2]
        stats.errors[BUSY] += self.refusals
        stats.frame_age_ms_max = max(stats.frame_age_ms_max, self.age_max)
        stats.frames_stale += self.frames_stale
        self.forget()

    cdef void forget(self) noexcept:
        memset(self.frame_counts, 0, sizeof(self.frame_counts))
        memset(self.answers, 0, sizeof(self.answers))
        memset(self.sums, 0, sizeof(self.sums))
        memset(&self.ages, 0, sizeof(self.ages))
        memset(self.service, 0, sizeof(self.service))
        self.frames_stale = 0
        self.refusals = 0


cdef hand_over(durations, const Histogram *histogram):
    cdef int bucket
    durations.total += histogram.total
    for bucket in range(BUCKETS):
        durations.buckets[bucket] += histogram.buckets[bucket]
