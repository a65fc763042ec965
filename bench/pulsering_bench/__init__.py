"""Load generators, the demo and the benchmarks."""
