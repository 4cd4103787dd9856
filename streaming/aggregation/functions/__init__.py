"""Aggregation functions: one class in one file each, found by name in `table`.

Face: base, table.
Imported by: every package of streaming, and serving; imports statistics, sketches and pairs.
"""
