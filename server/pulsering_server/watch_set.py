"""The watch set behind one name: the compiled kernel, or its plain-Python twin if the table is the twin."""

from typing import TYPE_CHECKING

from pulsering_server import table
from pulsering_server._watch_reference import CAUSES

if TYPE_CHECKING or not table.COMPILED:
    from pulsering_server._watch_reference import WatchSet
else:
    from pulsering_server._watch import WatchSet

__all__ = ["CAUSES", "WatchSet"]
