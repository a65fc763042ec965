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
    Overloaded,
    PresenceError,
    ProtocolError,
    Unauthorized,
    UnknownPresence,
    VersionMismatch,
)
from pulsering.options import ClientOptions
from pulsering.reports import Count, HeartbeatReport, Location, NodeStatus
from pulsering.snapshot import Snapshot
from pulsering.status import Reason, Status

__all__ = [
    "CallTimeout",
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
]
