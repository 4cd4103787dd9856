"""Why a window drifted: evidence by place, and what follows from all of it.

Face: calendar, case, explanation, lineage, pool, recomputation, seen, truth.
Imported by: `serving.monitoring`; imports its hours, kinds, detectors and null distribution.
"""
