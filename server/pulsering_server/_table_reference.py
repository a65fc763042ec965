"""The table's specification: the slow twin of the compiled kernel, a dict and a wheel of counters.

It exists so that a reader can see what the kernel must answer, and so that tests can drive both side by side.
Strategy: one small record a key; time is cut into ticks of ``ttl_ms / ticks_per_ttl``; a heartbeat said at
``s`` has the deadline tick ``floor(s / tick) + ticks_per_ttl + 1`` and its user is online while ``floor(now /
tick)`` is smaller. Invariant: what a call answers follows from the records and ``now`` alone, never from what
was swept.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, NamedTuple

from pulsering_server._last_seen_reference import MEMORY_MIN, NONE, LastSeen
from pulsering_server.checked import checked_bytes, checked_count, checked_keys, checked_ms

if TYPE_CHECKING:
    from collections.abc import Buffer, Callable  # type: ignore[attr-defined,unused-ignore]

SLOTS = 16384
SLOT_SHIFT = 50
OFFLINE, ONLINE, UNKNOWN, MOVED = range(4)
NOT_OWNED = 0xFFFF
AGE_NONE = 255
APPEARS, STAYS, LEAVES = range(3)
"""What a table tells: a user turned online; one who was leaving does not; one leaves, now or soon."""

TTL_MS_MIN, TTL_MS_MAX = 1_000, 3_600_000
TICKS_PER_TTL_MIN, TICKS_PER_TTL_MAX = 20, 80
LAST_SEEN_BYTES = MEMORY_MIN
NEVER = -(2**62)
RECORD_BYTES = 200  # what the twin calls the memory of one record: dict slot, key, object

STATS = (
    "lines",
    "line_capacity",
    "line_entries",
    "annex_entries",
    "ledger_entries",
    "migrating",
    "huge_pages",
    "growth_steps",
    "shrink_steps",
    "swept_lines",
    "forced_lines",
    "released_blocks",
    "accepted_total",
    "stale_total",
    "refused_total",
    "moved_total",
    "expired_total",
)


class Tally(NamedTuple):
    """What became of the keys of one write; the four add up to the number of keys."""

    accepted: int
    stale: int
    refused: int
    moved: int


class _Record:
    """What is remembered of one key; ``deadline`` 0: offline, ``left`` None: no leave to order by."""

    __slots__ = ("beat", "deadline", "group", "left")

    def __init__(self, deadline: int, beat: int, left: int | None, group: int) -> None:
        self.deadline = deadline  # tick from which the user is offline
        self.beat = beat  # tick of the last heartbeat
        self.left = left  # ms at which the newest leave was said
        self.group = group  # counting group it was counted under


class Table:
    """Key -> deadline for one shard; every call takes ``now_ms`` and turns the wheel to it first.

    ``ttl_ms`` is how long a heartbeat counts (1 s..1 h), cut into ``ticks_per_ttl`` ticks (20..80).
    ``users_max`` limits the users online at once and ``memory_max`` the bytes held (0 = no limit): beyond
    either, users that are not online are refused, while refreshes and expiry go on. For ``last_seen_ms`` (0:
    not at all), and in ``last_seen_bytes`` beside, it remembers when those who went offline were last seen.
    Time never goes back: a smaller ``now_ms`` than the last one is read as the last one.
    """

    def __init__(
        self,
        *,
        ttl_ms: int,
        ticks_per_ttl: int = 80,
        now_ms: int = 0,
        users_max: int = 0,
        memory_max: int = 0,
        last_seen_ms: int = 0,
        last_seen_bytes: int = LAST_SEEN_BYTES,
        _lines: int = 0,
        _shift: int = 0,
    ) -> None:
        self._ttl = checked_count(ttl_ms, "ttl_ms", TTL_MS_MIN, TTL_MS_MAX)
        self._ticks = checked_count(ticks_per_ttl, "ticks_per_ttl", TICKS_PER_TTL_MIN, TICKS_PER_TTL_MAX)
        self._now = checked_ms(now_ms, "now_ms")
        self._users_max = checked_count(users_max, "users_max", 0, 2**32 - 1)
        self._memory_max = checked_count(memory_max, "memory_max", 0, 2**62)
        checked_count(_lines, "_lines", 0, 2**32)
        checked_count(_shift, "_shift", 0, 26)
        self._tick = self._tick_of(self._now)
        self._records: dict[int, _Record] = {}
        self._spokes: dict[int, dict[int, int]] = {}  # deadline tick -> group -> users
        # (first deadline tick it counts for, counting group of each slot)
        self._groupings: list[tuple[int, list[int]]] = [(-(2**63), [0] * SLOTS)]
        self._absent = bytes(SLOTS)
        self.last_seen: LastSeen | None = None
        """Those who went offline; None if the table remembers nobody."""
        if last_seen_ms:
            self.last_seen = LastSeen(keep_ms=last_seen_ms, memory_max=last_seen_bytes, now_ms=self._now)
        self._stats = dict.fromkeys(STATS, 0)
        self._told: Callable[[int, int], None] | None = None

    # -- reading the clock -----------------------------------------------------------------------------------

    def _tick_of(self, ms: int) -> int:
        return ms * self._ticks // self._ttl

    def advance(self, now_ms: int) -> None:
        """Turn the wheel to ``now_ms``: users whose deadline has come are offline and uncounted at once."""
        self._now = max(self._now, checked_ms(now_ms, "now_ms"))
        if self.last_seen is not None:
            self.last_seen.advance(self._now)
        tick = self._tick_of(self._now)
        if tick == self._tick:
            return
        self._tick = tick
        for deadline in [d for d in self._spokes if d <= tick]:
            self._stats["expired_total"] += sum(self._spokes.pop(deadline).values())
        while len(self._groupings) > 1 and self._groupings[1][0] <= tick + 1:
            del self._groupings[0]

    def tell(self, told: Callable[[int, int], None] | None) -> None:
        """Call ``told(key, what)`` whenever one of ``APPEARS``, ``STAYS`` and ``LEAVES`` has happened."""
        self._told = told

    # -- counting --------------------------------------------------------------------------------------------

    def _count(self, record: _Record, key: int, deadline: int) -> None:
        """Give a record its deadline, counted under the grouping of that tick."""
        groups = [groups for first, groups in self._groupings if first <= deadline][-1]
        record.deadline = deadline
        record.group = groups[key >> SLOT_SHIFT]
        spoke = self._spokes.setdefault(deadline, {})
        spoke[record.group] = spoke.get(record.group, 0) + 1

    def _uncount(self, record: _Record) -> None:
        self._spokes[record.deadline][record.group] -= 1
        record.deadline = 0

    def set_slots(self, groups: Buffer, absent: Buffer, now_ms: int) -> None:
        """Say which slots are ours, where they count, and what a read says of a key that is not online.

        ``groups``: 16384 native u16, the counting group of each slot or ``NOT_OWNED``. ``absent``: 16384
        bytes, each OFFLINE, UNKNOWN or MOVED. While nobody is online the new groups hold at once. Else
        deadlines up to the newest possible one stay counted under the groups they were written under, later
        ones under the new, so that for one ttl ``count`` sums both; a slot that was not owned before counts
        under its new group at once.
        """
        packed = checked_bytes(groups, "groups")
        states = checked_bytes(absent, "absent")
        if len(packed) != 2 * SLOTS:
            raise ValueError(f"groups must be {SLOTS} native u16, not {len(packed)} bytes")
        if len(states) != SLOTS:
            raise ValueError(f"absent must be {SLOTS} bytes, one state a slot, not {len(states)}")
        if not set(states) <= {OFFLINE, UNKNOWN, MOVED}:
            raise ValueError("absent must hold OFFLINE (0), UNKNOWN (2) or MOVED (3) only")
        self.advance(now_ms)
        self._absent = states
        new = list(memoryview(packed).cast("H"))
        if new == self._groupings[-1][1]:
            return
        if self.online == 0:
            self._groupings = [(-(2**63), new)]
            return
        for _, old in self._groupings:
            for slot, group in enumerate(old):
                if group == NOT_OWNED:
                    old[slot] = new[slot]
        first = self._tick + self._ticks + 2
        if self._groupings[-1][0] == first:
            del self._groupings[-1]
        self._groupings.append((first, new))

    def count(self, now_ms: int) -> list[int]:
        """Users online by counting group, exact; the index is the group."""
        self.advance(now_ms)
        owned = [group for _, groups in self._groupings for group in set(groups) if group != NOT_OWNED]
        counts = [0] * (max(owned, default=-1) + 1)
        for spoke in self._spokes.values():
            for group, users in spoke.items():
                if users:  # a group that is named no more may stand there with nobody
                    counts[group] += users
        return counts

    # -- writing ---------------------------------------------------------------------------------------------

    def heartbeat(self, keys: Buffer, now_ms: int, age_ms: int = 0) -> Tally:
        """Note heartbeats said ``age_ms`` ago. ``keys``: packed little-endian u64, any alignment.

        Heartbeats merge by max. ``stale``: already expired, or said before a leave. ``refused``: a new user
        beyond ``users_max`` or ``memory_max``. ``moved``: the slot is not owned.
        """
        now, age = checked_ms(now_ms, "now_ms"), checked_ms(age_ms, "age_ms")
        parsed = checked_keys(keys)
        self.advance(now)
        said = self._now - age
        return self._tallied([self._heartbeat(key, said) for key in parsed])

    def _heartbeat(self, key: int, said: int) -> str:
        beat = self._tick_of(said)
        deadline = beat + self._ticks + 1
        if self._groupings[-1][1][key >> SLOT_SHIFT] == NOT_OWNED:
            return "moved"
        record = self._records.get(key)
        if deadline <= self._tick or (record and record.left is not None and said < record.left):
            return "stale"
        if record and record.deadline > self._tick:
            if record.left is not None or deadline > record.deadline:
                left = record.left
                self._uncount(record)
                self._count(record, key, deadline)
                record.beat, record.left = beat, None
                if self._told and left is not None:
                    self._told(key, STAYS)
            return "accepted"
        if self._full(0 if record else 1):
            return "refused"
        record = self._records[key] = _Record(0, beat, None, 0)
        self._count(record, key, deadline)
        if self._told:
            self._told(key, APPEARS)
        return "accepted"

    def _full(self, more: int) -> bool:
        return bool(
            (self._users_max and self.online >= self._users_max)
            or (self._memory_max and (len(self._records) + more) * RECORD_BYTES > self._memory_max)
        )

    def leave(self, keys: Buffer, now_ms: int, age_ms: int = 0, grace_ms: int = 0) -> Tally:
        """Note leaves said ``age_ms`` ago: offline at once, or at the latest ``grace_ms`` after that.

        For one ttl a heartbeat said before the leave is ``stale`` (a tie: what arrives last wins). A leave
        said in an earlier tick than the user's last heartbeat, or a whole ttl ago, is ``stale`` itself.
        """
        now, age = checked_ms(now_ms, "now_ms"), checked_ms(age_ms, "age_ms")
        grace, parsed = checked_ms(grace_ms, "grace_ms"), checked_keys(keys)
        self.advance(now)
        return self._tallied([self._leave(key, age, grace) for key in parsed])

    def _leave(self, key: int, age: int, grace: int) -> str:
        said = self._now - age
        if self._groupings[-1][1][key >> SLOT_SHIFT] == NOT_OWNED:
            return "moved"
        record = self._records.get(key)
        online = record is not None and record.deadline > self._tick
        if age >= self._ttl or (record and online and self._tick_of(said) < record.beat):
            return "stale"
        if record is None:
            if self._memory_max and (len(self._records) + 1) * RECORD_BYTES > self._memory_max:
                return "refused"
            record = self._records[key] = _Record(0, NEVER, None, 0)
        record.left = said if record.left is None else max(record.left, said)
        if online:
            deadline = min(record.deadline, self._tick_of(said + grace) + 1) if grace else 0
            self._uncount(record)
            if deadline > self._tick:
                self._count(record, key, deadline)
            if self._told:
                self._told(key, LEAVES)
        return "accepted"

    def _tallied(self, outcomes: list[str]) -> Tally:
        tally = Tally(*(outcomes.count(outcome) for outcome in Tally._fields))
        for outcome, number in tally._asdict().items():
            self._stats[f"{outcome}_total"] += number
        return tally

    # -- reading ---------------------------------------------------------------------------------------------

    def get(self, keys: Buffer, now_ms: int) -> bytes:
        """State of each key, 2 bits a key, 4 keys a byte, least significant bits first; unused bits are 0."""
        parsed = checked_keys(keys)
        self.advance(now_ms)
        packed = bytearray((len(parsed) + 3) // 4)
        for i, key in enumerate(parsed):
            record = self._records.get(key)
            state = ONLINE if record and record.deadline > self._tick else self._absent[key >> SLOT_SHIFT]
            packed[i // 4] |= state << (i % 4 * 2)
        return bytes(packed)

    def get_ages(self, keys: Buffer, now_ms: int) -> bytes:
        """Whole ticks since each key's last heartbeat, one byte a key; 255 where it is not online."""
        parsed = checked_keys(keys)
        self.advance(now_ms)
        records = [self._records.get(key) for key in parsed]
        return bytes(self._tick - r.beat if r and r.deadline > self._tick else AGE_NONE for r in records)

    def get_last_seen(self, keys: Buffer, now_ms: int) -> bytes:
        """Seconds since each user was last seen, native u32 a key; 2^32 - 1 where online or not known.

        Seen is who sent a heartbeat: a leave says nothing of when its user was there. Where there is no
        ``last_seen``, ``ValueError``.
        """
        parsed = checked_keys(keys)
        if self.last_seen is None:
            raise ValueError("this table remembers nobody: last_seen_ms is 0")
        self.advance(now_ms)
        return array("I", (self._last_seen(key, self.last_seen) for key in parsed)).tobytes()

    def _last_seen(self, key: int, gone: LastSeen) -> int:
        record = self._records.get(key)
        if record and record.deadline > self._tick:
            return NONE
        if record and record.beat != NEVER:
            return gone.age_of(self._second_of(record.beat))
        return gone.find_one(key)

    def _second_of(self, beat: int) -> int:
        return max(beat, 0) * self._ttl // (self._ticks * 1000)

    # -- housekeeping ----------------------------------------------------------------------------------------

    def maintain(self, now_ms: int, lines: int) -> int:
        """Do up to ``lines`` lines of housekeeping; returns how many lines more are due now."""
        budget = checked_count(lines, "lines", 0, 2**62)
        self.advance(now_ms)
        dead = [
            key
            for key, record in self._records.items()
            if record.deadline <= self._tick
            and (record.left is None or self._tick_of(record.left) + self._ticks + 1 <= self._tick)
        ]
        for key in dead[:budget]:
            beat = self._records.pop(key).beat
            if self.last_seen is not None and beat != NEVER:
                self.last_seen.note_one(key, self._second_of(beat))
        self._stats["swept_lines"] += len(dead[:budget])
        return len(dead[budget:])

    @property
    def populate_due(self) -> bool:
        """Whether ``populate`` has something to do: never here."""
        return False

    def populate(self) -> None:
        """Have the system find 2 MiB that growing needs next; may block: for another thread."""

    @property
    def ttl_ms(self) -> int:
        """How long a heartbeat counts."""
        return self._ttl

    @property
    def tick_ms(self) -> float:
        """Length of a tick, ``ttl_ms / ticks_per_ttl``."""
        return self._ttl / self._ticks

    @property
    def online(self) -> int:
        """Users online at the last ``now_ms``, over all groups."""
        return sum(sum(spoke.values()) for spoke in self._spokes.values())

    @property
    def entries(self) -> int:
        """Records held: online users, leaves remembered, and expired ones not yet swept."""
        return len(self._records)

    @property
    def memory_bytes(self) -> int:
        """Bytes held for records (an estimate in the twin)."""
        return len(self._records) * RECORD_BYTES

    def stats(self) -> dict[str, int]:
        """Plain ints for metrics; the same names in the twin and the kernel."""
        return self._stats | {"line_entries": len(self._records), "lines": len(self._records)}
