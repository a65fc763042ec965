"""The shard table behind one name: the compiled kernel, or its plain-Python twin on request.

``PULSERING_PURE_PYTHON=1`` picks the twin, which is the specification and about a thousand times slower.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pulsering_server._table_reference import MOVED, NOT_OWNED, OFFLINE, ONLINE, SLOTS, UNKNOWN, Tally

if TYPE_CHECKING or os.environ.get("PULSERING_PURE_PYTHON") == "1":
    from pulsering_server._table_reference import Table
else:
    from pulsering_server._table import Table

COMPILED = Table.__module__ == "pulsering_server._table"
"""Whether ``Table`` is the kernel."""

__all__ = ["COMPILED", "MOVED", "NOT_OWNED", "OFFLINE", "ONLINE", "SLOTS", "UNKNOWN", "Table", "Tally"]
