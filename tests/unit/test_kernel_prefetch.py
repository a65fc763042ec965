"""The compiler kept what the table's speed comes from, and no answer depends on: its prefetches.

gcc takes a function that only prefetches for one without effect and drops its calls. Every answer stays
right, at a third of the speed.
"""

import platform
import re
import shutil
import subprocess

import pytest

from pulsering_server import _table

LOOPS = {"raw_heartbeat", "raw_leave", "raw_get", "raw_ages"}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="knows the instruction's name on x86-64 only")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump (Debian: binutils)")
def test_every_loop_over_keys_fetches_lines_ahead() -> None:
    command = ["objdump", "--disassemble", "--no-show-raw-insn", _table.__file__]
    code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    fetching = set()
    for function in code.split("\n\n"):
        name = re.match(r"[0-9a-f]+ <\S*Table_(raw_\w+)>:", function)
        if name and re.search(r"\tprefetch\w+ ", function):
            fetching.add(name[1])
    assert fetching >= LOOPS
