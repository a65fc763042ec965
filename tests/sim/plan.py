"""What will be done to a cluster in one history: its shape, what is asked of it, and what goes wrong.

A plan is made of its seed alone, before anything runs, as plain lists: so a failing history is made smaller
by leaving things out and running the rest. *Storm* plans let any number of faults overlap and heal at the
end; *calm* ones have one fault at a time, of one node, long enough apart that the second copy is whole again.
"""

import random
from typing import Final, NamedTuple

from sim.history import BEAT, COUNT, LEAVE, READ

__all__ = ["MS", "SECOND", "Action", "Fault", "Plan", "make_plan"]

MS: Final = 1000
SECOND: Final = 1_000_000

CLIENTS: Final = ("w1", "w2", "r1")
"""Two services that write, the second of which also reads, and one that only reads."""

CANCEL: Final = "cancel"
"""A read whose caller goes away."""


class Action(NamedTuple):
    """A call that a client makes. ``single``: one call a user, in one turn of the loop."""

    at_us: int
    client: str
    kind: str
    users: tuple[int, ...] = ()
    grace_ms: int = 0
    single: bool = False


class Fault(NamedTuple):
    """Something goes wrong at ``at_us`` and is over at ``until_us``.

    ``who`` is a node or a client, ``whom`` the other side of a link ("" for all), ``amount`` what the kind
    makes of it.
    """

    at_us: int
    until_us: int
    kind: str
    who: str
    whom: str = ""
    amount: int = 0


class Plan(NamedTuple):
    """One history to be."""

    seed: int
    storm: bool
    ttl_ms: int
    ticks: int
    replicas: int
    nodes: str
    """Names of the nodes at first."""
    spare: str
    """Names of nodes that may join."""
    ppm: dict[str, int]
    """How fast each machine's clock is, in millionths."""
    timeout_ms: int
    hedge_ms: int
    probed: str
    """Nodes that watch their own load, and refuse what they cannot do; it costs an event each 20 ms."""
    chopped: float
    watching: tuple[str, ...]
    """Clients that watch everybody."""
    actions: list[Action]
    faults: list[Fault]
    calm_at_us: int
    """All faults are over."""
    ends_at_us: int


NODE_FAULTS: Final = (
    "kill",
    "crash",
    "pause",
    "suspend",
    "starve",
    "isolate",
    "deafen",
    "mute",
    "reset",
    "slow",
)
"""Of one node: its process or machine dies; it stands still, alone or with its machine's timers; it is short
of processor; no packet comes through, none to it, none from it; connections break; packets are late."""

PAIR_FAULTS: Final = ("isolate", "deafen", "mute", "slow", "reset")
"""Those that can befall the way between one client and one node."""


def make_plan(seed: int, minutes: float = 10.0) -> Plan:
    """The plan of a seed; even seeds storm."""
    rng = random.Random(seed)
    storm = seed % 2 == 0
    ttl_ms = rng.choice((8_000, 12_000, 20_000, 20_000))
    ticks = rng.choice((20, 40, 80) if ttl_ms == 20_000 else (20, 20, 40))  # each tick is work
    count = rng.choice((2, 3, 3, 4))
    replicas = rng.choice((1, 2, 2, 2, 3) if storm else (1, 2, 2, 2))
    count = max(count, replicas)
    nodes, spare = "abcdef"[:count], "abcdef"[count : count + 2]
    names = [*nodes, *spare, *CLIENTS]
    length_us = round(minutes * 60 * SECOND)
    ttl_us = ttl_ms * MS
    calm_at_us = max(ttl_us, length_us - (ttl_us * 3 + 15 * SECOND))
    plan = Plan(
        seed=seed,
        storm=storm,
        ttl_ms=ttl_ms,
        ticks=ticks,
        replicas=replicas,
        nodes=nodes,
        spare=spare,
        ppm={name: rng.randrange(-450, 451) for name in names},
        timeout_ms=rng.choice((250, 250, 250, 1000)),
        hedge_ms=rng.choice((0, 0, 0, 30)),
        probed=rng.choice(nodes) if seed % 8 in (6, 7) else "",
        chopped=rng.choice((0.0, 0.02)),
        watching=("r1",) if seed % 8 in (2, 5) else (),
        actions=[],
        faults=[],
        calm_at_us=calm_at_us,
        ends_at_us=length_us,
    )
    plan.actions.extend(sorted(_actions(rng, plan)))
    plan.faults.extend(sorted(_storm(rng, plan) if storm else _calm(rng, plan)))
    return plan


# -- what is asked -------------------------------------------------------------------------------------------


def _actions(rng: random.Random, plan: Plan) -> list[Action]:
    actions: list[Action] = []
    groups = []
    first = 1
    for _ in range(rng.randrange(4, 7)):
        size = rng.randrange(2, 12)
        groups.append(tuple(range(first, first + size)))
        first += size
    singles = tuple((user,) for user in range(first, first + 3))
    never = tuple(user + (1 << 32) for user in range(1, first, 5))
    everybody = tuple(user for group in (*groups, *singles) for user in group) + never
    for index, group in enumerate((*groups, *singles)):
        steady = index == 0
        _beats_of(rng, plan, actions, group, steady=steady, single=len(group) == 1)
    reader = ("r1", "r1", "w2")
    at_us = 0
    while at_us < plan.ends_at_us - SECOND:
        at_us += round(rng.expovariate(1 / (1.5 * SECOND))) + 1
        users = everybody
        if rng.random() < 0.4:
            users = tuple(rng.choices(everybody, k=rng.randrange(1, 20)))
        kind = CANCEL if rng.random() < 0.04 else READ
        actions.append(Action(at_us, rng.choice(reader), kind, users, single=rng.random() < 0.1))
    counts = round(plan.ends_at_us / (20 * SECOND))
    actions += [Action(rng.randrange(plan.ends_at_us), "r1", COUNT) for _ in range(counts)]
    return [action for action in actions if action.at_us < plan.ends_at_us - SECOND]


def _beats_of(
    rng: random.Random,
    plan: Plan,
    actions: list[Action],
    group: tuple[int, ...],
    *,
    steady: bool,
    single: bool,
) -> None:
    """A group that beats as one, in sessions that end with a leave or without a word."""
    ttl_us = plan.ttl_ms * MS
    at_us = rng.randrange(ttl_us)
    while at_us < plan.ends_at_us:
        writer = rng.choice(CLIENTS[:2])
        ends_us = plan.ends_at_us if steady else at_us + rng.randrange(ttl_us // 2, 5 * ttl_us)
        last_us = at_us
        while at_us < ends_us:
            client = rng.choice(CLIENTS[:2]) if rng.random() < 0.1 else writer
            actions.append(Action(at_us, client, BEAT, group, single=single))
            last_us = at_us
            if rng.random() < 0.03:  # a second device, at about the same time
                actions.append(Action(at_us + rng.randrange(100 * MS), rng.choice(CLIENTS[:2]), BEAT, group))
            at_us += rng.randrange(ttl_us * 3 // 10, ttl_us * 48 // 100)
        if steady:
            return
        if rng.random() < 0.4:
            grace_ms = 0 if rng.random() < 0.6 else rng.randrange(1, plan.ttl_ms // 2)
            left_us = last_us + rng.randrange(10 * MS, ttl_us // 3)
            actions.append(Action(left_us, rng.choice(CLIENTS[:2]), LEAVE, group, grace_ms))
            ends = [left_us, left_us + grace_ms * MS]
            if rng.random() < 0.2:  # back again at once
                actions.append(Action(left_us + rng.randrange(5 * MS, ttl_us // 4), writer, BEAT, group))
        else:
            ends = [last_us + ttl_us]
        # Look closely where answers must change.
        tick_us = ttl_us // plan.ticks
        for end_us in ends:
            offsets_us = (-tick_us // 3, tick_us // 2, tick_us + 60 * MS, 2 * tick_us + 150 * MS)
            looks_us = [max(0, end_us + offset_us + rng.randrange(30 * MS)) for offset_us in offsets_us]
            actions += [Action(look_us, "r1", READ, group) for look_us in looks_us]
        at_us = max(last_us, ends[-1]) + rng.randrange(ttl_us // 10, 3 * ttl_us)


# -- what goes wrong -----------------------------------------------------------------------------------------


def _amount(rng: random.Random, kind: str) -> int:
    if kind == "slow":
        return rng.choice((20, 60, 200, 600, 1500)) * MS
    if kind == "starve":
        return rng.choice((5, 30, 100, 400)) * MS
    return rng.randrange(1 << 16)


def _storm(rng: random.Random, plan: Plan) -> list[Fault]:
    """Any number of faults at once, of any kind."""
    faults: list[Fault] = []
    end_us = plan.calm_at_us
    mean_us = rng.choice((4, 8, 16)) * SECOND
    kinds = rng.sample(NODE_FAULTS, k=rng.randrange(2, len(NODE_FAULTS)))
    at_us = rng.randrange(plan.ttl_ms * 2 * MS)
    while True:
        at_us += round(rng.expovariate(1 / mean_us)) + 1
        length_us = round(rng.choice((0.3, 2, 8, 25)) * SECOND * rng.uniform(0.3, 1.7))
        if at_us + length_us >= end_us:
            break
        who, dice = rng.choice(plan.nodes + plan.spare), rng.random()
        if dice < 0.12:
            whom = rng.choice(CLIENTS)
            faults.append(Fault(at_us, at_us + length_us, rng.choice(("pause", "suspend", "kill")), whom))
        elif dice < 0.4:
            kind = rng.choice(PAIR_FAULTS)
            faults.append(Fault(at_us, at_us + length_us, kind, who, rng.choice(CLIENTS), _amount(rng, kind)))
        elif dice < 0.45:
            whom = rng.choice((*plan.nodes, *CLIENTS))
            faults.append(Fault(at_us, at_us, "drift", whom, amount=rng.randrange(-450, 451)))
        else:
            kind = rng.choice(kinds)
            faults.append(Fault(at_us, at_us + length_us, kind, who, amount=_amount(rng, kind)))
    if plan.spare and rng.random() < 0.6:
        _reshards(rng, plan, faults, rng.randrange(1, 4))
    return faults


def _reshards(rng: random.Random, plan: Plan, faults: list[Fault], count: int) -> None:
    """Changes of topology, some of which stop half-way for a while."""
    for _ in range(count):
        at_us = rng.randrange(plan.ttl_ms * MS, max(plan.ttl_ms * MS + 1, plan.calm_at_us - 40 * SECOND))
        stagger_us = rng.choice((0, 1, 5, 20)) * SECOND
        faults.append(Fault(at_us, at_us + stagger_us, "reshard", "", amount=rng.randrange(1 << 16)))


def _calm(rng: random.Random, plan: Plan) -> list[Fault]:
    """One fault at a time, then time for everybody's next heartbeat and a warm-up.

    With a single copy there may be none of a node: only the topology changes.
    """
    faults: list[Fault] = []
    ttl_us = plan.ttl_ms * MS
    at_us = 2 * ttl_us + rng.randrange(10 * SECOND)
    while True:
        kind = rng.choice(("drift", "client", *(("reshard",) * 4)))
        if plan.replicas > 1 and rng.random() < 0.75:
            kind = rng.choice((*NODE_FAULTS, "drain"))
        length_us = round(rng.choice((0.5, 3, 10, 30)) * SECOND * rng.uniform(0.5, 1.5))
        if at_us + length_us + ttl_us + 10 * SECOND >= plan.calm_at_us:
            return faults
        who = rng.choice(plan.nodes)
        if kind == "client":
            faults.append(
                Fault(at_us, at_us + length_us, rng.choice(("pause", "suspend")), rng.choice(CLIENTS))
            )
        elif kind == "drift":
            whom = rng.choice((*plan.nodes, *CLIENTS))
            faults.append(Fault(at_us, at_us, "drift", whom, amount=rng.randrange(-450, 451)))
        elif kind == "reshard":
            length_us = rng.choice((0, 1, 10, 60)) * SECOND
            faults.append(Fault(at_us, at_us + length_us, kind, "", amount=rng.randrange(1 << 16)))
            length_us += 2 * ttl_us
        else:
            whom = rng.choice(CLIENTS) if kind in PAIR_FAULTS and rng.random() < 0.4 else ""
            faults.append(Fault(at_us, at_us + length_us, kind, who, whom, _amount(rng, kind)))
        at_us += length_us + ttl_us + 8 * SECOND + rng.randrange(10 * SECOND)
