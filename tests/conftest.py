"""For all tests: how long an example takes is for the benchmarks to judge, so hypothesis sets no deadline."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
