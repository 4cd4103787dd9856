"""Benchmarks: ours beside its peers, in the same call, on the same data. Run by `./headrace bench`; not tests."""
