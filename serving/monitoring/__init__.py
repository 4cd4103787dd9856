"""The watch: windows of logged predictions against the reference, and why one drifted.

Face: around, rehearsal, verdict_plot, watch.
Imported by: simulation and the commands; imports inference and what lies below.
"""
