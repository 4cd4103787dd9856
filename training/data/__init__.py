"""What a model is made of: the training set, its splits, its manifest, and the checks before anything
is fitted.

Face: column_moments, leakage, left_out, manifest, splits, training_set, validation.
Imported by: every package of training; imports streaming and feature_repo.
"""
