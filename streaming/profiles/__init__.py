"""What the sources usually do, and what they did that they do not: found in the raw rows, before any model sees them.

Face: facts, lookup.
Imported by: the commands, and the watch of serving; imports offline, schema and what lies below.
"""
