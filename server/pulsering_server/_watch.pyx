# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: auto_pickle=False, autotestdict=False
"""The watch set, compiled: one small record a watched user, on a timing wheel of its own.

``_watch_reference.py`` is the specification. Records lie in one array, found by a chained hash that grows a
bucket at a time (linear hashing), so that no call pays for all. Whoever is online stands on the spoke of the
tick at which the user's time runs out, as far as known; a refresh moves nobody, and a user whose spoke comes
is looked up in the table and put on a later one. A subscriber has a hash set of the records it watches, with
its news in a byte beside each. Invariants: what the table tells never allocates a record nor raises; news
that no queue has room for are found by looking at the whole set; nothing here reads a clock, does I/O or
waits.
"""

cimport cython
from cpython.buffer cimport PyBuffer_Release
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memset

from pulsering_server._buffers cimport keys_of
from pulsering_server._cells cimport MADV_DONTNEED, madvise, munmap, reserved
from pulsering_server._geometry cimport mixed_of
from pulsering_server._line cimport fetch, load64
from pulsering_server._place cimport GROUP, PLACES, fetch_group, rank_of
from pulsering_server._table cimport APPEARS, STAYS, Place, Table

from pulsering_server import _watch_reference as _reference
from pulsering_server._table_reference import checked_count as _checked_count
from pulsering_server._table_reference import checked_ms as _checked_ms

cdef object checked_count = _checked_count
cdef object checked_ms = _checked_ms

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
    SLOT_SHIFT = 50
    ONLINE = 1
    NONE = 0
    HEARTBEAT = 1
    EXPIRED = 2
    LEFT = 3
    SPOKES = 256
    LAG = SPOKES - 82  # ticks behind from which a spoke could be both what is due and what comes last
    BATCH = 64  # users looked up at once
    NO_SPOKE = 0xFFFF
    # Of a record: state in the two lowest bits, then
    LEAVING = 4
    MANY = 8
    FREE = 16
    # Of a watch: state and cause of its news, two bits each, then
    NEWS = 16
    SLOTS_MIN = 8
    AT_ONCE = 4096  # watches that end with their subscriber; of more ``turn`` takes its time
    KEPT = 4096  # records whose memory is not worth the call that gives it back

cdef struct Watched:
    uint64_t key
    uint64_t readers   # the subscriber, or where many are listed
    uint32_t chain     # here and below: 1 + the number of a record, 0 for none
    uint32_t later     # on the same spoke
    uint32_t sooner
    uint16_t spoke
    uint8_t what

cdef struct Many:
    uint32_t used
    uint32_t room
    # and the subscribers

cdef struct Reader:
    uint32_t* slots    # 1 + the number of a record, 0 for none
    uint8_t* news      # beside each slot
    uint32_t room      # a power of two, or 0
    uint32_t used
    uint32_t unread    # how many have news
    uint32_t* queue    # records that had news when they were put here
    uint32_t queued
    uint32_t first
    uint32_t queue_room
    bint whole         # the queue does not have all: look at all slots
    bint ready
    bint open
    uint32_t closing   # of one that is gone, how many slots are still to be forgotten


cdef inline uint32_t* subscribers_in(Many* many) noexcept nogil:
    return <uint32_t*>(many + 1)


cdef inline uint32_t scattered(uint32_t record) noexcept nogil:
    return record * <uint32_t>0x9E3779B1


@cython.final
@cython.no_gc_clear
cdef class WatchSet:
    """Who watches whom; see ``_watch_reference.WatchSet``, whose face and answers are the same."""

    cdef Table _table
    cdef Watched* _records
    cdef uint32_t* _heads
    cdef size_t _records_bytes
    cdef size_t _heads_bytes
    cdef uint32_t _used       # records ever used; some may be free
    cdef uint32_t _free       # the first of them
    cdef uint32_t _users
    cdef uint32_t _buckets
    cdef uint32_t _level      # a power of two: buckets <= 2 * level
    cdef uint32_t[SPOKES] _spokes
    cdef int64_t _turned      # the tick whose spoke was last emptied
    cdef uint32_t _again      # records up to here have to be looked at, whatever their spoke,
    cdef uint32_t _seen       # but for those up to here
    cdef bint _renewed
    cdef Reader* _readers
    cdef uint32_t* _idle      # numbers of subscribers that are not in use
    cdef uint32_t* _ready     # a ring
    cdef uint32_t _readers_room
    cdef uint32_t _subscribers
    cdef uint32_t _closing    # of those not open, how many are still closing
    cdef uint32_t _ready_at
    cdef uint32_t _ready_used
    cdef uint64_t _watches
    cdef uint64_t _watches_max
    cdef uint64_t _per_subscriber
    cdef uint64_t _heap       # bytes of all that was malloc'ed for watches
    cdef uint64_t[4] _changes
    cdef uint64_t _coalesced

    def __cinit__(self, Table table not None, *, watches_max, per_subscriber):
        cdef size_t got = 0
        self._watches_max = checked_count(watches_max, "watches_max", 1, _reference.WATCHES_MAX)
        self._per_subscriber = checked_count(per_subscriber, "per_subscriber", 1, _reference.WATCHES_MAX)
        self._table = table
        self._turned = table._tick
        self._level = self._buckets = 1
        self._records_bytes = <size_t>self._watches_max * sizeof(Watched)
        self._records = <Watched*>reserved(self._records_bytes, self._records_bytes, &got)
        self._heads_bytes = <size_t>(self._watches_max + 1) * sizeof(uint32_t)
        self._heads = <uint32_t*>reserved(self._heads_bytes, self._heads_bytes, &got)
        if self._records == NULL or self._heads == NULL:
            raise MemoryError("no address space for watched users")

    def __dealloc__(self):
        cdef uint32_t i
        if self._table is not None and self._table._watcher == <void*>self:
            self._table._watcher = NULL
        for i in range(self._used if self._records != NULL else 0):
            if self._records[i].what & MANY:
                free(<void*><size_t>self._records[i].readers)
        for i in range(self._readers_room):
            free(self._readers[i].slots)
            free(self._readers[i].queue)
        free(self._readers)
        free(self._idle)
        free(self._ready)
        if self._records != NULL:
            munmap(self._records, self._records_bytes)
        if self._heads != NULL:
            munmap(self._heads, self._heads_bytes)

    def attach(self, Table table not None):
        """Go on with another table. What the users are there is looked up by ``turn``, with no cause told."""
        if self._table._watcher == <void*>self:
            self._table._watcher = NULL
        self._table = table
        self._turned = table._tick
        self._listen()
        self.look_again()
        self._renewed = True

    cdef void _listen(self) noexcept nogil:
        """Have the table tell what happens, while somebody is watched."""
        self._table._told = told
        self._table._watcher = <void*>self if self._users else NULL

    # --- records: found by key, on a spoke while online ---

    cdef uint32_t _bucket_of(self, uint64_t key) noexcept nogil:
        cdef uint32_t hash = <uint32_t>(mixed_of(key) >> 32)
        cdef uint32_t bucket = hash & (2 * self._level - 1)
        return bucket if bucket < self._buckets else hash & (self._level - 1)

    cdef uint32_t _find(self, uint64_t key) noexcept nogil:
        """1 + the number of a key's record, 0 if nobody watches it."""
        cdef uint32_t at = self._heads[self._bucket_of(key)]
        while at and self._records[at - 1].key != key:
            at = self._records[at - 1].chain
        return at

    cdef void _split(self) noexcept nogil:
        """One more bucket: it takes what is its own from the one it was in."""
        cdef uint32_t old = self._buckets - self._level, at = self._heads[old], after, bucket
        self._heads[old] = 0
        self._heads[self._buckets] = 0
        self._buckets += 1
        while at:
            after = self._records[at - 1].chain
            bucket = <uint32_t>(mixed_of(self._records[at - 1].key) >> 32) & (2 * self._level - 1)
            self._records[at - 1].chain = self._heads[bucket]
            self._heads[bucket] = at
            at = after
        if self._buckets == 2 * self._level:
            self._level *= 2

    cdef uint32_t _add(self, uint64_t key, uint32_t subscriber, int rank) noexcept nogil:
        """A record of a key that has none; there are as many as may be watched, so there is room."""
        cdef uint32_t at = self._free, bucket
        cdef Watched* record
        if at:
            self._free = self._records[at - 1].chain
        else:
            self._used += 1
            at = self._used
        if self._users >= self._buckets and self._buckets < self._watches_max:
            self._split()
        self._users += 1
        record = &self._records[at - 1]
        record.key = key
        record.readers = subscriber
        record.spoke = NO_SPOKE
        record.what = <uint8_t>self._state(key, rank)
        bucket = self._bucket_of(key)
        record.chain = self._heads[bucket]
        self._heads[bucket] = at
        self._place(at, rank)
        return at

    cdef void _drop(self, uint32_t at) noexcept nogil:
        """Forget a record that nobody watches any more."""
        cdef Watched* record = &self._records[at - 1]
        cdef uint32_t* link = &self._heads[self._bucket_of(record.key)]
        while link[0] != at:
            link = &self._records[link[0] - 1].chain
        link[0] = record.chain
        self._unlink(record)
        record.what = FREE
        record.chain = self._free
        self._free = at
        self._users -= 1
        if not self._users:
            self._give_back()

    cdef void _give_back(self) noexcept nogil:
        """Nobody is watched: hold no memory for it. All buckets are empty, whatever their number."""
        if self._used > KEPT:
            madvise(self._records, self._used * sizeof(Watched), MADV_DONTNEED)
            madvise(self._heads, self._buckets * sizeof(uint32_t), MADV_DONTNEED)
        self._used = self._free = self._again = self._seen = 0
        self._level = self._buckets = 1
        self._listen()

    cdef int _state(self, uint64_t key, int rank) noexcept nogil:
        return ONLINE if rank else self._table._absent[key >> SLOT_SHIFT]

    cdef void _unlink(self, Watched* record) noexcept nogil:
        if record.spoke == NO_SPOKE:
            return
        if record.sooner:
            self._records[record.sooner - 1].later = record.later
        else:
            self._spokes[record.spoke] = record.later
        if record.later:
            self._records[record.later - 1].sooner = record.sooner
        record.spoke = NO_SPOKE

    cdef void _place(self, uint32_t at, int rank) noexcept nogil:
        """Stand on the spoke of ``rank`` ticks from now, or on none if that is 0."""
        cdef Watched* record = &self._records[at - 1]
        cdef uint32_t spoke
        self._unlink(record)
        if not rank:
            return
        spoke = <uint32_t>((self._table._tick + rank) & (SPOKES - 1))
        record.spoke = <uint16_t>spoke
        record.sooner = 0
        record.later = self._spokes[spoke]
        if record.later:
            self._records[record.later - 1].sooner = at
        self._spokes[spoke] = at

    # --- subscribers of a record ---

    cdef bint _join(self, Watched* record, uint32_t subscriber) noexcept nogil:
        """One subscriber more; False if there is no memory."""
        cdef Many* many
        cdef uint32_t room
        if not record.what & MANY:
            many = <Many*>malloc(sizeof(Many) + 4 * sizeof(uint32_t))
            if many == NULL:
                return False
            many.used, many.room = 1, 4
            subscribers_in(many)[0] = <uint32_t>record.readers
            record.readers = <size_t>many
            record.what |= MANY
            self._heap += sizeof(Many) + 4 * sizeof(uint32_t)
        many = <Many*><size_t>record.readers
        if many.used == many.room:
            room = many.room + (many.room >> 1)
            many = <Many*>realloc(many, sizeof(Many) + room * sizeof(uint32_t))
            if many == NULL:
                return False
            self._heap += (room - many.room) * sizeof(uint32_t)
            many.room = room
            record.readers = <size_t>many
        subscribers_in(many)[many.used] = subscriber
        many.used += 1
        return True

    cdef void _part(self, uint32_t at, uint32_t subscriber) noexcept nogil:
        """One subscriber less."""
        cdef Watched* record = &self._records[at - 1]
        cdef Many* many
        cdef uint32_t i = 0
        if not record.what & MANY:
            self._drop(at)
            return
        many = <Many*><size_t>record.readers
        while subscribers_in(many)[i] != subscriber:
            i += 1
        many.used -= 1
        subscribers_in(many)[i] = subscribers_in(many)[many.used]
        if many.used <= 1:
            record.readers = subscribers_in(many)[0]
            record.what &= <uint8_t>~MANY
            self._heap -= sizeof(Many) + many.room * sizeof(uint32_t)
            if not many.used:
                self._drop(at)
            free(many)

    # --- what a subscriber watches ---

    cdef int64_t _slot_of(self, const Reader* reader, uint32_t at) noexcept nogil:
        """Where a subscriber has a record, -1 if it does not watch it."""
        cdef uint32_t i
        if not reader.room:
            return -1
        i = scattered(at) & (reader.room - 1)
        while reader.slots[i]:
            if reader.slots[i] == at:
                return i
            i = (i + 1) & (reader.room - 1)
        return -1

    cdef bint _reserve(self, Reader* reader) noexcept nogil:
        """Room for one watch more; False if there is no memory."""
        cdef uint32_t room = max(2 * reader.room, <uint32_t>SLOTS_MIN), i, k
        cdef uint32_t* slots
        cdef uint8_t* news
        if 4 * (<uint64_t>reader.used + 1) <= 3 * <uint64_t>reader.room:
            return True
        slots = <uint32_t*>calloc(room, sizeof(uint32_t) + 1)
        if slots == NULL:
            return False
        news = <uint8_t*>(slots + room)
        for i in range(reader.room):
            if reader.slots[i]:
                k = scattered(reader.slots[i]) & (room - 1)
                while slots[k]:
                    k = (k + 1) & (room - 1)
                slots[k] = reader.slots[i]
                news[k] = reader.news[i]
        free(reader.slots)
        self._heap += (room - reader.room) * (sizeof(uint32_t) + 1)
        reader.slots, reader.news, reader.room = slots, news, room
        return True

    cdef void _leave_slot(self, Reader* reader, uint32_t i) noexcept nogil:
        """Empty a slot, and move up what stands behind it only because it was taken."""
        cdef uint32_t mask = reader.room - 1, k = i, home
        if reader.news[i] & NEWS:
            self._read(reader, i)
        while True:
            k = (k + 1) & mask
            if not reader.slots[k]:
                break
            home = scattered(reader.slots[k]) & mask
            if ((k - home) & mask) >= ((k - i) & mask):
                reader.slots[i] = reader.slots[k]
                reader.news[i] = reader.news[k]
                i = k
        reader.slots[i] = 0
        reader.news[i] = 0
        reader.used -= 1

    cdef void _read(self, Reader* reader, uint32_t i) noexcept nogil:
        """A slot has no news any more."""
        reader.news[i] = 0
        reader.unread -= 1
        if not reader.unread:
            reader.queued = reader.first = 0
            reader.whole = False

    # --- news ---

    cdef void _change(self, uint32_t at, int state, int cause) noexcept nogil:
        """A user has another state: news for all who watch it."""
        cdef Watched* record = &self._records[at - 1]
        cdef Many* many
        cdef uint32_t i
        record.what = <uint8_t>((record.what & MANY) | state)
        self._changes[cause] += 1
        if not record.what & MANY:
            self._tell(<uint32_t>record.readers, at, state, cause)
            return
        many = <Many*><size_t>record.readers
        for i in range(many.used):
            self._tell(subscribers_in(many)[i], at, state, cause)

    cdef void _tell(self, uint32_t subscriber, uint32_t at, int state, int cause) noexcept nogil:
        cdef Reader* reader = &self._readers[subscriber]
        cdef uint32_t i
        if not reader.open:
            return
        i = <uint32_t>self._slot_of(reader, at)
        if reader.news[i] & NEWS:
            self._coalesced += 1
        else:
            reader.unread += 1
            self._enqueue(reader, at)
        reader.news[i] = <uint8_t>(NEWS | cause << 2 | state)
        self._call(subscriber)

    cdef void _enqueue(self, Reader* reader, uint32_t at) noexcept nogil:
        cdef uint32_t room
        cdef uint32_t* queue
        if reader.whole:
            return
        if reader.queued == reader.queue_room:
            # What was queued and then stopped stays queued, so a queue may fill with what is no news.
            room = min(max(2 * reader.queue_room, <uint32_t>SLOTS_MIN), reader.room)
            queue = NULL
            if room > reader.queue_room:
                queue = <uint32_t*>realloc(reader.queue, room * sizeof(uint32_t))
            if queue == NULL:
                reader.whole = True
                reader.queued = reader.first = 0
                return
            self._heap += (room - reader.queue_room) * sizeof(uint32_t)
            reader.queue = queue
            reader.queue_room = room
        reader.queue[reader.queued] = at
        reader.queued += 1

    cdef void _call(self, uint32_t subscriber) noexcept nogil:
        """Name a subscriber as ready, once."""
        cdef uint32_t end
        if self._readers[subscriber].ready:
            return
        self._readers[subscriber].ready = True
        end = self._ready_at + self._ready_used
        if end >= self._readers_room:
            end -= self._readers_room
        self._ready[end] = subscriber
        self._ready_used += 1

    # --- what changes ---

    cdef int _why_gone(self, const Watched* record) noexcept nogil:
        if self._renewed:
            return NONE
        return LEFT if record.what & LEAVING else EXPIRED

    cdef void _look(self, uint32_t at, int rank) noexcept nogil:
        """Compare a user with what the table has; ``rank`` ticks are left."""
        cdef Watched* record = &self._records[at - 1]
        cdef int state = self._state(record.key, rank), before = record.what & 3
        self._place(at, rank)
        if state == before:
            return
        if before == ONLINE:
            self._change(at, state, self._why_gone(record))
        else:
            self._change(at, state, HEARTBEAT if state == ONLINE else NONE)

    cdef void _heard(self, uint64_t key, int what, int rank) noexcept nogil:
        cdef uint32_t at = self._find(key)
        cdef Watched* record
        if not at:
            return
        record = &self._records[at - 1]
        if what == STAYS:
            record.what &= <uint8_t>~LEAVING
        elif what == APPEARS:
            if record.what & 3 == ONLINE:  # its time had run out, and nobody had looked
                self._changes[self._why_gone(record)] += 1
            self._change(at, ONLINE, HEARTBEAT)
        elif rank:
            record.what |= LEAVING
        else:
            self._change(at, self._state(key, 0), LEFT)
        self._place(at, rank)

    cdef void _look_at(self, const uint32_t* these, int n) noexcept nogil:
        """Look up to ``BATCH`` users up at once."""
        cdef uint8_t[BATCH * 8] keys
        cdef Place[PLACES] places
        cdef int64_t beat = 0
        cdef int i
        for i in range(n):
            (<uint64_t*>keys)[i] = self._records[these[i] - 1].key
        fetch_group(self._table, keys, 0, n, places)
        for i in range(n):
            if i % GROUP == 0:
                fetch_group(self._table, keys, i + GROUP, n, places)
            self._look(these[i], rank_of(self._table, &places[i % PLACES], &beat))

    cdef void _forget(self, uint32_t number, uint32_t budget) noexcept nogil:
        """Forget up to so many slots of a subscriber that is gone, and with the last one itself."""
        cdef Reader* reader = &self._readers[number]
        cdef uint32_t end = reader.closing - min(reader.closing, budget)
        while reader.closing > end:
            reader.closing -= 1
            if reader.slots[reader.closing]:
                self._part(reader.slots[reader.closing], number)
                reader.slots[reader.closing] = 0
                reader.used -= 1
                self._watches -= 1
        if reader.closing:
            return
        self._heap -= reader.room * (sizeof(uint32_t) + 1) + reader.queue_room * sizeof(uint32_t)
        free(reader.slots)
        free(reader.queue)
        memset(reader, 0, sizeof(Reader))
        self._closing -= 1
        self._idle[self._readers_room - self._subscribers - self._closing - 1] = number

    cdef bint _forget_some(self, uint64_t budget) noexcept nogil:
        """Go on with those who are gone; whether there is more."""
        cdef uint32_t number = 0
        while self._closing and number < self._readers_room and budget:
            if self._readers[number].closing:
                self._forget(number, <uint32_t>min(budget, <uint64_t>AT_ONCE))
                return self._closing > 0
            number += 1
        return self._closing > 0

    cdef bint _turn(self, uint64_t budget) noexcept nogil:
        cdef uint32_t[BATCH] these
        cdef uint64_t done = 0
        cdef uint32_t at, spoke
        cdef int n
        if self._table._tick - self._turned > LAG:
            self._turned = self._table._tick
            self._again, self._seen = self._used, 0
        while self._turned < self._table._tick and done < budget:
            spoke = <uint32_t>((self._turned + 1) & (SPOKES - 1))
            n = 0
            at = self._spokes[spoke]
            while at and n < BATCH:
                these[n] = at
                at = self._records[at - 1].later
                n += 1
            if n:
                self._look_at(these, n)
            if not self._spokes[spoke]:
                self._turned += 1
            done += n
        while self._seen < self._again and done < budget:
            n = 0
            while self._seen < self._again and n < BATCH:
                self._seen += 1
                done += 1
                if not self._records[self._seen - 1].what & FREE:
                    these[n] = self._seen
                    n += 1
            self._look_at(these, n)
        if self._seen < self._again or self._turned < self._table._tick:
            return True
        self._renewed = False
        return False

    # --- the face ---

    cdef Reader* _reader(self, object subscriber) except NULL:
        cdef object number = checked_count(subscriber, "subscriber", 0, 2**32)
        if number >= self._readers_room or not self._readers[<uint32_t>number].open:
            raise ValueError(f"there is no subscriber {number}")
        return &self._readers[<uint32_t>number]

    cdef int _make_readers(self) except -1:
        """More room for subscribers, all of which will be idle."""
        cdef uint32_t room = max(2 * self._readers_room, <uint32_t>SLOTS_MIN), i
        cdef Reader* readers = <Reader*>realloc(self._readers, room * sizeof(Reader))
        cdef uint32_t* idle
        cdef uint32_t* ready
        if readers == NULL:
            raise MemoryError
        self._readers = readers
        idle = <uint32_t*>realloc(self._idle, room * sizeof(uint32_t))
        if idle == NULL:
            raise MemoryError
        self._idle = idle
        ready = <uint32_t*>malloc(room * sizeof(uint32_t))
        if ready == NULL:
            raise MemoryError
        for i in range(self._ready_used):
            ready[i] = self._ready[(self._ready_at + i) % self._readers_room]
        free(self._ready)
        self._ready = ready
        self._ready_at = 0
        memset(&readers[self._readers_room], 0, (room - self._readers_room) * sizeof(Reader))
        for i in range(self._readers_room, room):
            idle[room - 1 - i] = i
        self._readers_room = room
        return 0

    def open(self):
        """A new subscriber: a number that is not in use."""
        cdef uint32_t number
        if self._subscribers + self._closing == self._readers_room:
            self._make_readers()
        number = self._idle[self._readers_room - self._subscribers - self._closing - 1]
        self._subscribers += 1
        self._readers[number].open = True
        return number

    def close(self, subscriber):
        """A subscriber is gone, with all that it watched."""
        cdef Reader* reader = self._reader(subscriber)
        cdef uint32_t number = <uint32_t>(reader - self._readers), i, k
        if reader.ready:
            k = 0
            for i in range(self._ready_used):
                self._ready[(self._ready_at + k) % self._readers_room] = (
                    self._ready[(self._ready_at + i) % self._readers_room])
                k += self._ready[(self._ready_at + i) % self._readers_room] != number
            self._ready_used = k
        reader.open = reader.ready = False
        reader.closing = reader.room
        self._subscribers -= 1
        self._closing += 1
        self._forget(number, reader.room if reader.used <= AT_ONCE else 0)
        self._debug()

    def watch(self, subscriber, keys, now_ms):
        """Watch these keys too; the state of each now, or None if that were more than may be watched."""
        cdef Reader* reader = self._reader(subscriber)
        cdef int64_t now = checked_ms(now_ms, "now_ms")
        cdef Py_buffer view
        cdef bytes states
        keys_of(keys, &view)
        try:
            if not self._admits(reader, <const uint8_t*>view.buf, view.len // 8):
                return None
            states = PyBytes_FromStringAndSize(NULL, (view.len // 8 + 3) // 4)
            self._table.raw_advance(now)
            if not self._watch(
                reader, <const uint8_t*>view.buf, view.len // 8, <uint8_t*>PyBytes_AS_STRING(states)
            ):
                raise MemoryError
        finally:
            PyBuffer_Release(&view)
            self._listen()
        self._debug()
        return states

    cdef bint _admits(self, const Reader* reader, const uint8_t* keys, size_t n) noexcept nogil:
        cdef uint64_t more = n, i
        cdef uint64_t room = min(
            self._per_subscriber - min(self._per_subscriber, <uint64_t>reader.used),
            self._watches_max - min(self._watches_max, self._watches))
        cdef uint32_t at
        if more <= room:
            return True
        for i in range(n):
            at = self._find(load64(keys + 8 * i))
            if at and self._slot_of(reader, at) >= 0:
                more -= 1
        return more <= room

    cdef bint _watch(self, Reader* reader, const uint8_t* keys, size_t n, uint8_t* states) noexcept nogil:
        cdef uint32_t number = <uint32_t>(reader - self._readers), at, k
        cdef Place[PLACES] places
        cdef int64_t beat = 0, slot
        cdef uint64_t key
        cdef size_t i
        cdef int rank
        memset(states, 0, (n + 3) // 4)
        fetch_group(self._table, keys, 0, n, places)
        for i in range(n):
            if i % GROUP == 0:
                fetch_group(self._table, keys, i + GROUP, n, places)
                for k in range(i, min(i + GROUP, n)):
                    fetch(&self._heads[self._bucket_of(load64(keys + 8 * k))])
            key = load64(keys + 8 * i)
            rank = rank_of(self._table, &places[i % PLACES], &beat)
            states[i >> 2] |= <uint8_t>(self._state(key, rank) << (2 * (i & 3)))
            if not self._reserve(reader):
                return False
            at = self._find(key)
            slot = -1
            if at:
                self._look(at, rank)
                slot = self._slot_of(reader, at)
                if slot < 0 and not self._join(&self._records[at - 1], number):
                    return False
            else:
                at = self._add(key, number, rank)
            if slot < 0:
                k = scattered(at) & (reader.room - 1)
                while reader.slots[k]:
                    k = (k + 1) & (reader.room - 1)
                reader.slots[k] = at
                reader.used += 1
                self._watches += 1
            elif reader.news[slot] & NEWS:
                self._read(reader, <uint32_t>slot)
        return True

    def stop(self, subscriber, keys):
        """Watch these keys no more; those that it does not watch are passed over."""
        cdef Reader* reader = self._reader(subscriber)
        cdef uint32_t number = <uint32_t>(reader - self._readers), at
        cdef Py_buffer view
        cdef int64_t slot
        cdef size_t i
        keys_of(keys, &view)
        for i in range(<size_t>view.len // 8):
            at = self._find(load64(<const uint8_t*>view.buf + 8 * i))
            if at:
                slot = self._slot_of(reader, at)
                if slot >= 0:
                    self._leave_slot(reader, <uint32_t>slot)
                    self._part(at, number)
                    self._watches -= 1
        PyBuffer_Release(&view)
        self._debug()

    def turn(self, now_ms, budget):
        """Find whose time ran out by ``now_ms``, and after ``look_again`` what else changed."""
        cdef uint64_t most = checked_count(budget, "budget", 0, 2**62)
        self._table.raw_advance(checked_ms(now_ms, "now_ms"))
        due = self._turn(most)
        if self._closing:
            due |= self._forget_some(most)
        self._debug()
        return due

    def look_again(self):
        """Users who are not online may have another state: have ``turn`` look at all."""
        self._again, self._seen = self._used, 0

    @property
    def waiting(self):
        """Whether some subscriber is ready."""
        return self._ready_used > 0

    def ready(self, most):
        """Up to ``most`` subscribers that have news, each named once."""
        cdef uint32_t take = min(<uint32_t>checked_count(most, "most", 0, 2**31), self._ready_used)
        taken = []
        while take:
            taken.append(self._ready[self._ready_at])
            self._readers[self._ready[self._ready_at]].ready = False
            self._ready_at = (self._ready_at + 1) % self._readers_room
            self._ready_used -= 1
            take -= 1
        return taken

    def wake(self, subscriber):
        """Name a subscriber as ready again if it has news."""
        cdef Reader* reader = self._reader(subscriber)
        if reader.unread:
            self._call(<uint32_t>(reader - self._readers))

    def take(self, subscriber, most):
        """Up to ``most`` news, in no order: keys, states, causes."""
        cdef Reader* reader = self._reader(subscriber)
        cdef uint32_t n = min(<uint32_t>checked_count(most, "most", 0, 2**31), reader.unread)
        cdef bytes keys = PyBytes_FromStringAndSize(NULL, 8 * <Py_ssize_t>n)
        cdef bytes states = PyBytes_FromStringAndSize(NULL, (n + 3) // 4)
        cdef bytes causes = PyBytes_FromStringAndSize(NULL, n)
        cdef uint64_t* key = <uint64_t*>PyBytes_AS_STRING(keys)
        cdef uint8_t* state = <uint8_t*>PyBytes_AS_STRING(states)
        cdef uint8_t* cause = <uint8_t*>PyBytes_AS_STRING(causes)
        cdef uint32_t i = 0, k = 0, news
        cdef int64_t slot
        memset(state, 0, (n + 3) // 4)
        while i < n:
            if reader.whole:
                slot = k
                k += 1
            else:
                slot = self._slot_of(reader, reader.queue[reader.first])
                reader.first += 1
            if slot >= 0 and reader.news[slot] & NEWS:
                news = reader.news[slot]
                key[i] = self._records[reader.slots[slot] - 1].key
                state[i >> 2] |= <uint8_t>((news & 3) << (2 * (i & 3)))
                cause[i] = <uint8_t>(news >> 2 & 3)
                i += 1
                self._read(reader, <uint32_t>slot)
        if reader.unread:
            self._call(<uint32_t>(reader - self._readers))
        self._debug()
        return keys, states, causes

    # --- facts ---

    @property
    def users(self):
        """Users watched, each counted once."""
        return self._users

    @property
    def watches(self):
        """Users watched, each counted once for each subscriber."""
        return self._watches

    @property
    def subscribers(self):
        """Those there are."""
        return self._subscribers

    @property
    def memory_bytes(self):
        """Bytes in use."""
        return (
            self._heap + self._used * sizeof(Watched) + self._buckets * sizeof(uint32_t)
            + self._readers_room * (sizeof(Reader) + 2 * sizeof(uint32_t))
        )

    @property
    def changes(self):
        """Changes of watched users since the start, by cause."""
        return self._changes[0], self._changes[1], self._changes[2], self._changes[3]

    @property
    def coalesced(self):
        """News that a newer one took the place of before it was taken."""
        return self._coalesced

    # --- invariants ---

    cdef int _debug(self) except -1:
        if DEBUG and self._used < 2048:
            self._verify()
        return 0

    def _verify(self):
        """Recount everything; AssertionError where the set contradicts itself. O(watches): for tests."""
        cdef uint32_t number, at, i, before
        cdef Watched* record
        cdef Reader* reader
        watchers, standing = {}, set()
        for i in range(self._buckets):
            at = self._heads[i]
            while at:
                record = &self._records[at - 1]
                assert at not in watchers, f"record {at} is chained twice"
                assert not record.what & FREE, f"record {at} is free and chained"
                assert self._bucket_of(record.key) == i, f"record {at} is in a bucket that is not its own"
                assert self._find(record.key) == at, f"key {record.key} has two records"
                watchers[at] = []
                at = record.chain
        assert len(watchers) == self._users, f"{len(watchers)} records, {self._users} counted"
        for i in range(SPOKES):
            at, before = self._spokes[i], 0
            while at:
                record = &self._records[at - 1]
                assert record.spoke == i and record.sooner == before, f"record {at} is not well on its spoke"
                standing.add(at)
                at, before = record.later, at
        for at in watchers:
            record = &self._records[<uint32_t>at - 1]
            assert (at in standing) == (record.what & 3 == ONLINE) == (record.spoke != NO_SPOKE)
        assert standing <= watchers.keys()
        watches = 0
        for number in range(self._readers_room):
            reader = &self._readers[number]
            used = unread = 0
            for i in range(reader.room):
                if reader.slots[i]:
                    used += 1
                    unread += reader.news[i] & NEWS == NEWS
                    watchers[reader.slots[i]].append(number)
                    if reader.open:
                        assert self._slot_of(reader, reader.slots[i]) == i, "a slot that is not found"
            assert used == reader.used, f"subscriber {number}: {used} watches, {reader.used} counted"
            assert unread == reader.unread or not reader.open, f"subscriber {number}: {unread} news"
            watches += used
        assert watches == self._watches, f"{watches} watches, {self._watches} counted"
        for at, numbers in watchers.items():
            record = &self._records[<uint32_t>at - 1]
            listed = [<uint32_t>record.readers]
            if record.what & MANY:
                listed = [
                    subscribers_in(<Many*><size_t>record.readers)[i]
                    for i in range((<Many*><size_t>record.readers).used)
                ]
            assert sorted(listed) == numbers, f"record {at}: {listed} and {numbers}"


cdef void told(void* watcher, uint64_t key, int what, int rank) noexcept nogil:
    (<WatchSet>watcher)._heard(key, what, rank)
