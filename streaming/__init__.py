"""How features are made: window arithmetic, point-in-time join, backfill, live stream, Redis writer. Spark lives here only.

Imported by training and serving; imports feature_repo and infra.
"""
