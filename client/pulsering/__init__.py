"""Pulsering: is this user online right now? The client library; start at ``PresenceClient``."""

from pulsering.client import PresenceClient
from pulsering.errors import (
    CallTimeout,
    ClientClosed,
    ClientOverloaded,
    ClusterMismatch,
    ConfigError,
    FrameError,
    NodeBusy,
    NodeDraining,
    NodeUnavailable,
    NoNodeReachable,
    NotServed,
    Overloaded,
    PresenceError,
    ProtocolError,
    Unauthorized,
    UnknownPresence,
    VersionMismatch,
    WatchOverflow,
)
from pulsering.options import ClientOptions
from pulsering.reports import Change, Count, HeartbeatReport, Location, NodeStatus
from pulsering.snapshot import Snapshot
from pulsering.status import Cause, Reason, Status
from pulsering.watch import Watch

__all__ = [
    "CallTimeout",
    "Cause",
    "Change",
    "ClientClosed",
    "ClientOptions",
    "ClientOverloaded",
    "ClusterMismatch",
    "ConfigError",
    "Count",
    "FrameError",
    "HeartbeatReport",
    "Location",
    "NoNodeReachable",
    "NodeBusy",
    "NodeDraining",
    "NodeStatus",
    "NodeUnavailable",
    "NotServed",
    "Overloaded",
    "PresenceClient",
    "PresenceError",
    "ProtocolError",
    "Reason",
    "Snapshot",
    "Status",
    "Unauthorized",
    "UnknownPresence",
    "VersionMismatch",
    "Watch",
    "WatchOverflow",
]
