"""Where live events come from besides the Redis Stream: one class per kind of source, found in one table.

Face: base, table.
Imported by: `streaming.live.connectors`, and the commands.
"""
