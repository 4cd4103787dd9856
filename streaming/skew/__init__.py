"""The skew proof: what was served, recomputed from the offline store, and each difference with its cause.

Face: causes, proof.
Imported by: training, and the watch of serving; imports join and what lies below.
"""
