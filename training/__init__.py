"""How models are made: training set, fit, evaluate, ONNX export, gates, registry, skew proof.

Imported by headrace.py only; imports streaming, feature_repo and infra, never serving.
"""
