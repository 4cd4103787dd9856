"""How a model is fitted: LightGBM, its calibration, the search for parameters.

Face: calibration, fit, tuning.
Imported by: evaluation and above; imports data.
"""
