"""The topology that is published in etcd, for nodes whose ``cluster.yaml`` says ``topology: etcd://…``.

The key holds the text of a ``cluster.yaml``, and of that counts what all nodes must agree on (``AGREED``):
limits, TLS, tokens and all else stay what the node's own file says, so that who may write the key can place
users and no more. Of file and key the one with the higher epoch counts, as a node that is about to join is
started with a file that is ahead.

Nodes need etcd for news only. While it cannot be reached the topology stays as it is, which is a line in the
log and a metric, and a node that starts meanwhile goes by its file. Invariant: nothing that is in etcd, and
nothing that is not, ends a node.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import structlog

from pulsering_server.config_overrides import NONE
from pulsering_server.etcd_url import parse_etcd_url

if TYPE_CHECKING:
    from pulsering_server.config import ClusterConfig
    from pulsering_server.stats import Stats

__all__ = ["AGREED", "Published"]

AGREED: Final = ("cluster", "epoch", "ttl_ms", "ticks_per_ttl", "replicas", "hash_seed", "nodes")
START_S: Final = 5.0
"""What a start waits for etcd; then it goes on with what it has."""
RETRY_S: Final = (0.5, 5.0)
"""Between two tries, at random; a thousand nodes shall not come back all at once."""

log = structlog.get_logger("pulsering_server.published")


class Published:
    """What the key of ``source`` held when last read; ``text`` is empty before, and if there is none."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.text = ""
        self.up: bool | None = None
        """Whether etcd can be reached; None before it was tried."""

    def over(self, config: "ClusterConfig") -> "ClusterConfig":
        """The configuration of a node's file, with what is published in its place if that is not older.

        Raises ``ConfigErrors`` of the published text.
        """
        from pulsering_server.config import parse_config

        if not self.text:
            return config
        published = parse_config(self.text, self.source, NONE)
        if published.epoch < config.epoch:
            log.warning("topology.behind", source=self.source, published=published.epoch, file=config.epoch)
            return config
        return config.model_copy(update={name: getattr(published, name) for name in AGREED})

    async def fetch(self) -> None:
        """Read it, for a start, if that can be done soon."""
        from pulsering_server.etcd import EtcdFailed, EtcdKey

        try:
            async with asyncio.timeout(START_S), EtcdKey(parse_etcd_url(self.source)) as key:
                self.text = (await key.get()).text
        except (EtcdFailed, TimeoutError) as error:
            self._note(str(error) or "no answer")
        else:
            self._note("")

    async def run(self, on_change: Callable[[], Awaitable[object]], stats: "Stats") -> None:
        """Watch it for as long as the node runs, and keep ``stats.topology_frozen``."""
        from pulsering_server.etcd import EtcdFailed, EtcdKey

        url = parse_etcd_url(self.source)
        while True:
            try:
                async with EtcdKey(url) as key, aclosing(key.readings()) as readings:
                    async for value in readings:
                        self._note("")
                        stats.topology_frozen = False
                        if not value.text and self.text:
                            log.warning("topology.unpublished", source=self.source)
                        if value.text and value.text != self.text:
                            self.text = value.text
                            await on_change()
            except (EtcdFailed, TimeoutError) as error:
                self._note(str(error) or "no answer")
                stats.topology_frozen = True
            await asyncio.sleep(random.uniform(*RETRY_S))

    def _note(self, problem: str) -> None:
        """Say it once when etcd is lost, and once when it is found."""
        up = not problem
        if up == self.up:
            return
        self.up = up
        if problem:
            log.error("topology.frozen", source=self.source, reason=problem)
        else:
            log.info("topology.watched", source=self.source)
