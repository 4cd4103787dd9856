"""What the rooms hand each other, typed: the contract of a version, a logged prediction, what answers,
what was decided, and the names under which they lie.

Face: answers, contract, decisions, held, live_quality, onnx_session, prediction, redis_keys, release,
replica_tally, source_report, verdict.
Imported by: every room but infra; imports infra and metrics.
"""
