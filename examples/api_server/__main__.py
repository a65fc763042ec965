"""``python -m examples.api_server``: as many processes as asked for, until SIGTERM or Ctrl-C.

Exit codes: 0 ended by Ctrl-C; 1 the address is taken; 3 no node of the cluster can be reached.
"""

import argparse
import contextlib
import os
import secrets
import sys

import uvicorn
from uvicorn.supervisors import Multiprocess

from examples.api_server.serving import HOW, listen, url_of
from examples.api_server.settings import SECRET, URL

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Serve; the exit code."""
    parser = argparse.ArgumentParser("python -m examples.api_server", description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free")
    parser.add_argument("--processes", type=int, default=1, help="one for each core that devices may use")
    parser.add_argument("--url", help=f"of the cluster; default ${URL}, or port 7400 of this machine")
    given = parser.parse_args(arguments)
    if given.url:
        os.environ[URL] = given.url
    # Processes are told by the environment, and must accept each other's tokens.
    os.environ.setdefault(SECRET, secrets.token_hex(32))
    try:
        bound = listen(given.host, given.port)
    except OSError as error:
        print(f"api server: {error}; another one with --port", file=sys.stderr)
        return 1
    print(url_of(bound), flush=True)
    config = uvicorn.Config("examples.api_server.app:create", factory=True, workers=given.processes, **HOW)
    with contextlib.suppress(KeyboardInterrupt):
        if given.processes > 1:
            Multiprocess(config, [bound]).run()
        else:
            uvicorn.Server(config).run([bound])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
