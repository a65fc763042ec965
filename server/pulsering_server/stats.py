"""What a node counts about itself: plain ints, read by whoever shows them.

One object a node, written from one thread, never locked. Every dict has all its keys from the start, so its
size does not depend on what peers do. How long frames took is not compared: two nodes that did the same are
the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from pulsering.wire import DATA_OPS, ErrorCode, Op
from pulsering_server.durations import MS, Durations

OUTCOMES: Final = ("accepted", "stale", "refused", "moved")
"""What becomes of a heartbeat or a leave, as ``table.Tally`` has it."""

ANSWERS: Final = ("offline", "online", "unknown", "moved")
"""What a get says of a user; the index is the state on the wire."""


TLS_FILES: Final = ("certificate", "client_ca")
"""Files of certificates, by the keys of ``tls`` that name them."""


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
    UNAUTHORIZED = "unauthorized"
    TLS = "tls"
    PLAINTEXT = "plaintext"
    IDLE = "idle"
    UNREAD = "unread"
    BUFFERS = "buffers"
    FOREIGN_HTTP = "foreign_http"
    FOREIGN_TLS = "foreign_tls"
    FOREIGN_REDIS = "foreign_redis"
    FOREIGN_OTHER = "foreign_other"
    BUSY = "busy"
    PER_ADDRESS = "per_address"
    DRAINED = "drained"
    FAULT = "fault"


class Cold(StrEnum):
    """Why a node last became cold, and so what it does not know about those it does not hold."""

    START = "start"
    STALL = "stall"
    CLOCK = "clock"
    TOPOLOGY = "topology"


def _none_yet(*names: str) -> dict[str, int]:
    return dict.fromkeys(names, 0)


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
    heartbeats: dict[str, int] = field(default_factory=lambda: _none_yet(*OUTCOMES))
    leaves: dict[str, int] = field(default_factory=lambda: _none_yet(*OUTCOMES))
    answers: dict[str, int] = field(default_factory=lambda: _none_yet(*ANSWERS))
    cold: Cold = Cold.START
    unknown: dict[Cold, int] = field(default_factory=lambda: dict.fromkeys(Cold, 0))
    """The answers that were *unknown*, by why the node was cold then."""
    frames_stale: int = 0
    """Frames of heartbeats or leaves that came a ttl or more after they were sent."""
    frame_age_ms_max: int = 0
    pauses: int = 0
    stalls: int = 0
    stalled_ms: int = 0
    suspicions: int = 0
    overloads: int = 0
    reloads: int = 0
    reloads_refused: int = 0
    reload_ok: bool = True
    """Whether the configuration that was read last could be followed."""
    topology_frozen: bool = False
    """Whether what publishes the topology cannot be reached."""
    tls_ends_s: dict[str, int] = field(default_factory=lambda: _none_yet(*TLS_FILES))
    """Until when certificates hold, in seconds of Unix time; 0 where there is none."""
    sweep_lines_due: int = 0
    service: dict[int, Durations] = field(
        default_factory=lambda: {int(op): Durations() for op in sorted(DATA_OPS)}, compare=False
    )
    """By op, what the frames of the data plane took that were done, neither refused nor in error."""
    frame_age: Durations = field(default_factory=lambda: Durations(MS), compare=False)
    """How late frames of heartbeats and leaves came (``frame_age``)."""
    expiry_lag: Durations = field(default_factory=lambda: Durations(MS), compare=False)
    """How much later than due the wheel was turned, each time: for so long a count was too high."""
    sweep: Durations = field(default_factory=Durations, compare=False)
    """Slices of housekeeping."""
    loop_lag: Durations = field(default_factory=Durations, compare=False)
    """How much later than due the event loop came to a timer, each ``LOAD_PROBE_MS``."""

    @property
    def keys_read(self) -> int:
        """Users that gets have been answered for."""
        return sum(self.answers.values())

    def note_tls_ends(self, ends: Mapping[str, datetime]) -> None:
        """Keep until when the certificates now in use hold."""
        for name in TLS_FILES:
            self.tls_ends_s[name] = int(ends[name].timestamp()) if name in ends else 0

    def note_answers(self, states: bytes, count: int) -> None:
        """Count the answers of one get: ``count`` states, two bits each, from the lowest on."""
        low = int.from_bytes(b"\x55" * len(states))
        word = int.from_bytes(states)
        ones, twos = word & low, word >> 1 & low
        moved = (ones & twos).bit_count()
        online, unknown = ones.bit_count() - moved, twos.bit_count() - moved
        for answer, users in zip(
            ANSWERS, (count - online - unknown - moved, online, unknown, moved), strict=True
        ):
            self.answers[answer] += users
        self.unknown[self.cold] += unknown
