"""Makes faults happen in a running history, and keeps account of what is promised meanwhile.

Faults overlap: a link is cut as long as any fault cuts it, a process stands still as long as any holds it. In
a calm plan a fault suspends P6 until it is over and healed; P2 holds throughout. In a storm, *offline* is
judged by heartbeats that all owners had, except while nodes follow different topologies; when it is over and
everybody is warm again, everything is promised.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from sim.cluster import topology_of
from sim.plan import CLIENTS, MS, SECOND, Fault
from sim.world import Machine, Process

from pulsering.topology import Topology

if TYPE_CHECKING:
    from sim.network import Link
    from sim.run import Run

__all__ = ["Faults"]

CALM_AFTER_US: Final = 6_500 * MS
"""P6: 5 s after a fault heals; what began before that gets its time to end."""

DEAD_AFTER_US: Final = 2 * SECOND
"""P6: 2 s after a node died."""

SETTLED_AFTER_US: Final = 8 * SECOND
"""For clients to hear of a new topology."""


class Faults:
    """All faults of one history."""

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._world = run.world
        self._plan = run.plan
        self._cuts: Counter[int] = Counter()
        self._held: Counter[str] = Counter()
        self._delays: Counter[int] = Counter()
        self._links: dict[int, Link] = {}
        self._names = run.plan.nodes
        self._down: set[str] = set()
        self._epoch = 1
        self._mixed = 0
        self._troubled = 0
        self._changing = 0

    def schedule(self) -> None:
        """Have everything happen when the plan says."""
        run, plan, world = self._run, self._plan, self._world
        warm_us = plan.ttl_ms * MS * 11 // 10 + 4 * SECOND
        if plan.storm:
            run.phase(plan.replicas, definite=0, leaves=True, why="storm")
            world.at(plan.calm_at_us, self._end_storm)
        else:
            run.phase(0, definite=0, leaves=True, why="warming up")
            world.at(warm_us, self._trouble, 0, "warm")
        for fault in plan.faults:
            world.at(fault.at_us, self._begin, fault)

    # -- one fault -------------------------------------------------------------------------------------------

    def _begin(self, fault: Fault) -> None:
        self._run.note(f"{fault.kind} {fault.who} {fault.whom} {fault.amount}")
        if fault.kind == "reshard":
            self._reshard(fault)
            return
        getattr(self, f"_{fault.kind}")(fault)
        if self._plan.storm:
            self._world.at(fault.until_us, self._heal, fault)
            return
        self._trouble(1, fault.kind)
        if fault.kind == "kill":
            # The others must do without it after two seconds.
            self._world.after(DEAD_AFTER_US, self._trouble, -1, "the others do without it")
            self._world.at(max(fault.until_us, fault.at_us + DEAD_AFTER_US), self._trouble, 1, "it is back")
        self._world.at(fault.until_us, self._heal, fault)
        over_us = max(fault.until_us, fault.at_us + DEAD_AFTER_US) + CALM_AFTER_US
        self._world.at(over_us, self._trouble, -1, "healed")

    def _trouble(self, more: int, why: str) -> None:
        self._troubled += more
        if self._world.now_us > self._plan.ttl_ms * MS:
            definite = 0 if self._troubled else 1 if self._changing else 2
            self._run.phase(1, definite=definite, leaves=not self._mixed, why=why)

    def _heal(self, fault: Fault) -> None:
        heal: Callable[[Fault], None] | None = getattr(self, f"_heal_{fault.kind}", None)
        if heal is not None:
            self._run.note(f"healed: {fault.kind} {fault.who} {fault.whom}")
            heal(fault)

    def _process(self, name: str) -> Process | None:
        if name in CLIENTS:
            return self._run.clients[name].process
        return self._run.nodes[name].process

    def _machine(self, name: str) -> Machine:
        return (self._run.clients[name] if name in CLIENTS else self._run.nodes[name]).machine

    # -- processes and machines ------------------------------------------------------------------------------

    def _kill(self, fault: Fault) -> None:
        self._end(fault.who, silently=False)

    def _crash(self, fault: Fault) -> None:
        self._end(fault.who, silently=True)

    def _end(self, who: str, *, silently: bool) -> None:
        self._held[who] = 0
        if who in CLIENTS:
            self._run.clients[who].end()
        else:
            self._run.nodes[who].end(silently=silently)
            self._down.add(who)

    def _heal_kill(self, fault: Fault) -> None:
        if fault.who in CLIENTS:
            if not self._run.clients[fault.who].process.alive:
                self._run.restart_client(fault.who)
            return
        node = self._run.nodes[fault.who]
        self._down.discard(fault.who)
        if node.process is None and fault.who in self._names:
            node.start()

    _heal_crash = _heal_kill

    def _drain(self, fault: Fault) -> None:
        self._run.nodes[fault.who].drain()
        self._world.at(max(fault.at_us, fault.until_us - 200 * MS), self._kill, fault)

    _heal_drain = _heal_kill

    def _pause(self, fault: Fault) -> None:
        process = self._process(fault.who)
        if process is not None:
            self._held[fault.who] += 1
            process.pause()

    def _heal_pause(self, fault: Fault) -> None:
        self._held[fault.who] -= 1
        process = self._process(fault.who)
        if self._held[fault.who] <= 0 and process is not None:
            self._held[fault.who] = 0
            process.resume()

    def _suspend(self, fault: Fault) -> None:
        if self._process(fault.who) is not None:
            self._machine(fault.who).clock.suspend(fault.until_us - fault.at_us)
            self._pause(fault)

    _heal_suspend = _heal_pause

    def _starve(self, fault: Fault) -> None:
        process = self._process(fault.who)
        if process is not None:
            process.turn_us = fault.amount

    def _heal_starve(self, fault: Fault) -> None:
        process = self._process(fault.who)
        if process is not None:
            process.turn_us = 0

    def _drift(self, fault: Fault) -> None:
        self._machine(fault.who).clock.set_rate(fault.amount)

    # -- links -----------------------------------------------------------------------------------------------

    def _ways(self, fault: Fault, *, there: bool = True, back: bool = True) -> Iterable["Link"]:
        network, node = self._run.network, self._machine(fault.who)
        for name in (fault.whom,) if fault.whom else CLIENTS:
            if there:
                yield network.link(self._machine(name), node)
            if back:
                yield network.link(node, self._machine(name))

    def _cut(self, links: Iterable["Link"]) -> None:
        for link in links:
            self._links[id(link)] = link
            self._cuts[id(link)] += 1
            self._run.network.cut(link)

    def _mend(self, links: Iterable["Link"]) -> None:
        for link in links:
            self._cuts[id(link)] -= 1
            if self._cuts[id(link)] == 0:
                self._run.network.heal(link)

    def _isolate(self, fault: Fault) -> None:
        self._cut(self._ways(fault))

    def _heal_isolate(self, fault: Fault) -> None:
        if fault.amount % 3 == 0:  # the middle has forgotten the connections meanwhile
            self._reset(fault)
        self._mend(self._ways(fault))

    def _deafen(self, fault: Fault) -> None:
        self._cut(self._ways(fault, back=False))

    def _heal_deafen(self, fault: Fault) -> None:
        self._mend(self._ways(fault, back=False))

    def _mute(self, fault: Fault) -> None:
        self._cut(self._ways(fault, there=False))

    def _heal_mute(self, fault: Fault) -> None:
        self._mend(self._ways(fault, there=False))

    def _slow(self, fault: Fault) -> None:
        for link in self._ways(fault, back=fault.amount % 2 == 0):
            link.delay_us += fault.amount

    def _heal_slow(self, fault: Fault) -> None:
        for link in self._ways(fault, back=fault.amount % 2 == 0):
            link.delay_us -= fault.amount

    def _reset(self, fault: Fault) -> None:
        names = (fault.whom,) if fault.whom else CLIENTS
        self._run.network.reset_between(self._machine(fault.who), [self._machine(name) for name in names])

    # -- topology --------------------------------------------------------------------------------------------

    def _reshard(self, fault: Fault) -> None:
        """Add or remove a node; each node takes the new topology at a time of its own."""
        run, plan = self._run, self._plan
        spare = [name for name in plan.nodes + plan.spare if name not in self._names]
        old = self._names
        if spare and (fault.amount % 2 or len(old) <= max(2, plan.replicas)):
            self._names = "".join(sorted(old + spare[fault.amount % len(spare)]))
        elif len(old) > max(2, plan.replicas):
            self._names = old.replace(old[fault.amount % len(old)], "")
        else:
            return
        self._epoch += 1
        topology = topology_of(run.shape, self._names, self._epoch)
        run.note(f"epoch {self._epoch}: {old} to {self._names}")
        self._mixed += 1
        self._changing += 1
        self._judge_or_not()
        gone = sorted(set(old) - set(self._names))
        names = [*self._names, *gone]
        restart = plan.storm and fault.amount % 5 == 0
        self._world.rng.shuffle(names)
        span_us = fault.until_us - fault.at_us
        for index, name in enumerate(names):
            self._world.after(span_us * index // len(names), self._adopt, name, topology, restart)
        for name in gone:
            self._world.after(span_us + 2 * SECOND, self._stop_unneeded, name)
        # With one copy, nobody can say offline of a slot until its new owner is warm.
        warm_us = plan.ttl_ms * MS * 11 // 10 if plan.replicas == 1 else 0
        self._world.after(span_us + SETTLED_AFTER_US + warm_us, self._settled)
        self._world.after(span_us + SETTLED_AFTER_US + 2 * plan.ttl_ms * MS, self._over)

    def _adopt(self, name: str, topology: Topology, restart: bool) -> None:
        node = self._run.nodes[name]
        if name in self._down:
            node.topology = topology  # and will start with it
        else:
            node.adopt(topology, restart=restart)

    def _stop_unneeded(self, name: str) -> None:
        """What an operator does with a node that was removed: stop it once it says that it may be."""
        node = self._run.nodes[name]
        if name in self._names or node.process is None:
            return
        if node.removed and not node.core.ownership.needed_ms(node.machine.clock.boot_ms()):
            self._run.note(f"{name} is no longer needed")
            node.end()
        else:
            self._world.after(SECOND, self._stop_unneeded, name)

    def _settled(self) -> None:
        self._changing -= 1
        self._judge_or_not()

    def _over(self) -> None:
        self._mixed -= 1
        self._judge_or_not()

    def _judge_or_not(self) -> None:
        """Former owners do not hear of leaves; and in a storm they may be who cannot be asked."""
        if not self._plan.storm:
            self._trouble(0, "change of topology")
        elif self._world.now_us < self._plan.calm_at_us:
            copies = 0 if self._mixed else self._plan.replicas
            self._run.phase(copies, definite=0, leaves=not self._mixed, why="change of topology")

    # -- the end of a storm ----------------------------------------------------------------------------------

    def _end_storm(self) -> None:
        """Everything works again; when it is warm, everything is promised."""
        run, plan = self._run, self._plan
        run.note("the storm is over")
        final = topology_of(run.shape, self._names, self._epoch)
        for name in CLIENTS:
            if not run.clients[name].process.alive:
                run.restart_client(name)
        for name, node in run.nodes.items():
            if name in self._names:
                if node.process is None:
                    node.topology = final
                    node.start()
                else:
                    node.adopt(final)
        for process in [self._process(name) for name in (*run.nodes, *CLIENTS)]:
            if process is not None:
                process.turn_us = 0
                process.resume()
        for key, link in self._links.items():
            if self._cuts[key] > 0:
                run.network.heal(link)
        self._cuts.clear()
        warm_us = plan.ttl_ms * MS + plan.ttl_ms * MS // plan.ticks
        self._world.after(warm_us + CALM_AFTER_US + SECOND, self._be_settled)

    def _be_settled(self) -> None:
        self._run.phase(1, definite=2, leaves=True, why="after the storm")
