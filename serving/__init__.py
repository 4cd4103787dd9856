"""How predictions are made: online reader, scorer, HTTP API, Ray Serve app, prediction log, watch, replay.

Imported by headrace.py only; imports streaming, feature_repo and infra, never training.
"""
