"""The Open Inference Protocol over gRPC.

Face: servicer.
Imported by: http, which starts it with the application; imports handlers and protocol.
"""
