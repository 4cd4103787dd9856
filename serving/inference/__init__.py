"""From features to a score: the columns of the matrix, ONNX Runtime, contributions.

Face: explainer, input_sources, predictor, recorder, scorer.
Imported by: models and above; imports telemetry, features and protocol.
"""
