"""What a use case says in its files: `ingest.yaml`, `models/*.yaml`, and when a model is trained
again.

Face: ingest, model, retraining, use_case, use_case_check, yaml_file.
Imported by: every room but infra; imports infra.
"""
