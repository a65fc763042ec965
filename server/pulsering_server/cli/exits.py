"""The exit codes, documented in the help and relied on by scripts: once given, a number keeps its meaning."""

from typing import Final

OK: Final = 0
FAILED: Final = 1
"""The cluster was reached, but what was asked for did not come out: not acknowledged, or unknown."""
MISUSED: Final = 2
"""The command line or the configuration is not usable."""
CANNOT_REACH: Final = 3
"""No node that could answer was reached in time."""
INTERRUPTED: Final = 130
"""Ctrl-C, as shells expect it."""
