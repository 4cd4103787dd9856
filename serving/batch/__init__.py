"""Scoring outside of requests: a table of instances, and one logged prediction made again.

Face: rerun, score.
Imported by: the commands; imports inference and what lies below.
"""
