"""Features of one request: read from Redis, decoded, finished at the request's moment, on-demand
functions run.

Face: decoder, lost_windows, on_demand, reader, redis_connection.
Imported by: telemetry and above; imports protocol and streaming.
"""
