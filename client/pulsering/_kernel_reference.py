"""The client's kernel in plain Python: the specification of ``_kernel.pyx``, readable line by line.

It hashes ids to keys, ranks a topology's owners, splits a batch by node and joins the answers. Every function
is pure apart from the bytearrays it is told to fill: no I/O, no loop, no clock. It favours the obvious over
the fast. Invariant: sizes and positions are checked before anything is written, so a ``ValueError`` leaves
its arguments as they were (packed answers come from the network, where any length is possible).

Batches have four shapes here:

- keys: packed little-endian u64, 8 bytes a key
- positions: ``array('I')``, where in the caller's batch each key came from
- evidence: ``bytearray``, one byte a key of the caller's batch; bit 0 some owner said offline, 1 online, 2
  unknown, 3 moved, 4 an owner was unreachable, 5 an owner was overloaded
- owners: ``array('H')``, node indices; ``owners[slot * replicas + rank]``; 0xFFFF is no node

Owner ranking
-------------
Weighted rendezvous hashing [1] in integers only, so that every language and platform gets the same table:

- ``h = xxh64(slot as 8 little-endian bytes, seed = name_seed)``, one for each node and slot; an h of 0 counts
  as 1.
- ``log(h)`` is log2(h) with 40 fractional bits, interpolated: with ``e = floor(log2 h)`` and ``m = h << (63 -
  e)`` (so bit 63 is set), ``i`` = bits 62..53 of m, ``f`` = bits 52..21 of m, it is ``(e << 40) + T[i] +
  ((T[i + 1] - T[i]) * f >> 32)``, where ``T[i] = floor(2^40 * log2(1 + i / 1024))``, i = 0..1024.
- ``cost = (((64 << 40) - log(h)) << 16) // weight``, everything an unsigned 64-bit integer.
- The first owner has the lowest cost; each next one has the lowest cost among the nodes on a host not used
  yet and in a zone not used yet; if there is none, among those on a host not used yet; if there is none,
  among all not used yet. A node without a zone is in a zone of its own. Equal costs: the node that comes
  first wins (nodes are in the order of their names).

-log2 of a uniform variate is exponential, and the least of exponentials divided by their weights falls on
each in proportion to its weight. A node that was no owner takes part in no decision, so removing it changes
nothing.

[1] Thaler, Ravishankar: Using name-based mappings to increase hit rates, IEEE/ACM Transactions on Networking
6(1), 1998; weights after Schindelhauer, Schomaker: Weighted distributed hash tables, SPAA 2005.
"""

import struct
import sys
import uuid
from array import array
from functools import lru_cache
from typing import TYPE_CHECKING

from xxhash import xxh64_intdigest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Buffer, TypeIs

__all__ = [
    "cost_of",
    "hash_id",
    "hash_ids",
    "hash_integers",
    "is_buffer",
    "log2_table",
    "mark",
    "merge_ages",
    "merge_seconds",
    "merge_states",
    "partition",
    "rank_owners",
    "read_get_reply",
    "read_write_reply",
    "refusal",
    "reorder_owners",
    "select",
    "tally",
    "xxh64",
]

_SLOTS = 16384
_SLOT_SHIFT = 50
_NONE = 0xFFFF
_U64_MAX = 2**64 - 1
_WEIGHT_MAX = 1000
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

_ACCEPTED = "an int in 0..2**64-1, a str, bytes or a uuid.UUID"
_INTEGER_FORMATS = frozenset("QqLlNn")


def refusal(user_id: object, index: int) -> Exception:
    """Return the exception that says why this is no user id; ``index`` is its place in the batch, or -1."""
    where = f"user id at index {index}" if index >= 0 else "user id"
    if isinstance(user_id, int) and not isinstance(user_id, bool):
        short = str(user_id) if -(10**30) < user_id < 10**30 else f"an int of {user_id.bit_length()} bits"
        return ValueError(f"{where} is {short}, accepted is {_ACCEPTED}")
    if isinstance(user_id, str):
        return ValueError(
            f"{where} is a str with a lone surrogate, which has no UTF-8 form; accepted is {_ACCEPTED}"
        )
    return TypeError(f"{where} is of type {type(user_id).__name__}, accepted is {_ACCEPTED}")


def xxh64(data: "Buffer", seed: int) -> int:
    """Return the 64-bit xxHash of the bytes of a contiguous buffer."""
    return xxh64_intdigest(memoryview(data).cast("B"), _checked_seed(seed))


def hash_id(user_id: object, seeds: bytes) -> int:
    """Return the key of one user id; ``TypeError`` or ``ValueError`` if it is none.

    ``seeds`` are those for integers and for strings, packed u64 each; ``ValueError`` for any other length.
    """
    return _hash_id(user_id, *_unpacked(seeds), -1)


def hash_ids(ids: "Iterable[object]", seeds: bytes) -> bytes:
    """Return the packed keys of many user ids; the exception for a bad one names its index."""
    int_seed, string_seed = _unpacked(seeds)
    return b"".join(
        _U64.pack(_hash_id(user_id, int_seed, string_seed, index)) for index, user_id in enumerate(tuple(ids))
    )


def is_buffer(value: object) -> "TypeIs[Buffer]":
    """Return whether the value exposes its memory as a buffer."""
    try:
        memoryview(value)  # type: ignore[arg-type]
    except TypeError:
        return False
    except (ValueError, BufferError):
        return True
    return True


def hash_integers(integers: "Buffer", seed: int) -> bytes:
    """Return the packed keys of a one-dimensional buffer of native 64-bit integers, strided or not.

    Raises ``TypeError`` for any other format or shape, ``ValueError`` with the index of a negative integer.
    """
    seed = _checked_seed(seed)
    try:
        view = memoryview(integers)
    except (ValueError, BufferError) as error:
        raise TypeError(f"a buffer of 64-bit integers is needed: {error}") from None
    kind = view.format.lstrip("@=<" if sys.byteorder == "little" else "@=>")
    if view.ndim != 1 or view.itemsize != 8 or kind not in _INTEGER_FORMATS:
        raise TypeError(
            "a one-dimensional buffer of native 64-bit integers is needed (array('Q'), numpy uint64), "
            f"not {view.ndim} dimensions of format {view.format!r}"
        )
    numbers = array("q" if kind.islower() else "Q", view.tobytes())
    for index, number in enumerate(numbers):
        if number < 0:
            raise refusal(number, index)
    return b"".join(_U64.pack(xxh64_intdigest(_U64.pack(number), seed)) for number in numbers)


@lru_cache(maxsize=1)
def log2_table() -> "array[int]":
    """Return T of the module's docstring, 1025 entries, by squaring: each square's carry is the next bit of
    log2.

    128 fractional bits leave the truncation errors of 40 squarings far below the last bit that is kept.
    """
    one = 1 << 128
    table = array("Q")
    for i in range(1024):
        x, bits = (1024 + i) << 118, 0
        for _ in range(40):
            x = x * x >> 128
            bits <<= 1
            if x >= 2 * one:
                x >>= 1
                bits |= 1
        table.append(bits)
    table.append(1 << 40)
    return table


def cost_of(h: int, weight: int) -> int:
    """Return a slot's cost to a node, from their hash and its weight, as the module's docstring has it."""
    table = log2_table()
    h = h or 1
    exponent = h.bit_length() - 1
    mantissa = h << (63 - exponent)
    i = mantissa >> 53 & 1023
    f = mantissa >> 21 & 0xFFFFFFFF
    log = (exponent << 40) + table[i] + ((table[i + 1] - table[i]) * f >> 32)
    return ((64 << 40) - log << 16) // weight


def rank_owners(
    name_seeds: "array[int]", weights: "array[int]", hosts: "array[int]", zones: "array[int]", replicas: int
) -> "array[int]":
    """Return the owners of all 16384 slots, ``replicas`` a slot, as the module's docstring ranks them.

    ``name_seeds`` ('Q'), ``weights`` ('I', 1..1000), ``hosts`` ('H', equal numbers are one host) and
    ``zones`` ('H', 0 is no zone) have an entry a node. Raises ``ValueError`` if their sizes differ, for more
    than 65534 nodes, a weight out of range, or ``replicas`` outside 1..nodes.
    """
    count = len(name_seeds)
    _check_codes((name_seeds, "Q"), (weights, "I"), (hosts, "H"), (zones, "H"))
    if not len(weights) == len(hosts) == len(zones) == count:
        raise ValueError("name_seeds, weights, hosts and zones need an entry a node each")
    if not 1 <= replicas <= count < _NONE:
        raise ValueError(f"{replicas} replicas of {count} nodes: needed are 1 <= replicas <= nodes <= 65534")
    if not all(1 <= weight <= _WEIGHT_MAX for weight in weights):
        raise ValueError(f"a weight is outside 1..{_WEIGHT_MAX}")
    owners = array("H")
    for slot in range(_SLOTS):
        packed = _U64.pack(slot)
        costs = [
            cost_of(xxh64_intdigest(packed, seed), weight)
            for seed, weight in zip(name_seeds, weights, strict=True)
        ]
        left = sorted(range(count), key=costs.__getitem__)
        used_hosts: set[int] = set()
        used_zones: set[int] = set()
        for _ in range(replicas):
            elsewhere = [node for node in left if hosts[node] not in used_hosts]
            apart = [node for node in elsewhere if zones[node] not in used_zones]
            owner = (apart or elsewhere or left)[0]
            left.remove(owner)
            used_hosts.add(hosts[owner])
            if zones[owner]:
                used_zones.add(zones[owner])
            owners.append(owner)
    return owners


def reorder_owners(owners: "array[int]", replicas: int, avoided: "Buffer") -> "array[int]":
    """Return the owner table with each slot's avoided owners behind the others, otherwise in the same order.

    ``avoided`` has a byte a node, non-zero for the nodes to ask last. Raises ``ValueError`` for a table whose
    length is no multiple of ``replicas``, or with a node beyond ``avoided``.
    """
    _check_codes((owners, "H"))
    flags = bytes(memoryview(avoided).cast("B"))
    if replicas < 1 or len(owners) % replicas:
        raise ValueError(f"an owner table of {len(owners)} entries does not divide by {replicas} replicas")
    if owners and max(owners) >= len(flags):
        raise ValueError(f"the owner table names node {max(owners)}, but there are {len(flags)}")
    ordered = array("H")
    for start in range(0, len(owners), replicas):
        ordered.extend(sorted(owners[start : start + replicas], key=lambda node: flags[node] != 0))
    return ordered


def partition(
    keys: "Buffer", targets: "array[int]", positions: "array[int] | None", chunk: int
) -> "list[tuple[int, bytes, array[int]]]":
    """Split keys by the node their slot is bound for, into pieces of at most ``chunk`` keys.

    ``targets`` has a node index for each of the 16384 slots, or an owner table with several a slot: then a
    key goes to each of them. Keys bound for 0xFFFF are left out. ``positions`` says where in the caller's
    batch each key came from (None: 0, 1, 2…). Returns (node, packed keys, their positions), by node, each in
    the order of the keys. Raises ``ValueError`` for sizes that do not match.
    """
    view = memoryview(keys).cast("B")
    count = len(view) // 8
    _check_codes((targets, "H"))
    if len(view) % 8:
        raise ValueError(f"packed keys are 8 bytes each, not {len(view)} in all")
    ranks = len(targets) // _SLOTS
    if not ranks or len(targets) % _SLOTS:
        raise ValueError(f"targets needs {_SLOTS} entries or a multiple, not {len(targets)}")
    if positions is None:
        positions = array("I", range(count))
    _check_codes((positions, "I"))
    if len(positions) != count:
        raise ValueError(f"{len(positions)} positions for {count} keys")
    if chunk < 1:
        raise ValueError("a chunk holds at least one key")
    bound: dict[int, list[tuple[bytes, int]]] = {}
    for index, position in enumerate(positions):
        packed = bytes(view[index * 8 : index * 8 + 8])
        first = (_U64.unpack(packed)[0] >> _SLOT_SHIFT) * ranks
        for target in targets[first : first + ranks]:
            bound.setdefault(target, []).append((packed, position))
    bound.pop(_NONE, None)
    pieces = []
    for target in sorted(bound):
        for start in range(0, len(bound[target]), chunk):
            piece = bound[target][start : start + chunk]
            pieces.append(
                (target, b"".join(key for key, _ in piece), array("I", [place for _, place in piece]))
            )
    return pieces


def merge_states(evidence: bytearray, positions: "array[int]", packed: "Buffer") -> None:
    """Add a reply to the evidence: bit ``1 << state`` for each key, states packed 2 bits each, lowest bits
    first.

    Raises ``ValueError`` unless there are exactly ceil(keys / 4) bytes, and for a position beyond the
    evidence. Bits behind the last key are ignored.
    """
    states = bytes(memoryview(packed).cast("B"))
    _check_positions(positions, evidence)
    if len(states) != (len(positions) + 3) // 4:
        raise ValueError(f"{len(positions)} states of 2 bits do not fill {len(states)} bytes")
    for index, position in enumerate(positions):
        evidence[position] |= 1 << (states[index >> 2] >> 2 * (index & 3) & 3)


def mark(evidence: bytearray, positions: "array[int]", bits: int) -> None:
    """Add the same bits (0..255) at each position; ``ValueError`` for a position beyond the evidence."""
    _check_positions(positions, evidence)
    _check_byte(bits)
    for position in positions:
        evidence[position] |= bits


def merge_ages(ages: bytearray, positions: "array[int]", new: "Buffer") -> None:
    """Keep the least age a key: ``ages[position] = min(ages[position], new[i])``, one byte each.

    Raises ``ValueError`` unless ``new`` has a byte a position, and for a position beyond ``ages``.
    """
    fresh = bytes(memoryview(new).cast("B"))
    _check_positions(positions, ages)
    if len(fresh) != len(positions):
        raise ValueError(f"{len(fresh)} ages for {len(positions)} keys")
    for index, position in enumerate(positions):
        ages[position] = min(ages[position], fresh[index])


def merge_seconds(seconds: bytearray, positions: "array[int]", new: "Buffer") -> None:
    """Keep the least number a key: as ``merge_ages``, with little-endian u32 in place of bytes."""
    fresh = bytes(memoryview(new).cast("B"))
    _check_positions(positions, seconds, 4)
    if len(fresh) != 4 * len(positions):
        raise ValueError(f"{len(fresh)} bytes of seconds for {len(positions)} keys")
    for index, position in enumerate(positions):
        known = _U32.unpack_from(seconds, 4 * position)[0]
        _U32.pack_into(seconds, 4 * position, min(known, _U32.unpack_from(fresh, 4 * index)[0]))


def tally(acks: bytearray, positions: "array[int]") -> None:
    """Add 1, up to 255, at each position; ``ValueError`` for a position beyond ``acks``."""
    _check_positions(positions, acks)
    for position in positions:
        acks[position] = min(acks[position] + 1, 255)


def select(keys: "Buffer", evidence: "Buffer", mask: int) -> "tuple[bytes, array[int]]":
    """Return the keys, and their positions, whose evidence has none of the mask's bits.

    Raises ``ValueError`` unless there is a byte of evidence a key.
    """
    packed = bytes(memoryview(keys).cast("B"))
    known = bytes(memoryview(evidence).cast("B"))
    if len(packed) != 8 * len(known):
        raise ValueError(f"{len(known)} bytes of evidence for {len(packed)} bytes of keys, which are 8 each")
    _check_byte(mask)
    positions = array("I", [index for index, bits in enumerate(known) if not bits & mask])
    return b"".join(packed[index * 8 : index * 8 + 8] for index in positions), positions


def read_write_reply(body: bytes, count: int) -> tuple[int, int, int, int, int] | None:
    """Return the fields of a write reply, or None to leave it to the reader in ``messages``.

    That reader is the specification: a value is what it would read, and whatever it refuses gets None. The
    plain kernel leaves it everything.
    """
    return None


def read_get_reply(body: bytes, count: int, want_ages: bool) -> tuple[int, int, int, bytes, bytes] | None:
    """Return the fields of a get reply, or None, as above."""
    return None


def _checked_seed(seed: int) -> int:
    if not 0 <= seed <= _U64_MAX:
        raise OverflowError(f"a hash seed is an int in 0..2**64-1, not {seed}")
    return seed


def _unpacked(seeds: bytes) -> tuple[int, int]:
    if len(seeds) != 16:
        raise ValueError(f"two packed seeds are 16 bytes, not {len(seeds)}")
    return _U64.unpack_from(seeds, 0)[0], _U64.unpack_from(seeds, 8)[0]


def _hash_id(user_id: object, int_seed: int, string_seed: int, index: int) -> int:
    if isinstance(user_id, bool):
        raise refusal(user_id, index)
    if isinstance(user_id, int):
        if not 0 <= user_id <= _U64_MAX:
            raise refusal(user_id, index)
        return xxh64_intdigest(_U64.pack(user_id), int_seed)
    if isinstance(user_id, str):
        try:
            return xxh64_intdigest(user_id.encode(), string_seed)
        except UnicodeEncodeError:
            raise refusal(user_id, index) from None
    if isinstance(user_id, bytes):
        return xxh64_intdigest(user_id, string_seed)
    if isinstance(user_id, uuid.UUID):
        return xxh64_intdigest(user_id.bytes, string_seed)
    raise refusal(user_id, index)


def _check_codes(*arrays: tuple[object, str]) -> None:
    for numbers, code in arrays:
        if not isinstance(numbers, array) or numbers.typecode != code:
            raise TypeError(f"an array of typecode {code!r} is needed")


def _check_positions(positions: "array[int]", target: object, width: int = 1) -> None:
    if not isinstance(target, bytearray):
        raise TypeError(f"a bytearray is needed, not {type(target).__name__}")
    _check_codes((positions, "I"))
    if positions and max(positions) >= len(target) // width:
        raise ValueError(f"position {max(positions)} is beyond a batch of {len(target) // width}")


def _check_byte(bits: int) -> None:
    if not 0 <= bits <= 255:
        raise ValueError(f"evidence bits are 0..255, not {bits}")
