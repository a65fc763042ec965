# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: autotestdict=False, freethreading_compatible=False
"""The client's kernel, compiled: no Python object per key, one pass over each batch.

``_kernel_reference.py`` is its specification and explains the shapes of batches and the ranking of owners;
the names, results and exceptions here are the same. It touches memory only: no I/O, no event loop, no clock.
Invariant: every length and position is checked before the first write, so a hostile reply can neither overrun
nor half-apply.
"""

from cpython cimport array
from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_SIMPLE, PyBUF_STRIDES, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.long cimport PyLong_AsUnsignedLongLong, PyLong_Check
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_Check
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

import array as _array
import uuid as _uuid

cdef extern from *:
    """
    #define PRIME_1 0x9E3779B185EBCA87ULL
    #define PRIME_2 0xC2B2AE3D27D4EB4FULL
    #define PRIME_3 0x165667B19E3779F9ULL
    #define PRIME_4 0x85EBCA77C2B2AE63ULL
    #define PRIME_5 0x27D4EB2F165667C5ULL
    #ifdef _MSC_VER
    #include <intrin.h>
    static int highest_bit(unsigned long long x) { unsigned long i; _BitScanReverse64(&i, x); return (int)i; }
    #else
    static inline int highest_bit(unsigned long long x) { return 63 - __builtin_clzll(x); }
    #endif
    """
    const uint64_t PRIME_1, PRIME_2, PRIME_3, PRIME_4, PRIME_5
    int highest_bit(uint64_t x) noexcept nogil

cdef enum:
    SLOTS = 16384
    SLOT_SHIFT = 50
    NONE = 0xFFFF
    WEIGHT_MAX = 1000
    LOG_CELLS = 1024

cdef array.array _POSITIONS = _array.array("I")
cdef array.array _OWNERS = _array.array("H")
cdef object _UUID = _uuid.UUID

# Keys a node while a batch is split, all zero between calls; the GIL is held throughout.
cdef uint32_t[NONE + 1] _counts
cdef uint64_t[LOG_CELLS + 1] _log2
cdef bint _log2_ready = False


# --- xxh64: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md ---

cdef inline uint64_t _load_64(const uint8_t* at) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, at, 8)
    return value


cdef inline uint64_t _rotated(uint64_t x, int by) noexcept nogil:
    return (x << by) | (x >> (64 - by))


cdef inline uint64_t _round(uint64_t lane, uint64_t data) noexcept nogil:
    return _rotated(lane + data * PRIME_2, 31) * PRIME_1


cdef inline uint64_t _merged(uint64_t h, uint64_t lane) noexcept nogil:
    return (h ^ _round(0, lane)) * PRIME_1 + PRIME_4


cdef inline uint64_t _avalanched(uint64_t h) noexcept nogil:
    h = (h ^ (h >> 33)) * PRIME_2
    h = (h ^ (h >> 29)) * PRIME_3
    return h ^ (h >> 32)


cdef inline uint64_t _hash_8(uint64_t data, uint64_t seed) noexcept nogil:
    cdef uint64_t h = (seed + PRIME_5 + 8) ^ _round(0, data)
    return _avalanched(_rotated(h, 27) * PRIME_1 + PRIME_4)


cdef uint64_t _hash(const uint8_t* at, Py_ssize_t size, uint64_t seed) noexcept nogil:
    cdef const uint8_t* end = at + size
    cdef uint64_t h, a, b, c, d
    cdef uint32_t word
    if size >= 32:
        a = seed + PRIME_1 + PRIME_2
        b = seed + PRIME_2
        c = seed
        d = seed - PRIME_1
        while end - at >= 32:
            a = _round(a, _load_64(at))
            b = _round(b, _load_64(at + 8))
            c = _round(c, _load_64(at + 16))
            d = _round(d, _load_64(at + 24))
            at += 32
        h = _rotated(a, 1) + _rotated(b, 7) + _rotated(c, 12) + _rotated(d, 18)
        h = _merged(_merged(_merged(_merged(h, a), b), c), d)
    else:
        h = seed + PRIME_5
    h += <uint64_t>size
    while end - at >= 8:
        h = _rotated(h ^ _round(0, _load_64(at)), 27) * PRIME_1 + PRIME_4
        at += 8
    if end - at >= 4:
        memcpy(&word, at, 4)
        h = _rotated(h ^ (<uint64_t>word * PRIME_1), 23) * PRIME_2 + PRIME_3
        at += 4
    while at < end:
        h = _rotated(h ^ (<uint64_t>at[0] * PRIME_5), 11) * PRIME_1
        at += 1
    return _avalanched(h)


# --- ids ---

def xxh64(data, seed: int) -> int:
    cdef uint64_t start = _checked_seed(seed)
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        return _hash(<const uint8_t*>view.buf, view.len, start)
    finally:
        PyBuffer_Release(&view)


def hash_id(user_id, bytes seeds not None) -> int:
    return _hash_id(user_id, _checked_seeds(seeds), -1)


def hash_ids(ids, bytes seeds not None) -> bytes:
    cdef const uint8_t* both = _checked_seeds(seeds)
    # A tuple cannot change while a subclass of str or UUID runs its own code.
    cdef tuple batch = tuple(ids)
    cdef Py_ssize_t count = len(batch), index
    cdef bytes keys = PyBytes_FromStringAndSize(NULL, 8 * count)
    cdef char* out = PyBytes_AS_STRING(keys)
    cdef uint64_t key
    for index in range(count):
        key = _hash_id(batch[index], both, index)
        memcpy(out + 8 * index, &key, 8)
    return keys


def is_buffer(value) -> bool:
    return PyObject_CheckBuffer(value)


def hash_integers(integers, seed: int) -> bytes:
    cdef uint64_t start = _checked_seed(seed)
    cdef Py_buffer view
    cdef Py_ssize_t count, stride, index
    cdef const uint8_t* at
    cdef uint64_t number, sign = 0, key
    cdef bytes keys
    cdef char* out
    cdef bytes kind
    if not PyObject_CheckBuffer(integers):
        raise TypeError(f"a buffer of 64-bit integers is needed, not {type(integers).__name__}")
    try:
        PyObject_GetBuffer(integers, &view, PyBUF_FORMAT | PyBUF_STRIDES)
    except (ValueError, BufferError) as error:
        raise TypeError(f"a buffer of 64-bit integers is needed: {error}") from None
    try:
        kind = b"B" if view.format == NULL else view.format
        if view.ndim != 1 or view.itemsize != 8 or kind.lstrip(b"@=<") not in _INTEGER_FORMATS:
            raise TypeError(
                "a one-dimensional buffer of native 64-bit integers is needed (array('Q'), numpy uint64), "
                f"not {view.ndim} dimensions of format {kind.decode('ascii', 'replace')!r}"
            )
        if kind.islower():
            sign = <uint64_t>1 << 63
        count = view.shape[0]
        stride = view.strides[0]
        at = <const uint8_t*>view.buf
        keys = PyBytes_FromStringAndSize(NULL, 8 * count)
        out = PyBytes_AS_STRING(keys)
        for index in range(count):
            number = _load_64(at)
            if number & sign:
                raise _refusal(<long long>number, index)
            key = _hash_8(number, start)
            memcpy(out + 8 * index, &key, 8)
            at += stride
        return keys
    finally:
        PyBuffer_Release(&view)


cdef frozenset _INTEGER_FORMATS = frozenset((b"Q", b"q", b"L", b"l", b"N", b"n"))


cdef uint64_t _hash_id(object user_id, const uint8_t* seeds, Py_ssize_t index) except? 0:
    cdef uint64_t int_seed = _load_64(seeds), string_seed = _load_64(seeds + 8)
    cdef uint64_t number
    cdef Py_ssize_t size
    cdef const char* text
    cdef bytes octets
    if PyLong_Check(user_id) and not isinstance(user_id, bool):
        try:
            number = PyLong_AsUnsignedLongLong(user_id)
        except OverflowError:
            raise _refusal(user_id, index) from None
        return _hash_8(number, int_seed)
    if PyUnicode_Check(user_id):
        try:
            text = PyUnicode_AsUTF8AndSize(user_id, &size)
        except UnicodeEncodeError:
            raise _refusal(user_id, index) from None
        return _hash(<const uint8_t*>text, size, string_seed)
    if PyBytes_Check(user_id):
        return _hash(<const uint8_t*>PyBytes_AS_STRING(user_id), PyBytes_GET_SIZE(user_id), string_seed)
    if isinstance(user_id, _UUID):
        octets = user_id.bytes
        return _hash(<const uint8_t*>PyBytes_AS_STRING(octets), PyBytes_GET_SIZE(octets), string_seed)
    raise _refusal(user_id, index)


cdef object _refusal(object user_id, Py_ssize_t index):
    from pulsering._kernel_reference import refusal

    return refusal(user_id, index)


cdef const uint8_t* _checked_seeds(bytes seeds) except NULL:
    if PyBytes_GET_SIZE(seeds) != 16:
        raise ValueError(f"two packed seeds are 16 bytes, not {PyBytes_GET_SIZE(seeds)}")
    return <const uint8_t*>PyBytes_AS_STRING(seeds)


cdef uint64_t _checked_seed(object seed) except? 0:
    try:
        return PyLong_AsUnsignedLongLong(seed)
    except OverflowError:
        raise OverflowError(f"a hash seed is an int in 0..2**64-1, not {seed}") from None


# --- owners ---

cdef inline uint64_t _cost(uint64_t h, uint32_t weight) noexcept nogil:
    cdef uint64_t mantissa, log, cost
    cdef int exponent
    if h == 0:
        h = 1
    exponent = highest_bit(h)
    mantissa = h << (63 - exponent)
    cdef uint64_t* cell = _log2 + ((mantissa >> 53) & (LOG_CELLS - 1))
    log = (<uint64_t>exponent << 40) + cell[0]
    log += ((cell[1] - cell[0]) * ((mantissa >> 21) & 0xFFFFFFFFU)) >> 32
    cost = ((<uint64_t>64 << 40) - log) << 16
    return cost if weight == 1 else cost // weight


cdef int _pick(
    const uint64_t* costs, int count, const uint16_t* hosts, const uint16_t* zones,
    const uint16_t* taken, int ranks, bint apart_hosts, bint apart_zones,
) noexcept nogil:
    """Return the cheapest node not yet taken (of another host, of another zone), or -1."""
    cdef int node, other, best = -1
    cdef uint64_t least = 0xFFFFFFFFFFFFFFFFU
    cdef bint free
    for node in range(count):
        if costs[node] >= least:
            continue
        free = True
        for other in range(ranks):
            if (
                taken[other] == node
                or (apart_hosts and hosts[taken[other]] == hosts[node])
                or (apart_zones and zones[node] != 0 and zones[taken[other]] == zones[node])
            ):
                free = False
                break
        if free:
            best = node
            least = costs[node]
    return best


def rank_owners(
    array.array name_seeds, array.array weights, array.array hosts, array.array zones, replicas: int
) -> _array.array:
    cdef Py_ssize_t nodes = len(name_seeds)
    _check_code(name_seeds, b"Q")
    _check_code(weights, b"I")
    _check_code(hosts, b"H")
    _check_code(zones, b"H")
    if not len(weights) == len(hosts) == len(zones) == nodes:
        raise ValueError("name_seeds, weights, hosts and zones need an entry a node each")
    if not 1 <= replicas <= nodes < NONE:
        raise ValueError(f"{replicas} replicas of {nodes} nodes: needed are 1 <= replicas <= nodes <= 65534")
    cdef const uint64_t[::1] seed_view = name_seeds
    cdef const uint32_t[::1] weight_view = weights
    cdef const uint16_t[::1] host_view = hosts
    cdef const uint16_t[::1] zone_view = zones
    cdef int count = <int>nodes, ranks = replicas, node, rank, slot, owner
    for node in range(count):
        if not 1 <= weight_view[node] <= WEIGHT_MAX:
            raise ValueError(f"a weight is outside 1..{WEIGHT_MAX}")
    _fill_log2()
    cdef array.array owners = array.clone(_OWNERS, SLOTS * ranks, False)
    cdef uint16_t* out = owners.data.as_ushorts
    cdef uint64_t* costs = <uint64_t*>PyMem_Malloc(count * sizeof(uint64_t))
    if costs == NULL:
        raise MemoryError
    with nogil:
        for slot in range(SLOTS):
            for node in range(count):
                costs[node] = _cost(_hash_8(<uint64_t>slot, seed_view[node]), weight_view[node])
            for rank in range(ranks):
                owner = _pick(costs, count, &host_view[0], &zone_view[0], out, rank, True, True)
                if owner < 0:
                    owner = _pick(costs, count, &host_view[0], &zone_view[0], out, rank, True, False)
                if owner < 0:
                    owner = _pick(costs, count, &host_view[0], &zone_view[0], out, rank, False, False)
                out[rank] = <uint16_t>owner
            out += ranks
    PyMem_Free(costs)
    return owners


def reorder_owners(array.array owners, replicas: int, avoided) -> _array.array:
    cdef Py_ssize_t count = len(owners), start, rank
    cdef Py_ssize_t ranks = replicas
    _check_code(owners, b"H")
    if ranks < 1 or count % ranks:
        raise ValueError(f"an owner table of {count} entries does not divide by {replicas} replicas")
    cdef array.array ordered = array.clone(_OWNERS, count, False)
    cdef const uint16_t* at = owners.data.as_ushorts
    cdef uint16_t* out = ordered.data.as_ushorts
    cdef Py_buffer view
    cdef const uint8_t* flags
    cdef int highest = -1
    PyObject_GetBuffer(avoided, &view, PyBUF_SIMPLE)
    try:
        for start in range(count):
            highest = max(highest, <int>at[start])
        if highest >= view.len:
            raise ValueError(f"the owner table names node {highest}, but there are {view.len}")
        flags = <const uint8_t*>view.buf
        start = 0
        while start < count:
            for rank in range(start, start + ranks):
                if not flags[at[rank]]:
                    out[0] = at[rank]
                    out += 1
            for rank in range(start, start + ranks):
                if flags[at[rank]]:
                    out[0] = at[rank]
                    out += 1
            start += ranks
        return ordered
    finally:
        PyBuffer_Release(&view)


cdef int _fill_log2() except -1:
    global _log2_ready
    cdef Py_ssize_t cell
    if not _log2_ready:
        from pulsering._kernel_reference import log2_table

        table = log2_table()
        for cell in range(LOG_CELLS + 1):
            _log2[cell] = table[cell]
        _log2_ready = True
    return 0


# --- batches ---

def partition(keys, array.array targets, array.array positions, chunk: int) -> list:
    cdef Py_ssize_t limit = chunk, ranks
    cdef Py_buffer view
    _check_code(targets, b"H")
    if positions is not None:
        _check_code(positions, b"I")
    PyObject_GetBuffer(keys, &view, PyBUF_SIMPLE)
    try:
        if view.len % 8:
            raise ValueError(f"packed keys are 8 bytes each, not {view.len} in all")
        ranks = len(targets) // SLOTS
        if ranks == 0 or len(targets) % SLOTS:
            raise ValueError(f"targets needs {SLOTS} entries or a multiple, not {len(targets)}")
        if view.len // 8 * ranks > 0xFFFFFFFF:
            raise ValueError("a batch holds at most 2**32-1 keys, copies included")
        if positions is not None and len(positions) != view.len // 8:
            raise ValueError(f"{len(positions)} positions for {view.len // 8} keys")
        if limit < 1:
            raise ValueError("a chunk holds at least one key")
        return _split(
            <const uint8_t*>view.buf, view.len // 8, targets.data.as_ushorts, ranks,
            NULL if positions is None else positions.data.as_uints, limit,
        )
    finally:
        PyBuffer_Release(&view)


cdef list _split(
    const uint8_t* keys, Py_ssize_t count, const uint16_t* targets, Py_ssize_t ranks,
    const uint32_t* positions, Py_ssize_t limit,
):
    """A counting sort by target: count, place in two scratch arrays, cut into pieces."""
    cdef list touched = [], pieces = []
    cdef Py_ssize_t index, rank, start, size, taken
    cdef uint32_t place, total = 0, amount
    cdef uint16_t target
    cdef const uint16_t* owners
    cdef array.array piece
    cdef bytes part
    cdef uint8_t* sorted_keys = <uint8_t*>PyMem_Malloc(12 * count * ranks + 1)
    if sorted_keys == NULL:
        raise MemoryError
    cdef uint32_t* sorted_positions = <uint32_t*>(sorted_keys + 8 * count * ranks)
    try:
        for index in range(count):
            owners = targets + (_load_64(keys + 8 * index) >> SLOT_SHIFT) * ranks
            for rank in range(ranks):
                target = owners[rank]
                if _counts[target] == 0:
                    touched.append(target)
                _counts[target] += 1
        touched.sort()
        for node in touched:
            target = node
            amount = _counts[target]
            _counts[target] = total
            total += amount
        for index in range(count):
            owners = targets + (_load_64(keys + 8 * index) >> SLOT_SHIFT) * ranks
            for rank in range(ranks):
                target = owners[rank]
                place = _counts[target]
                _counts[target] = place + 1
                memcpy(sorted_keys + <Py_ssize_t>8 * place, keys + 8 * index, 8)
                sorted_positions[place] = <uint32_t>index if positions == NULL else positions[index]
        start = 0
        for node in touched:
            if node == NONE:
                break
            size = _counts[<uint16_t>node] - start
            while size > 0:
                taken = min(size, limit)
                piece = array.clone(_POSITIONS, taken, False)
                memcpy(piece.data.as_uints, sorted_positions + start, 4 * taken)
                part = PyBytes_FromStringAndSize(<char*>sorted_keys + 8 * start, 8 * taken)
                pieces.append((node, part, piece))
                start += taken
                size -= taken
        return pieces
    finally:
        for node in touched:
            _counts[<uint16_t>node] = 0
        PyMem_Free(sorted_keys)


def merge_states(bytearray evidence, array.array positions, packed) -> None:
    cdef Py_ssize_t count = _check_positions(positions, evidence), index
    cdef const uint32_t* at = positions.data.as_uints
    cdef uint8_t* known = <uint8_t*><char*>evidence
    cdef const uint8_t* states
    cdef Py_buffer view
    PyObject_GetBuffer(packed, &view, PyBUF_SIMPLE)
    try:
        if view.len != (count + 3) // 4:
            raise ValueError(f"{count} states of 2 bits do not fill {view.len} bytes")
        states = <const uint8_t*>view.buf
        for index in range(count):
            known[at[index]] |= <uint8_t>(1 << ((states[index >> 2] >> (2 * (index & 3))) & 3))
    finally:
        PyBuffer_Release(&view)


def mark(bytearray evidence, array.array positions, bits: int) -> None:
    cdef Py_ssize_t count = _check_positions(positions, evidence), index
    cdef const uint32_t* at = positions.data.as_uints
    cdef uint8_t* known = <uint8_t*><char*>evidence
    cdef uint8_t added = _checked_byte(bits)
    for index in range(count):
        known[at[index]] |= added


def merge_ages(bytearray ages, array.array positions, new) -> None:
    cdef Py_ssize_t count = _check_positions(positions, ages), index
    cdef const uint32_t* at = positions.data.as_uints
    cdef uint8_t* known = <uint8_t*><char*>ages
    cdef const uint8_t* fresh
    cdef Py_buffer view
    PyObject_GetBuffer(new, &view, PyBUF_SIMPLE)
    try:
        if view.len != count:
            raise ValueError(f"{view.len} ages for {count} keys")
        fresh = <const uint8_t*>view.buf
        for index in range(count):
            if fresh[index] < known[at[index]]:
                known[at[index]] = fresh[index]
    finally:
        PyBuffer_Release(&view)


def merge_seconds(bytearray seconds, array.array positions, new) -> None:
    cdef Py_ssize_t count = _check_positions(positions, seconds, 4), index
    cdef const uint32_t* at = positions.data.as_uints
    cdef uint32_t* known = <uint32_t*><char*>seconds
    cdef uint32_t fresh
    cdef Py_buffer view
    PyObject_GetBuffer(new, &view, PyBUF_SIMPLE)
    try:
        if view.len != 4 * count:
            raise ValueError(f"{view.len} bytes of seconds for {count} keys")
        for index in range(count):
            memcpy(&fresh, <const char*>view.buf + 4 * index, 4)
            if fresh < known[at[index]]:
                known[at[index]] = fresh
    finally:
        PyBuffer_Release(&view)


def tally(bytearray acks, array.array positions) -> None:
    cdef Py_ssize_t count = _check_positions(positions, acks), index
    cdef const uint32_t* at = positions.data.as_uints
    cdef uint8_t* known = <uint8_t*><char*>acks
    for index in range(count):
        known[at[index]] += known[at[index]] != 255


def select(keys, evidence, mask: int) -> tuple:
    cdef uint8_t unwanted
    cdef Py_ssize_t index, size, found = 0
    cdef Py_buffer packed, known
    cdef const uint8_t* bits
    cdef bytes chosen
    cdef array.array positions
    PyObject_GetBuffer(keys, &packed, PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(evidence, &known, PyBUF_SIMPLE)
        try:
            if packed.len != 8 * known.len:
                raise ValueError(
                    f"{known.len} bytes of evidence for {packed.len} bytes of keys, which are 8 each"
                )
            unwanted = _checked_byte(mask)
            bits = <const uint8_t*>known.buf
            size = known.len
            for index in range(size):
                found += (bits[index] & unwanted) == 0
            chosen = PyBytes_FromStringAndSize(NULL, 8 * found)
            positions = array.clone(_POSITIONS, found, False)
            found = 0
            for index in range(size):
                if (bits[index] & unwanted) == 0:
                    memcpy(PyBytes_AS_STRING(chosen) + 8 * found, <char*>packed.buf + 8 * index, 8)
                    positions.data.as_uints[found] = <uint32_t>index
                    found += 1
            return chosen, positions
        finally:
            PyBuffer_Release(&known)
    finally:
        PyBuffer_Release(&packed)


# --- replies: each is read whole, or left to the reader in messages, which says what is wrong with it ---

cdef struct Cursor:
    const uint8_t* at
    const uint8_t* end


cdef inline uint64_t _big_endian(Cursor* cursor, int size) noexcept nogil:
    cdef uint64_t value = 0
    cdef int index
    for index in range(size):
        value = value << 8 | cursor.at[index]
    cursor.at += size
    return value


cdef bint _read_head(Cursor* cursor, uint8_t head) noexcept nogil:
    if cursor.at == cursor.end or cursor.at[0] != head:
        return False
    cursor.at += 1
    return True


cdef bint _read_uint(Cursor* cursor, uint64_t maximum, uint64_t* value) noexcept nogil:
    """Read an unsigned integer of any msgpack form."""
    cdef int size
    if cursor.at == cursor.end:
        return False
    if cursor.at[0] < 0x80:
        value[0] = cursor.at[0]
        cursor.at += 1
        return value[0] <= maximum
    if not 0xCC <= cursor.at[0] <= 0xCF:
        return False
    size = 1 << (cursor.at[0] - 0xCC)
    cursor.at += 1
    if cursor.end - cursor.at < size:
        return False
    value[0] = _big_endian(cursor, size)
    return value[0] <= maximum


cdef bint _read_bin(Cursor* cursor, Py_ssize_t length) noexcept nogil:
    """Step over binary data of just this length."""
    cdef int size
    if cursor.at == cursor.end or not 0xC4 <= cursor.at[0] <= 0xC6:
        return False
    size = 1 << (cursor.at[0] - 0xC4)
    cursor.at += 1
    if cursor.end - cursor.at < size or _big_endian(cursor, size) != <uint64_t>length:
        return False
    if cursor.end - cursor.at < length:
        return False
    cursor.at += length
    return True


cdef bytes _before(const uint8_t* end, Py_ssize_t size):
    """Return the bytes that end there."""
    return PyBytes_FromStringAndSize(<const char*>end - size, size)


def read_write_reply(bytes body not None, count: int) -> tuple | None:
    cdef uint64_t keys = count, epoch, accepted, stale, refused, moved
    cdef Cursor cursor
    cursor.at = <const uint8_t*>PyBytes_AS_STRING(body)
    cursor.end = cursor.at + PyBytes_GET_SIZE(body)
    if (
        _read_head(&cursor, 0x95)
        and _read_uint(&cursor, 0xFFFFFFFFU, &epoch)
        and _read_uint(&cursor, keys, &accepted)
        and _read_uint(&cursor, keys, &stale)
        and _read_uint(&cursor, keys, &refused)
        and _read_uint(&cursor, keys, &moved)
        and cursor.at == cursor.end
        and accepted + stale + refused + moved == keys
    ):
        return epoch, accepted, stale, refused, moved
    return None


def read_get_reply(bytes body not None, count: int, want_ages: bool) -> tuple | None:
    cdef uint64_t keys = count, epoch, warming_ms, found
    cdef Py_ssize_t states = (count + 3) // 4, ages = count if want_ages else 0
    cdef const uint8_t* states_end
    cdef Cursor cursor
    cursor.at = <const uint8_t*>PyBytes_AS_STRING(body)
    cursor.end = cursor.at + PyBytes_GET_SIZE(body)
    if (
        _read_head(&cursor, 0x95)
        and _read_uint(&cursor, 0xFFFFFFFFU, &epoch)
        and _read_uint(&cursor, 0xFFFFFFFFU, &warming_ms)
        and _read_uint(&cursor, 0xFFFFFFFFU, &found)
        and found == keys
        and _read_bin(&cursor, states)
    ):
        states_end = cursor.at
        if _read_bin(&cursor, ages) and cursor.at == cursor.end:
            return epoch, warming_ms, found, _before(states_end, states), _before(cursor.at, ages)
    return None


cdef int _check_code(array.array numbers, bytes code) except -1:
    if numbers is None or numbers.typecode != code.decode():
        raise TypeError(f"an array of typecode {code.decode()!r} is needed")
    return 0


cdef Py_ssize_t _check_positions(array.array positions, bytearray target, Py_ssize_t width=1) except -1:
    """Return the number of positions, all of which lie within the target of ``width`` bytes an entry."""
    _check_code(positions, b"I")
    if target is None:
        raise TypeError("a bytearray is needed, not NoneType")
    cdef Py_ssize_t count = len(positions), index
    cdef const uint32_t* at = positions.data.as_uints
    cdef uint32_t highest = 0
    for index in range(count):
        highest = at[index] if at[index] > highest else highest
    if count and highest >= len(target) // width:
        raise ValueError(f"position {highest} is beyond a batch of {len(target) // width}")
    return count


cdef int _checked_byte(object bits) except -1:
    if not 0 <= bits <= 255:
        raise ValueError(f"evidence bits are 0..255, not {bits}")
    return bits
