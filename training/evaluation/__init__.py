"""How good a model is, and what another would have said: metrics, comparisons, fairness, rescoring.

Face: comparison, definition_change, fairness, metrics, rescoring, sequential.
Imported by: registration and above; imports data, modeling and export.
"""
