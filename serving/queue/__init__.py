"""Predictions by queue: requests from a topic or a Redis Stream, each answered exactly once, by what answers over HTTP.

Face: running.
Imported by: the commands; imports handlers and what lies below.
"""
