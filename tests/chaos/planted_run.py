"""``python -m chaos.planted_run BUG MODULE ...``: a program with one of the simulator's bugs in it.

It is how a test knows that a tour would notice; nothing else runs it.
"""

import runpy
import sys

from sim.planted import planted

if __name__ == "__main__":
    bug, module = sys.argv[1:3]
    del sys.argv[1:3]
    with planted(bug):
        runpy.run_module(module, run_name="__main__", alter_sys=True)
