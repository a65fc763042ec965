"""Arguments of the table's calls, checked: numbers in their bounds, and bytes of any kind.

The kernels and their twins share these, so that a wrong argument has the same words everywhere. Invariant:
what is returned is what was meant; anything else is a ``TypeError``, ``ValueError`` or ``BufferError``.
"""

from __future__ import annotations

import operator
from typing import Any, Final

__all__ = ["checked_bytes", "checked_count", "checked_keys", "checked_ms"]

MS_MAX: Final = 2**56 - 1
"""So that ms times the ticks of a ttl fit 63 bits."""


def checked_ms(value: Any, name: str) -> int:
    """``value`` as milliseconds, an int in 0..2^56-1; TypeError or ValueError else."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int of milliseconds, not {type(value).__name__}") from None
    if not 0 <= number <= MS_MAX:
        raise ValueError(f"{name} must be in 0..2**56-1 milliseconds, not {number}")
    return number


def checked_count(value: Any, name: str, low: int, high: int) -> int:
    """``value`` as an int in ``low..high``; TypeError or ValueError else."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, not {type(value).__name__}") from None
    if not low <= number <= high:
        raise ValueError(f"{name} must be in {low}..{high}, not {number}")
    return number


def checked_bytes(value: Any, name: str) -> bytes:
    """The bytes of any C-contiguous buffer; TypeError or BufferError else."""
    try:
        view = memoryview(value)
    except TypeError:
        raise TypeError(
            f"{name} must be bytes-like (bytes, bytearray, memoryview, array, numpy array), "
            f"not {type(value).__name__}"
        ) from None
    except (BufferError, ValueError):
        raise BufferError(f"{name} must be a C-contiguous buffer") from None
    with view:
        if not view.c_contiguous:
            raise BufferError(f"{name} must be a C-contiguous buffer")
        return view.tobytes()


def checked_keys(value: Any) -> list[int]:
    """Packed little-endian u64 keys as a list of ints."""
    packed = checked_bytes(value, "keys")
    if len(packed) % 8:
        raise ValueError(f"keys must be packed little-endian u64, a multiple of 8 bytes, not {len(packed)}")
    return [int.from_bytes(packed[i : i + 8], "little") for i in range(0, len(packed), 8)]
