"""What a model's answers are measured by: one class per metric, found by name in one table.

Face: base, table.
Imported by: spec, and every room above; imports nothing of ours.
"""
