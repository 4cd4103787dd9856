"""From a training set to a registered version: gates, model card, provenance, tracking; and the same
version made again.

Face: provenance, reference_sample, register, reproduce.
Imported by: retraining; imports evaluation and what lies below.
"""
