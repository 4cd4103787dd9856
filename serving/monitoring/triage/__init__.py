"""Why a window drifted: evidence by place, and what follows from all of it.

Face: explanation, shape.
Imported by: `serving.monitoring`; imports its hours, kinds and dependence.
"""
