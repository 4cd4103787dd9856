"""Events read from Kafka directly, every event once, without a detour over the Redis Stream.

Face: client, cuts, kafka_log, put_back, starters.
Imported by: backfill, serving's scoring by queue, and the commands; imports live and what lies below.
"""
