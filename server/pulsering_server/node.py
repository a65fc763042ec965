"""A node without sockets or clock: its table, its place in the topology, and whether it may say *offline*.

``NodeCore`` is told the time with every call and does no I/O, so the simulator runs the same code on a
virtual clock. One ``session.Session`` a connection turns bytes into calls here.

*Cold is not empty.* A node that has just started, gained a slot, or stood still, has missed heartbeats: for
users that it does not hold it answers *unknown* until one ttl and one tick have passed, by when every user
who is online has been heard again (``ownership``). ``online`` needs no warmth, it is proof. A node whose
clock cannot be trusted forgets even that, and starts over. Invariant: while cold, no read says *offline*.
"""

import sys
from array import array
from collections import deque
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final, NamedTuple

from pulsering import limits
from pulsering._last_seen import SEEN_NONE, GetSeenReply, encode_get_seen_reply
from pulsering.messages import CountReply, Vitals, Welcome, encode_error, encode_topology
from pulsering.wire import VERSION, ErrorCode
from pulsering_server.config_schema import LimitsConfig
from pulsering_server.datapath import DataPath
from pulsering_server.overload import Overload
from pulsering_server.ownership import Ownership, Refused, check_change
from pulsering_server.stats import Cold, Stats
from pulsering_server.table import Table
from pulsering_server.watchers import Watchers

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined,unused-ignore]

    from pulsering.messages import KeysRequest
    from pulsering.topology import Topology
    from pulsering_server.auth import Auth

__all__ = ["AGENT", "Event", "NodeCore", "Refused"]

_TABLE_USERS_MAX: Final = (1 << 32) - 1
_U64: Final = (1 << 64) - 1

_LINES_PER_WATCH: Final = 8
"""Looking a watched user up takes as long as sweeping so many lines."""

EVENTS_KEPT: Final = 50
"""The last of them are for whoever comes later and looks at the status."""


def _agent() -> str:
    try:
        return f"pulsering-node/{version('pulsering')}"
    except PackageNotFoundError:
        return "pulsering-node"


AGENT: Final = _agent()
"""What a node calls itself, for people."""


class Event(NamedTuple):
    """Something that an operator should read in the log; the shell takes them with ``take_events``."""

    name: str
    fields: dict[str, int | str]


class NodeCore:
    """One node: what it holds, what it owns, and since when.

    ``limits_config`` is the ``limits:`` section; ``boot_id`` a random u64, new at each start. Time is the
    node's own clock in ms, of any origin; a ``now_ms`` smaller than the last is read as the last. For
    ``last_seen_ms`` it remembers when users who went offline were last seen; 0: not at all.
    """

    def __init__(
        self,
        topology: "Topology",
        name: str,
        limits_config: LimitsConfig | None = None,
        *,
        boot_id: int,
        now_ms: int,
        last_seen_ms: int = 0,
    ) -> None:
        self.topology = topology
        self.name = name
        self.limits = limits_config or LimitsConfig.model_construct()
        self.boot_id = boot_id & _U64
        self.counters = Stats()
        self.draining = False
        self.auth: Auth | None = None
        """The tokens that count; None: nobody is asked for one."""
        self.ownership = Ownership(topology, name, now_ms)
        self.busy_body = encode_error(ErrorCode.BUSY, f"node {name} is overloaded", limits.BUSY_AFTER_MS)
        self.overload = Overload()
        self.last_seen_ms = last_seen_ms
        self._listening_since_ms = now_ms
        self._lay_table(now_ms)
        self.tick_ms = -(-topology.ttl_ms // topology.ticks_per_ttl)
        self.watchers = Watchers(self.table, self.limits, topology.ttl_ms, self.tick_ms)
        self.stall_ms = topology.ttl_ms // limits.STALLS_PER_TTL
        self._events: list[Event] = []
        self.past: deque[tuple[int, Event]] = deque(maxlen=EVENTS_KEPT)
        """The last events, each with its time."""
        self._lingers = False
        self._topology_body = encode_topology(topology.to_wire())
        self._started_ms = self._now_ms = self._ticked_ms = now_ms
        self._answer_absent(now_ms)

    def _lay_table(self, now_ms: int) -> None:
        """An empty table, and the way of frames to it."""
        topology = self.topology
        self.table = Table(
            ttl_ms=topology.ttl_ms,
            ticks_per_ttl=topology.ticks_per_ttl,
            now_ms=now_ms,
            users_max=min(self.limits.users or 0, _TABLE_USERS_MAX),
            memory_max=self.limits.memory_bytes,
            last_seen_ms=self.last_seen_ms,
            last_seen_bytes=self.limits.last_seen_bytes,
        )
        self.data_path = DataPath(
            self.table, self.limits.keys_per_frame, self.limits.frame_bytes, self.busy_body
        )
        self.data_path.refuse_older(*self.overload.bounds)

    @property
    def stats(self) -> Stats:
        """What the node counted, for whoever reads it; who counts adds to ``counters``, which is cheaper."""
        self.data_path.collect(self.counters)
        return self.counters

    # -- time ------------------------------------------------------------------------------------------------

    def observe(self, now_ms: int) -> int:
        """Take note of the time, with every input; the time to go on with."""
        if now_ms >= self._ticked_ms + self.tick_ms:
            self.tick(now_ms)
        elif now_ms < self._now_ms:
            return self._now_ms
        self._now_ms = now_ms
        return now_ms

    def next_tick_ms(self, now_ms: int) -> int:
        """Milliseconds until the next deadlines come: to turn the wheel then tells of them at once."""
        ttl_ms, ticks = self.topology.ttl_ms, self.topology.ticks_per_ttl
        tick = now_ms * ticks // ttl_ms
        return -(-(tick + 1) * ttl_ms // ticks) - now_ms

    def tick(self, now_ms: int) -> None:
        """Turn the wheel. The shell calls this every tick; a long gap since the last call was a stall."""
        now_ms = max(now_ms, self._now_ms)
        stood_still_ms = now_ms - self._ticked_ms
        self._now_ms = self._ticked_ms = now_ms
        self.counters.expiry_lag.record(max(0, stood_still_ms - self.tick_ms))
        if stood_still_ms > self.stall_ms:
            self.counters.stalls += 1
            self.counters.stalled_ms += stood_still_ms
            self._turn_cold(Cold.STALL, now_ms)
            self._tell("node.stalled", stood_still_ms=stood_still_ms, bound_ms=self.stall_ms)
        elif self.ownership.turn_warm(now_ms):
            self._answer_absent(now_ms)
            if not self.warming_ms(now_ms):
                self._tell("node.warm", users=self.table.online)
        if self._lingers and not self.ownership.needed_ms(now_ms):
            self._lingers = False
            if self.ownership.removed:
                self._tell("node.not_needed", epoch=self.topology.epoch)
        self.table.advance(now_ms)
        self.watchers.turn(now_ms)

    def push(self, now_ms: int) -> bool:
        """Tell some of those who watch what is due; whether there is more. See ``watchers``."""
        return self.watchers.push(now_ms, self.topology.epoch, self.warming_ms(now_ms))

    def maintain(self, now_ms: int, lines: int) -> int:
        """Do up to ``lines`` lines of housekeeping, and as much for who watches; how many lines are due."""
        more = self.watchers.turn(now_ms, max(1, lines // _LINES_PER_WATCH))
        return max(int(more), self.table.maintain(now_ms, lines))

    def start_over(self, reason: str, now_ms: int) -> None:
        """Forget everybody and be cold: nobody can say how old what the node holds is."""
        now_ms = self.observe(now_ms)
        self.data_path.collect(self.counters)
        self.counters.suspicions += 1
        self._tell("node.suspect", reason=reason, users_forgotten=self.table.online)
        self._lay_table(now_ms)
        self.watchers.set.attach(self.table)
        self._turn_cold(Cold.CLOCK, now_ms)

    def _turn_cold(self, why: Cold, now_ms: int) -> None:
        self.stats.cold = why  # what was counted until now belongs to what was before
        self.ownership.turn_cold(now_ms)
        self._listening_since_ms = now_ms
        self._answer_absent(now_ms)

    def follow(self, topology: "Topology", now_ms: int) -> None:
        """Change to another topology of the same cluster; after ``Refused`` nothing has changed."""
        now_ms = self.observe(now_ms)
        if not check_change(self.topology, topology):
            return
        epoch = self.topology.epoch
        if not self.warming_ms(now_ms):
            self.stats.cold = Cold.TOPOLOGY
        gained, lost = self.ownership.follow(topology, now_ms)
        if gained:
            self._listening_since_ms = now_ms
        self.topology, self._topology_body = topology, encode_topology(topology.to_wire())
        self._answer_absent(now_ms)
        if topology.epoch == epoch:
            return
        self._lingers = True
        self._tell("node.topology", epoch=topology.epoch, slots_gained=gained, slots_lost=lost)
        if self.ownership.removed:
            self._tell("node.removed", epoch=topology.epoch, needed_ms=self.ownership.needed_ms(now_ms))

    def _answer_absent(self, now_ms: int) -> None:
        self.table.set_slots(self.ownership.groups, self.ownership.absent(now_ms), now_ms)
        self.watchers.set.look_again()

    def warming_ms(self, now_ms: int) -> int:
        """How long reads may still say *unknown* for users not held; 0 when warm."""
        return self.ownership.warming_ms(now_ms)

    def seen_body(self, request: "KeysRequest", states: bytes, ages: bytes, now_ms: int) -> bytes:
        """Body of the reply to a get that asked for last seen too."""
        seen, listened_s = self._last_seen(request.keys, now_ms), self.listened_s(now_ms)
        epoch, warming_ms = self.topology.epoch, self.warming_ms(now_ms)
        return encode_get_seen_reply(
            GetSeenReply(epoch, warming_ms, request.key_count, states, ages, seen, listened_s)
        )

    def _last_seen(self, keys: "Buffer", now_ms: int) -> bytes:
        """Seconds since each user was last seen, a little-endian u32 a key; ``SEEN_NONE`` where not known."""
        if self.table.last_seen is None:
            return SEEN_NONE.to_bytes(4, "little") * (memoryview(keys).nbytes // 8)
        ages = array("I", self.table.get_last_seen(keys, now_ms))
        if sys.byteorder == "big":
            ages.byteswap()
        return ages.tobytes()

    def listened_s(self, now_ms: int) -> int:
        """For how long it has heard every heartbeat of its slots, and forgotten nobody; 0: remembers nobody.

        As coarse as what is remembered, and no longer than that is kept.
        """
        gone = self.table.last_seen
        if gone is None:
            return 0
        since_s = max(-(-self._listening_since_ms // 1000), gone.complete_s)
        return max(0, min(now_ms // 1000 - since_s, self.last_seen_ms // 1000))

    def unready(self, now_ms: int) -> str:
        """Why others should be asked: ``draining``, ``removed`` or ``warming``; empty when ready."""
        if self.draining:
            return "draining"
        if self.ownership.removed:
            return "removed"
        return "warming" if self.warming_ms(now_ms) else ""

    def _tell(self, name: str, **facts: int | str) -> None:
        event = Event(name, facts)
        self._events.append(event)
        self.past.append((self._now_ms, event))

    def take_events(self) -> list[Event]:
        """What happened since the last call."""
        events, self._events = self._events, []
        return events

    def note_load(self, now_ms: int, *, waited: bool) -> None:
        """Take note of whether the loop had to wait for work since the last call; the shell calls this."""
        before = self.overload.bounds
        self.overload.note(now_ms, waited=waited)
        bounds = self.overload.bounds
        if bounds == before:
            return
        self.data_path.refuse_older(*bounds)
        if self.overload.pressed:
            self.counters.overloads += 1

    # -- answers of the control plane ------------------------------------------------------------------------

    def welcome(self, now_ms: int) -> Welcome:
        """The reply to HELLO."""
        former = self.ownership.former if self.ownership.needed_ms(now_ms) else None
        return Welcome(
            version=VERSION,
            cluster=self.topology.cluster,
            node=self.name,
            boot_id=self.boot_id,
            epoch=self.topology.epoch,
            topology_hash=self.topology.hash,
            warming_ms=self.warming_ms(now_ms),
            frame_bytes_max=self.limits.frame_bytes,
            keys_per_frame=self.limits.keys_per_frame,
            in_flight=self.limits.in_flight,
            agent=AGENT,
            former_epoch=former.epoch if former is not None else 0,
            last_seen_s=self.last_seen_ms // 1000,
        )

    def vitals(self, now_ms: int) -> Vitals:
        """The reply to PING."""
        return Vitals(
            epoch=self.topology.epoch,
            users=self.table.online,
            uptime_ms=now_ms - self._started_ms,
            warming_ms=self.warming_ms(now_ms),
            draining=self.draining,
            agent=AGENT,
            removed=self.ownership.removed,
            needed_ms=self.ownership.needed_ms(now_ms),
        )

    def topology_reply(self, epoch: int | None, now_ms: int) -> bytes:
        """The topology it follows; the one before it if that is the ``epoch`` asked for and still matters."""
        former = self.ownership.former if self.ownership.needed_ms(now_ms) else None
        if former is not None and former.epoch == epoch:
            return encode_topology(former.to_wire())
        return self._topology_body

    def count(self, skipped: tuple[str, ...], now_ms: int) -> CountReply:
        """Users of the slots whose first owner, not counting those in ``skipped``, is this node.

        Added up over the nodes that answer, with the names of those that do not as ``skipped``, every user of
        a slot with an owner left counts exactly once.
        """
        passed_over = frozenset(skipped)
        online = 0
        for owners, users in zip(self.ownership.group_owners, self.table.count(now_ms), strict=False):
            if next((owner for owner in owners if owner not in passed_over), None) == self.name:
                online += users
        return CountReply(self.topology.epoch, self.warming_ms(now_ms), online)
