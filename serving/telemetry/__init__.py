"""What serving says of itself: the prediction log and its spool, metrics, tallies, liveness, ids.

Face: liveness, metrics, prediction_id, prediction_log, spool, tally_writer.
Imported by: inference and above; imports features and protocol.
"""
