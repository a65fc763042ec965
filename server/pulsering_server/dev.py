"""``pulsering dev``: a throw-away cluster in one terminal.

Prints the cluster's URL on stdout and nothing else, so that a script can read it; Ctrl-C ends all nodes.
Exit codes: 0 ended by a signal; 1 a node failed, with the end of its log on stderr.
"""

import asyncio
import signal
import sys
from typing import Final

from pulsering_server.local_cluster import LocalCluster, NodeFailed

__all__ = ["run"]

ENDED: Final = 0
FAILED: Final = 1


def run(nodes: int = 3, ttl_s: float = 20.0) -> int:
    """Run a cluster of ``nodes`` until a signal comes; the process's exit code."""
    return asyncio.run(_run(nodes, round(ttl_s * 1000)))


async def _run(nodes: int, ttl_ms: int) -> int:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    try:
        async with LocalCluster(nodes, ttl_ms=ttl_ms) as cluster:
            print(cluster.url, flush=True)
            if sys.stderr.isatty():
                print("Ctrl-C ends it. Elsewhere: export PULSERING_URL=<this URL>", file=sys.stderr)
            await _until_stopped_or_failed(cluster, stopped)
    except NodeFailed as error:
        print(f"pulsering dev: {error}", file=sys.stderr)
        return FAILED
    return ENDED


async def _until_stopped_or_failed(cluster: LocalCluster, stopped: asyncio.Event) -> None:
    told = asyncio.create_task(stopped.wait())
    ends = {asyncio.create_task(node.wait()): node for node in cluster.nodes.values()}
    try:
        done, _ = await asyncio.wait((told, *ends), return_when=asyncio.FIRST_COMPLETED)
        if told not in done:
            raise NodeFailed(ends[done.pop()].describe("ended"))
    finally:
        told.cancel()
        for end in ends:
            end.cancel()
