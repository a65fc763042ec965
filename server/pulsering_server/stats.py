"""What a node counts about itself: plain ints, read by whoever shows them.

One object a node, written from one thread, never locked. Every dict has all its keys from the start, so its
size does not depend on what peers do. How long frames took is not compared: two nodes that did the same are
the same.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from pulsering.wire import DATA_OPS, ErrorCode, Op
from pulsering_server.durations import Durations


class Close(StrEnum):
    """Why a connection ended."""

    LEFT = "left"
    BAD_FRAME = "bad_frame"
    FRAME_TOO_LARGE = "frame_too_large"
    UNSUPPORTED_VERSION = "unsupported_version"
    HELLO_REQUIRED = "hello_required"
    CLUSTER_MISMATCH = "cluster_mismatch"
    HELLO_TIMEOUT = "hello_timeout"
    FRAME_TIMEOUT = "frame_timeout"
    IDLE = "idle"
    UNREAD = "unread"
    BUFFERS = "buffers"
    FOREIGN_HTTP = "foreign_http"
    FOREIGN_TLS = "foreign_tls"
    FOREIGN_REDIS = "foreign_redis"
    FOREIGN_OTHER = "foreign_other"
    BUSY = "busy"
    DRAINED = "drained"
    FAULT = "fault"


@dataclass(slots=True)
class Stats:
    """Counters since the start."""

    connections_accepted: int = 0
    connections_open: int = 0
    connections_closed: dict[Close, int] = field(default_factory=lambda: dict.fromkeys(Close, 0))
    requests: dict[int, int] = field(default_factory=lambda: {int(op): 0 for op in Op})
    requests_unknown: int = 0
    errors: dict[int, int] = field(default_factory=lambda: {int(code): 0 for code in ErrorCode})
    bytes_received: int = 0
    bytes_sent: int = 0
    keys_accepted: int = 0
    keys_stale: int = 0
    keys_refused: int = 0
    keys_moved: int = 0
    keys_read: int = 0
    frame_age_ms_max: int = 0
    pauses: int = 0
    stalls: int = 0
    stalled_ms: int = 0
    suspicions: int = 0
    overloads: int = 0
    service: dict[int, Durations] = field(
        default_factory=lambda: {int(op): Durations() for op in sorted(DATA_OPS)}, compare=False
    )
    """By op, what the frames of the data plane took that were done, neither refused nor in error."""
