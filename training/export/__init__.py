"""The exact export to ONNX, and the proof that it scores what LightGBM scores.

Face: certificate, tree_ensemble.
Imported by: evaluation and above; imports feature_repo only.
"""
