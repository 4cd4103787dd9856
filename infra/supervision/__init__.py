"""The services of one checkout, kept running: Redis, stream, server, watch, autopilot. Each is started
again when it ends or hangs.

Face: beat, launch, process, redis_server, services, supervisor.
Imported by: every room; imports the rest of infra, but for `doctor`.
"""
