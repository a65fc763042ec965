"""For all tests: how long an example takes is for the benchmarks to judge, so hypothesis sets no deadline.

What a shell starts in its background ignores Ctrl-C, and so do all children of that: tests that interrupt a
command would wait for ever.
"""

import signal

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

signal.signal(signal.SIGINT, signal.default_int_handler)
