"""The data path behind one name: the compiled one, or the plain-Python session alone.

``PULSERING_PURE_PYTHON=1`` picks the latter, as does a table that is not the compiled one.
"""

from typing import TYPE_CHECKING

from pulsering_server import table

if TYPE_CHECKING or not table.COMPILED:
    from pulsering_server._datapath_reference import DataPath, FrameAge
else:
    from pulsering_server._datapath import DataPath, FrameAge

__all__ = ["DataPath", "FrameAge"]
