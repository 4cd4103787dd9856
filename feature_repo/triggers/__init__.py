"""What asks for a new training: one class per trigger, found in one table; each brings its settings.

Face: base, quality, table.
Imported by: spec, and every room above; imports metrics.
"""
