"""What the sources usually do, and what they did that they do not: found in the raw rows, before any model sees them.

Face: latest, live_rows, lookout, lookup.
Imported by: the commands, and the watch of serving; imports live, offline, schema and what lies below.
"""
