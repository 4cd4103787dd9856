"""The live stream: from the Redis Stream of events into the online store, every event once, the
refused ones kept.

Face: connectors, dead_letters, event_log, events, progress, query, sink, sources, turn.
Imported by: kafka, backfill, serving; imports online and what lies below.
"""
