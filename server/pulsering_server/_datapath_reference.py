"""The data path in plain Python: it leaves every frame to the session, which is its specification.

``_datapath`` may answer a frame only as ``session.Session`` would. Without it, or with
``PULSERING_PURE_PYTHON=1``, nothing is answered here and so everything there.
"""

from typing import TYPE_CHECKING

from pulsering.frame_age import FrameAge

if TYPE_CHECKING:
    from pulsering_server.stats import Stats
    from pulsering_server.table import Table

__all__ = ["DataPath", "FrameAge"]


class DataPath:
    """Answers no frame."""

    def __init__(self, table: "Table", keys_per_frame: int, frame_bytes_max: int, busy_body: bytes) -> None:
        pass

    def refuse_older(self, get_age_ms: int | None, write_age_ms: int | None) -> None:
        """Nothing: who refuses is the session."""

    def run(
        self,
        data: bytearray | memoryview,
        start: int,
        age: FrameAge,
        now_ms: int,
        epoch: int,
        warming_ms: int,
        work_max: int,
        output_max: int,
        may_write: bool,
    ) -> tuple[int, int, int, bytes]:
        """Return (offset of what is left, frames answered, work done, replies): all is left."""
        return start, 0, 0, b""

    def collect(self, stats: "Stats") -> None:
        """Move what was counted since the last call into ``stats``."""
