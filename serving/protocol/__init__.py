"""What callers and we say to each other: requests, answers, problems, limits.

Face: answer, body, limits, problem, refusal, request.
Imported by: every package of serving; imports feature_repo and infra.
"""
