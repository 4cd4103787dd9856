"""What the calls do, whatever protocol they come by: predict, feedback, lookup, feature serving.

Face: data_plane, open_inference.
Imported by: grpc, http; imports models and what lies below.
"""
