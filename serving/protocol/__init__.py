"""What callers and we say to each other: requests, answers, problems, limits.

Face: body, limits, problem, refusal, schema.
Imported by: every package of serving; imports feature_repo and infra.
"""
