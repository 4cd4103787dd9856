"""What can change about a column: one class per kind of drift, found in one table.

Face: base, stretch, table.
Imported by: `serving.monitoring`; imports its hours and dependence.
"""
