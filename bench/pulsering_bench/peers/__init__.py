"""The presence stores that the bench compares, each a ``Peer``."""

from pulsering_bench.peers.base import Call, Checked, Client, Ids, Mask, Peer, Request, Scale
from pulsering_bench.peers.memcached import Memcached
from pulsering_bench.peers.node import PulseringNode
from pulsering_bench.peers.postgresql import PostgreSQL
from pulsering_bench.peers.resp import PackedRedis, Redis, Valkey
from pulsering_bench.peers.ttl_dictionary import TtlDictionary

__all__ = [
    "Call",
    "Checked",
    "Client",
    "Ids",
    "Mask",
    "Memcached",
    "PackedRedis",
    "Peer",
    "PostgreSQL",
    "PulseringNode",
    "Redis",
    "Request",
    "Scale",
    "TtlDictionary",
    "Valkey",
]
