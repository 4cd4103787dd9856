"""The independent suite: worlds and cases by an author who has not read the rules of triage, run once. Its figure is the one that is published.

A module here is found by itself (`tests.bench.drift.worlds.suites`); how to write one: the docstring of `tests.bench.drift.worlds`.
"""
