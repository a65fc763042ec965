"""From a user id to the key that stands for it everywhere else, and from a key to its slot.

Keys, not ids, travel on the wire and live in tables, so a client in any language needs only xxh64 and these
rules:

- The cluster has one ``hash_seed``, an unsigned 64-bit integer.
- An integer id, 0..2^64-1, has the key ``xxh64(its 8 bytes, little-endian, seed = hash_seed)``. Over exactly
  eight bytes xxh64 is a bijection, so two integer ids never share a key.
- A string id has the key ``xxh64(its bytes, seed = string_seed)``, where ``string_seed`` is ``xxh64(the 16
  ASCII bytes "pulsering/string", seed = hash_seed)``. A text is its UTF-8 bytes (the same user as those
  bytes); a UUID is its 16 bytes in RFC 9562 (big-endian) order. Among n strings the chance that any two share
  a key is about n^2 / 2^65: 2.7 % for 10^9 users.
- ``1`` and ``"1"`` are therefore different users.
- The slot is the key's top 14 bits: ``key >> 50``, 0..16383.
- A batch of keys is packed as little-endian unsigned 64-bit integers without separators.

``tests/vectors/keys.json`` holds golden vectors. Invariant: an id is either hashed by these rules or refused
with a message that names the element; nothing is coerced, truncated or skipped.
"""

import struct
import uuid
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from pulsering import kernel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Buffer

__all__ = ["SLOTS", "SLOT_SHIFT", "UserId", "key_of", "keys_of", "seeds_of", "slot_of", "string_seed_of"]

UserId: TypeAlias = int | str | bytes | uuid.UUID

SLOTS = 16384
"""Number of slots; fixed by the protocol."""
SLOT_SHIFT = 50
"""``key >> SLOT_SHIFT`` is the slot."""

_NOT_A_BATCH = (str, bytes, bytearray)


def string_seed_of(hash_seed: int) -> int:
    """Return the seed under which strings of a cluster with this ``hash_seed`` (0..2^64-1) are hashed."""
    return kernel.xxh64(b"pulsering/string", hash_seed)


@lru_cache(maxsize=64)
def seeds_of(hash_seed: int) -> bytes:
    """Return the seeds for integers and for strings as the kernel takes them: two packed u64."""
    return struct.pack("<QQ", hash_seed, string_seed_of(hash_seed))


def slot_of(key: int) -> int:
    """Return the slot, 0..16383, of a key."""
    return key >> SLOT_SHIFT


def key_of(user_id: UserId, hash_seed: int) -> int:
    """Return the 64-bit key of one user id.

    Raises ``ValueError`` for an int outside 0..2^64-1 or a str that has no UTF-8 form, ``TypeError`` for
    anything that is not an int, str, bytes or UUID (a bool included).
    """
    return kernel.hash_id(user_id, seeds_of(hash_seed))


def keys_of(ids: "Iterable[UserId] | Buffer", hash_seed: int) -> bytes:
    """Return the keys of many ids, in order: 8 bytes each, little-endian.

    ``ids`` is any iterable of user ids, or a one-dimensional buffer of native 64-bit integers
    (``array('Q')``, ``array('q')``, a numpy uint64 or int64 array, a memoryview of format Q or q), which is
    read in place.

    Raises ``TypeError`` or ``ValueError`` as ``key_of`` does, naming the index; ``TypeError`` for a buffer of
    any other format, and for a single str, bytes or bytearray, which is one id and not a batch.
    """
    if isinstance(ids, _NOT_A_BATCH):
        raise TypeError(
            f"a batch of ids is needed, and a single {type(ids).__name__} is one id: put it in a list"
        )
    if isinstance(ids, (list, tuple)):
        return kernel.hash_ids(ids, seeds_of(hash_seed))
    if kernel.is_buffer(ids):
        return kernel.hash_integers(ids, hash_seed)
    try:
        batch = tuple(ids)
    except TypeError:
        if hasattr(ids, "__iter__"):
            raise
        raise TypeError(
            f"an iterable of ids or a buffer of 64-bit integers is needed, not {type(ids).__name__}"
        ) from None
    return kernel.hash_ids(batch, seeds_of(hash_seed))
