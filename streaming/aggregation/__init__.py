"""The arithmetic of windows: a partial state of an event, states merged, windows finished. Pure NumPy,
no store and no Spark.

Face: finisher, sketches, tiles, windows.
Imported by: every package of streaming, and serving; imports none of ours.
"""
