"""The ``pulsering`` command, also as ``python -m pulsering_server``.

Only the door: the command line itself lives in ``pulsering_server.cli`` and needs the ``server`` extra. A
client-only installation has this script too, so the door imports nothing but the standard library and,
when the extra is not there, says how to get it instead of showing a traceback.
"""

import sys
from typing import NoReturn

__all__ = ["main"]

# What the server extra brings; anything else that fails to import is a defect, and shows itself as one.
_EXTRA = frozenset({"typer", "rich", "ruamel", "pydantic", "pydantic_core", "structlog", "uvloop"})


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    try:
        from pulsering_server.cli import run
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRA:
            raise
        print(
            f"pulsering: the command line needs the 'server' extra ('{package}' is not installed)\n"
            "  pip install 'pulsering[server]'",
            file=sys.stderr,
        )
        sys.exit(2)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
