"""What a registered version must pass before it gets a request: one class per gate, found in one table.

Face: challenge, record.
Imported by: training.retraining and training's commands; imports registration, monitoring and what is below.
"""
