"""Extendible hashing over 1 KiB cells: the annex (entries that found no line) and the ledger (leaves).

Cells are ordered by the mixed key: the directory is indexed by its top bits, a full cell splits in two, two
poor neighbours merge. Growing moves one cell at a time, and the last cell moves into a freed one's place, so
memory is dense and goes back to the system from its end. Where keys are too much alike to be split, cells
chain. Invariant: a cell of depth d holds exactly the keys that share the top d bits of its ``low``.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from pulsering_server._line cimport ctz, load64

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void*, size_t, int, int, int, long) noexcept
    int munmap(void*, size_t) noexcept
    int madvise(void*, size_t, int) noexcept
    const int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MADV_DONTNEED, MADV_HUGEPAGE
    void* MAP_FAILED

cdef extern from *:
    """
    #ifndef MADV_POPULATE_WRITE
    #define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
    #endif
    """
    const int MADV_POPULATE_WRITE

cdef enum:
    CELL = 1024
    HEAD = 16
    DEPTH_MAX = 26
    BLOCK_CELLS = 2048  # 2 MiB

cdef struct Cell:
    uint16_t count
    uint8_t depth
    uint8_t chained  # 1: not a head, reached by another cell's ``after``
    uint32_t after  # 1 + index of the next cell of the chain
    uint64_t low  # smallest mixed key that belongs here

cdef struct Cells:
    uint8_t* memory
    uint32_t* directory
    size_t reserve  # cells
    uint32_t used
    int depth
    int payload  # bytes an entry beside its key
    int room  # entries a cell
    uint64_t count

cdef struct Hit:
    Cell* cell
    int i


cdef inline void* reserved(size_t size, size_t least, size_t* got) noexcept nogil:
    """Address space for ``size`` bytes, or for less down to ``least`` where the system is strict; NULL if
    none."""
    cdef void* at
    while size >= least:
        at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if at != MAP_FAILED:
            got[0] = size
            return at
        size >>= 1
    return NULL


cdef inline bint cells_open(Cells* cells, int payload, size_t reserve) noexcept nogil:
    cdef size_t got = 0
    memset(cells, 0, sizeof(Cells))
    cells.payload = payload
    cells.room = (CELL - HEAD) // (9 + payload)
    cells.memory = <uint8_t*>reserved(reserve * CELL, 1 << 20, &got)
    cells.reserve = got // CELL
    if cells.memory == NULL:
        return False
    cells.directory = <uint32_t*>reserved(<size_t>4 << DEPTH_MAX, <size_t>4 << DEPTH_MAX, &got)
    if cells.directory == NULL:
        return False
    cells.used = 1
    return True


cdef inline void cells_close(Cells* cells) noexcept nogil:
    if cells.memory != NULL:
        munmap(cells.memory, cells.reserve * CELL)
    if cells.directory != NULL:
        munmap(cells.directory, <size_t>4 << DEPTH_MAX)
    cells.memory = NULL
    cells.directory = NULL


cdef inline uint64_t cells_bytes(const Cells* cells) noexcept nogil:
    return <uint64_t>cells.used * CELL + (<uint64_t>4 << cells.depth)


cdef inline Cell* cell_at(const Cells* cells, uint32_t index) noexcept nogil:
    return <Cell*>(cells.memory + <size_t>index * CELL)


cdef inline uint32_t index_of(const Cells* cells, const Cell* cell) noexcept nogil:
    return <uint32_t>((<uint8_t*>cell - cells.memory) // CELL)


cdef inline uint64_t slot_of(const Cells* cells, uint64_t key) noexcept nogil:
    return key >> (64 - cells.depth) if cells.depth else 0


cdef inline uint64_t* keys_in(Cell* cell) noexcept nogil:
    return <uint64_t*>(<uint8_t*>cell + HEAD)


cdef inline uint8_t* payload_in(const Cells* cells, Cell* cell, int i) noexcept nogil:
    return <uint8_t*>cell + HEAD + 8 * cells.room + i * cells.payload


cdef inline uint8_t* tags_in(const Cells* cells, Cell* cell) noexcept nogil:
    return <uint8_t*>cell + HEAD + (8 + cells.payload) * cells.room


cdef inline uint8_t tag_of(uint64_t key) noexcept nogil:
    return <uint8_t>(key >> 28)


cdef inline Hit cells_find(const Cells* cells, uint64_t key) noexcept nogil:
    """Where ``key`` is; ``cell`` is NULL if nowhere. Valid until the next write."""
    cdef Hit hit
    cdef Cell* cell = cell_at(cells, cells.directory[slot_of(cells, key)])
    cdef const uint8_t* tags
    cdef uint8_t tag = tag_of(key)
    cdef int i
    while True:
        tags = tags_in(cells, cell)
        for i in range(cell.count):
            if tags[i] == tag and keys_in(cell)[i] == key:
                hit.cell = cell
                hit.i = i
                return hit
        if not cell.after:
            hit.cell = NULL
            hit.i = 0
            return hit
        cell = cell_at(cells, cell.after - 1)


cdef inline Hit cells_first(const Cells* cells, uint64_t low, uint64_t high) noexcept nogil:
    """Any entry with ``low <= key <= high``; ``cell`` is NULL if there is none."""
    cdef Hit hit
    cdef uint64_t at = low, width
    cdef Cell* head
    cdef Cell* cell
    cdef int i
    while True:
        head = cell = cell_at(cells, cells.directory[slot_of(cells, at)])
        while True:
            for i in range(cell.count):
                if low <= keys_in(cell)[i] <= high:
                    hit.cell = cell
                    hit.i = i
                    return hit
            if not cell.after:
                break
            cell = cell_at(cells, cell.after - 1)
        width = <uint64_t>1 << (64 - head.depth) if head.depth else 0
        at = head.low + width
        if not width or at > high or at == 0:
            hit.cell = NULL
            hit.i = 0
            return hit


cdef inline Cell* cells_new(Cells* cells) noexcept nogil:
    cdef Cell* cell
    if cells.used >= cells.reserve:
        return NULL
    cell = cell_at(cells, cells.used)
    cells.used += 1
    memset(cell, 0, sizeof(Cell))
    return cell


cdef inline void cells_append(
    const Cells* cells, Cell* cell, uint64_t key, const uint8_t* payload,
) noexcept nogil:
    cdef int i = cell.count
    keys_in(cell)[i] = key
    tags_in(cells, cell)[i] = tag_of(key)
    if payload != NULL:
        memcpy(payload_in(cells, cell, i), payload, cells.payload)
    cell.count = <uint16_t>(i + 1)


cdef inline void cells_take(const Cells* cells, Cell* cell, int i) noexcept nogil:
    """Remove entry ``i`` of one cell: the last takes its place."""
    cdef int last = cell.count - 1
    if i != last:
        keys_in(cell)[i] = keys_in(cell)[last]
        tags_in(cells, cell)[i] = tags_in(cells, cell)[last]
        memcpy(payload_in(cells, cell, i), payload_in(cells, cell, last), cells.payload)
    cell.count = <uint16_t>last


cdef inline void cells_direct(Cells* cells, Cell* head, uint32_t index) noexcept nogil:
    """Point the directory's entries for ``head``'s keys at ``index``."""
    cdef uint64_t first = slot_of(cells, head.low)
    cdef uint64_t number = <uint64_t>1 << (cells.depth - head.depth)
    cdef uint64_t i
    for i in range(first, first + number):
        cells.directory[i] = index


cdef inline bint cells_double(Cells* cells) noexcept nogil:
    cdef int64_t i
    if cells.depth >= DEPTH_MAX or (<uint64_t>1 << cells.depth) > <uint64_t>16 * cells.used + 1024:
        return False
    i = (<int64_t>1 << cells.depth) - 1
    while i >= 0:
        cells.directory[2 * i + 1] = cells.directory[i]
        cells.directory[2 * i] = cells.directory[i]
        i -= 1
    cells.depth += 1
    return True


cdef inline bint cells_split(Cells* cells, Cell* cell) noexcept nogil:
    cdef Cell* upper
    cdef int i
    if cell.after or (cell.depth == cells.depth and not cells_double(cells)):
        return False
    upper = cells_new(cells)
    if upper == NULL:
        return False
    cell.depth += 1
    upper.depth = cell.depth
    upper.low = cell.low | <uint64_t>1 << (64 - cell.depth)
    i = cell.count - 1
    while i >= 0:
        if keys_in(cell)[i] >= upper.low:
            cells_append(cells, upper, keys_in(cell)[i], payload_in(cells, cell, i))
            cells_take(cells, cell, i)
        i -= 1
    cells_direct(cells, upper, index_of(cells, upper))
    return True


cdef inline uint8_t* cells_add(Cells* cells, uint64_t key, bint may_grow) noexcept nogil:
    """Room for the payload of a new key (which must not be held yet); NULL when there is none."""
    cdef Cell* cell
    cdef Cell* more
    while True:
        cell = cell_at(cells, cells.directory[slot_of(cells, key)])
        while cell.count == cells.room and cell.after:
            cell = cell_at(cells, cell.after - 1)
        if cell.count < cells.room:
            cells_append(cells, cell, key, NULL)
            cells.count += 1
            return payload_in(cells, cell, cell.count - 1)
        if not may_grow:
            return NULL
        if not cell.chained and cells_split(cells, cell):
            continue
        more = cells_new(cells)
        if more == NULL:
            return NULL
        more.chained = 1
        more.depth = cell.depth
        more.low = cell.low
        cell.after = index_of(cells, more) + 1


cdef inline void cells_free(Cells* cells, uint32_t index) noexcept nogil:
    """Give a cell back; the last cell moves into its place."""
    cdef uint32_t last = cells.used - 1
    cdef Cell* cell
    if index != last:
        memcpy(cell_at(cells, index), cell_at(cells, last), CELL)
        cell = cell_at(cells, index)
        if not cell.chained:
            cells_direct(cells, cell, index)
        else:
            cell = cell_at(cells, cells.directory[slot_of(cells, cell.low)])
            while cell.after != last + 1:
                cell = cell_at(cells, cell.after - 1)
            cell.after = index + 1
    cells.used = last
    if last % BLOCK_CELLS == 0 and last + 2 * BLOCK_CELLS <= cells.reserve:
        madvise(cell_at(cells, last + BLOCK_CELLS), BLOCK_CELLS * CELL, MADV_DONTNEED)


cdef inline void cells_reset(Cells* cells) noexcept nogil:
    """Forget everything and give the memory back."""
    madvise(cells.memory, <size_t>cells.used * CELL, MADV_DONTNEED)
    madvise(cells.directory, <size_t>4 << cells.depth, MADV_DONTNEED)
    memset(cells.memory, 0, sizeof(Cell))
    cells.directory[0] = 0
    cells.used = 1
    cells.depth = 0
    cells.count = 0


cdef inline void cells_merge(Cells* cells, Cell* cell) noexcept nogil:
    """Merge a poor head with its neighbour of the same depth, as long as both are poor."""
    cdef Cell* other
    cdef Cell* upper
    cdef uint64_t bit
    cdef int i
    while cell.depth and not cell.after and not cell.chained:
        bit = <uint64_t>1 << (64 - cell.depth)
        other = cell_at(cells, cells.directory[slot_of(cells, cell.low ^ bit)])
        if other.depth != cell.depth or other.after or 2 * (cell.count + other.count) > cells.room:
            return
        upper = other
        if cell.low & bit:
            upper = cell
            cell = other
        for i in range(upper.count):
            cells_append(cells, cell, keys_in(upper)[i], payload_in(cells, upper, i))
        cell.depth -= 1
        cells_direct(cells, cell, index_of(cells, cell))
        bit = cell.low
        cells_free(cells, index_of(cells, upper))
        cell = cell_at(cells, cells.directory[slot_of(cells, bit)])


cdef inline void cells_remove(Cells* cells, Hit hit) noexcept nogil:
    cdef Cell* head
    cdef Cell* cell = hit.cell
    cdef uint32_t spare
    cells_take(cells, cell, hit.i)
    cells.count -= 1
    if cells.count == 0:
        cells_reset(cells)
        return
    head = cell_at(cells, cells.directory[slot_of(cells, cell.low)])
    if head.after:
        if cell.count:
            return
        if cell.chained:
            while cell_at(cells, head.after - 1) != cell:
                head = cell_at(cells, head.after - 1)
            head.after = cell.after
            cells_free(cells, index_of(cells, cell))
        else:
            spare = cell.after - 1
            memcpy(cell, cell_at(cells, spare), CELL)
            cell.chained = 0
            cells_free(cells, spare)
    elif 4 * cell.count < cells.room:
        cells_merge(cells, cell)
