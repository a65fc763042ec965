from collections.abc import Buffer  # type: ignore[attr-defined,unused-ignore]  # typeshed gates it on 3.12
from typing import final

from pulsering_server._table import Table
from pulsering_server.stats import Stats

@final
class FrameAge:
    def __init__(self, sender_ms: int, now_ms: int) -> None: ...
    def age_ms(self, sender_ms: int, now_ms: int) -> int: ...

@final
class DataPath:
    def __init__(self, table: Table, keys_per_frame: int, frame_bytes_max: int, busy_body: bytes) -> None: ...
    def refuse_older(self, get_age_ms: int | None, write_age_ms: int | None) -> None: ...
    def run(
        self,
        data: Buffer,
        start: int,
        age: FrameAge,
        now_ms: int,
        epoch: int,
        warming_ms: int,
        work_max: int,
        output_max: int,
        may_write: bool,
    ) -> tuple[int, int, int, bytes]: ...
    def collect(self, stats: Stats) -> None: ...
