"""``make example``: a throw-away cluster of three nodes, some people who come and go, and the API server.

Prints the page's URL on stdout and nothing else; Ctrl-C ends everything. Exit codes: 0 ended by a signal; 1
the address is taken, or a node did not start.
"""

import argparse
import asyncio
import random
import signal
import sys
from contextlib import AsyncExitStack
from typing import Final

import uvloop

from examples.api_server import people
from examples.api_server.app import make_app
from examples.api_server.serving import NotStarted, listen, serving, url_of
from examples.api_server.settings import Settings
from pulsering import PresenceClient
from pulsering_server.local_cluster import LocalCluster, NodeFailed

__all__ = ["main"]

TTL_S: Final = 10.0
"""Half of what a cluster has by default: nobody wants to wait for a dot to turn."""

REMEMBERED: Final = "1d"
"""For how long nodes know when somebody was last seen; by default they remember nobody."""


def main(arguments: list[str]) -> int:
    """Run all of it until a signal comes; the exit code."""
    parser = argparse.ArgumentParser(
        "make example", description="A friends list whose dots turn by themselves."
    )
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: for the phones in your network too")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free")
    parser.add_argument("--ttl", type=float, default=TTL_S, metavar="SECONDS", help="silence until offline")
    parser.add_argument("--nobody", action="store_true", help="nobody but who opens the page")
    given = parser.parse_args(arguments)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(given))
    except (OSError, NodeFailed, NotStarted) as error:
        print(f"example: {error}", file=sys.stderr)
        return 1
    return 0


async def _run(given: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with AsyncExitStack() as stack:
        bound = listen(given.host, given.port)
        stack.callback(bound.close)
        nodes = LocalCluster(3, ttl_ms=round(given.ttl * 1000), last_seen=REMEMBERED)
        cluster = await stack.enter_async_context(nodes)
        friends = () if given.nobody else people.NAMES
        app = make_app(Settings(url=cluster.url, friends=friends))
        ended = await stack.enter_async_context(serving(app, bound))
        if not given.nobody:
            presence = await stack.enter_async_context(PresenceClient.from_url(cluster.url))
            living = asyncio.create_task(people.come_and_go(presence, random.Random()))
            stack.callback(living.cancel)
        print(url_of(bound), flush=True)
        if sys.stderr.isatty():
            _say_what_to_try(cluster)
        waiting = asyncio.create_task(stopped.wait())
        await asyncio.wait((waiting, ended), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()


def _say_what_to_try(cluster: LocalCluster) -> None:
    pids = ", ".join(f"{node.pid} ({name})" for name, node in cluster.nodes.items())
    print(
        "Open it in two tabs, with two names; close one and watch its dot in the other.\n"
        f"Kill a node, and see nothing change: kill -9 one of {pids}.\n"
        "Ctrl-C ends it.",
        file=sys.stderr,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
