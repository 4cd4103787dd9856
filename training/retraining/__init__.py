"""The loop: triggers, trainings, gates against the live version, the stages of a release, and the
autopilot that takes them.

Face: alarm, autopilot, backtest, loop_state, retrain, simulation_port, trainer_process, version_comparison.
Imported by: the commands; imports every package of training.
"""
