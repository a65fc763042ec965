"""What is different between two configurations, and what it takes for each difference to count.

Values are compared as they count, defaults included, so writing a default out is no difference; nodes by
their names, so their order is none either. ``effect`` is what the schema says of the key: *reload* (running
nodes follow the new file), *restart* (of one node, if ``node`` names it, else of each, one after the other),
or *restart of every node* (running nodes refuse the file). Pure."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from pulsering_server.config_keys import Key, keys
from pulsering_server.config_schema import ClusterFile, NodeConfig

__all__ = ["RESTART", "Difference", "differences"]

RELOAD: Final = "reload"
RESTART: Final = "restart"


class Difference(NamedTuple):
    """One key, or a node that is only in one of them. A value that is not there is None."""

    name: str
    """``ttl``, ``limits.memory``, ``nodes[b].weight``, ``nodes[d]``."""
    old: Any
    new: Any
    effect: str
    moves: bool
    """Whether users can get other owners by it."""
    node: str = ""
    """The one node that has to restart, if it is only one."""

    @property
    def takes(self) -> str:
        """What it takes, as one would say it."""
        restart = f"restart of node {self.node}" if self.node else "restart of each node"
        return (restart if self.effect == RESTART else self.effect) + (", moves users" if self.moves else "")


def differences(old: ClusterFile, new: ClusterFile) -> tuple[Difference, ...]:
    """Return every difference, in the order of the schema, nodes by name."""
    return tuple(_of(ClusterFile, old, new, "", ""))


def _of(
    model: type[BaseModel], old: BaseModel, new: BaseModel, prefix: str, node: str
) -> Iterator[Difference]:
    for key in keys():
        if key.model is not model:
            continue
        before, after = getattr(old, key.field), getattr(new, key.field)
        name = f"{prefix}{key.path[-1]}"
        if key.is_list:
            yield from _of_nodes(name, before, after)
        elif key.section is not None:
            yield from _of(key.section, before, after, f"{name}.", node)
        elif before != after:
            yield Difference(
                name, key.show(before), key.show(after), key.change, key.moves, _restarts(key, node)
            )


def _of_nodes(name: str, old: tuple[NodeConfig, ...], new: tuple[NodeConfig, ...]) -> Iterator[Difference]:
    before, after = {node.name: node for node in old}, {node.name: node for node in new}
    for node in sorted(before.keys() | after.keys()):
        if node in before and node in after:
            yield from _of(NodeConfig, before[node], after[node], f"{name}[{node}].", node)
        else:
            was, is_ = before.get(node), after.get(node)
            yield Difference(
                f"{name}[{node}]",
                None if was is None else str(was.address),
                None if is_ is None else str(is_.address),
                RELOAD,
                moves=True,
            )


def _restarts(key: Key, node: str) -> str:
    return node if key.change == RESTART else ""
