"""Watching, against what is true: whatever connections, nodes and readers do, in whatever order.

Nodes have states of users, connections with frames under way that are late or lost, and speak when they like;
readers come, go and read. Against the plain history of what was true when, it must hold at each moment:

- A status is shown that was true, at an owner as *online* asks and at all that have a word as *offline* does,
  not longer ago than the silence after which a node has no word.
- A reader that reads all the time gets each change exactly once: versions go up by one, and no two changes in
  a row are the same.
- When all has arrived, what is shown is what a read of all owners would say.
- A node tells of exactly those users that somebody watches, and once nobody does, of none.
"""

from collections import defaultdict

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.watch_owners import COLD, EXPIRED, HEARTBEAT, OFFLINE, ONLINE, Hand

from pulsering import Status, limits, routing
from pulsering._watch_reader import Reader
from pulsering._watch_stream import PULSES_MISSED_MAX

PULSE_MS = 1000
SWEEP_MS = 250
BOUND_MS = (PULSES_MISSED_MAX + 1) * PULSE_MS + SWEEP_MS
"""Silence, and the pulse that an answer may take for which what was shown is kept."""

NAMES = "abc"
USERS = range(6)
nodes = st.sampled_from(NAMES)
users = st.sampled_from(USERS)


class Watching(RuleBasedStateMachine):
    """A client, three nodes and up to three readers."""

    @initialize()
    def begin(self) -> None:
        self.now = 0
        self.hand = hand = Hand(NAMES)
        self.readers = [Reader(hand.core.table, limits.WATCH_BUFFER) for _ in range(3)]
        self.wanted: list[set[int]] = [set() for _ in self.readers]
        self.said: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(lambda: [(0, OFFLINE)])
        self.stamps: dict[str, list[int]] = {name: [] for name in NAMES}
        self.last: dict[tuple[int, int], tuple[int, object]] = {}

    # What nodes do.

    @rule(name=nodes, user=users, state=st.sampled_from([OFFLINE, ONLINE, COLD]))
    def change(self, name: str, user: int, state: int) -> None:
        owner, key = self.hand[name], self.hand.key(user)
        if owner.state(key) != state:
            owner.say(key, state, HEARTBEAT if state == ONLINE else EXPIRED)
            self.said[name, key].append((self.now, state))
            self._stamp()

    @rule(name=nodes)
    def pulse(self, name: str) -> None:
        if name not in self.hand.down and self.hand[name].told:
            self.hand[name].push({})
            self._stamp()

    @rule(name=nodes)
    def serve(self, name: str) -> None:
        self.hand[name].serve()
        self._stamp()

    @rule(name=nodes)
    def deliver(self, name: str) -> None:
        if self.stamps[name]:
            self.hand.deliver(name, self.now - self.stamps[name].pop(0))
            self._read()

    @rule(name=nodes)
    def lose(self, name: str) -> None:
        self.stamps[name].clear()
        self.hand.lose(name)
        self._read()

    @rule(name=nodes)
    def connect(self, name: str) -> None:
        if name in self.hand.down:
            self.hand.connect(name)

    @rule(sweeps=st.integers(1, 16))
    def pass_time(self, sweeps: int) -> None:
        for _ in range(sweeps):
            self.now += SWEEP_MS
            self.hand.pass_time(SWEEP_MS)
            self._read()

    # What readers do.

    @rule(index=st.integers(0, 2), some=st.sets(users))
    def watch(self, index: int, some: set[int]) -> None:
        self.hand.watch(*sorted(some), reader=self.readers[index])
        self.wanted[index] |= some
        self._read()

    @rule(index=st.integers(0, 2), some=st.sets(users))
    def unwatch(self, index: int, some: set[int]) -> None:
        self.hand.unwatch(*sorted(some), reader=self.readers[index])
        self.wanted[index] -= some
        for user in some:
            self.last.pop((index, user), None)
        self._read()

    @rule()
    def calm_down(self) -> None:
        """Everybody is reachable and everything arrives: then all is as a read would say."""
        hand = self.hand
        for name in sorted(hand.down):
            hand.connect(name)
        while any(owner.frames or owner.asked for owner in hand.owners.values()):
            for name in NAMES:
                self.serve(name)
                while self.stamps[name]:
                    self.deliver(name)
        everybody = set().union(*self.wanted)
        for index, wanted in enumerate(self.wanted):
            for user in wanted:
                assert self.last[index, user][1] == self._truth(user), user
        for name in NAMES:
            told = {hand.key(user) for user in everybody if name in self._owners(user)}
            assert hand[name].told == told

    # What must hold.

    @invariant()
    def nothing_is_shown_that_was_not_true_within_the_bound(self) -> None:
        for (_, user), (_, status) in self.last.items():
            since = self.now - BOUND_MS
            key = self.hand.key(user)
            held = [self._held(name, key, since) for name in self._owners(user)]
            if status is Status.ONLINE:
                assert any(ONLINE in states for states in held), (user, held)
            elif status is Status.OFFLINE:
                assert any(OFFLINE in states for states in held), (user, held)

    def teardown(self) -> None:
        for index, reader in enumerate(self.readers):
            self.hand.core.close(reader)
            self.wanted[index].clear()
        self.last.clear()
        self.hand.send()
        self.calm_down()
        assert self.hand.core.idle
        assert not any(owner.told for owner in self.hand.owners.values())

    # How.

    def _stamp(self) -> None:
        for name, stamps in self.stamps.items():
            stamps.extend([self.now] * (len(self.hand[name].frames) - len(stamps)))

    def _read(self) -> None:
        for index, reader in enumerate(self.readers):
            for change in self.hand.read(reader):
                assert isinstance(change.id, int)
                version, shown = self.last.get((index, change.id), (0, None))
                assert change.version == version + 1
                assert change.status is not shown or change.status is Status.UNKNOWN
                self.last[index, change.id] = change.version, change.status

    def _owners(self, user: int) -> set[str]:
        owners = self.hand.topology.owners_of(self.hand.key(user) >> 50)
        return {node.name for node in owners}

    def _held(self, name: str, key: int, since: int) -> set[int]:
        """The states that an owner had since then."""
        said = self.said[name, key]
        before = [state for at, state in said if at <= since][-1:]
        return {*before, *(state for at, state in said if at > since)}

    def _truth(self, user: int) -> Status:
        evidence = 0
        for name in self._owners(user):
            evidence |= 1 << self.hand[name].state(self.hand.key(user))
        return Status(routing.statuses_of(bytes((evidence,)))[0])


Watching.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    report_multiple_bugs=False,
)
TestWatching = Watching.TestCase
