"""Backfill: the online store brought to the state of one moment, from the offline store. A killed one
goes on.

Face: checkpoint, estimate, rejected_rows, run.
Imported by: training, serving and the commands; imports live and what lies below.
"""
