"""The HTTP API: routes, status codes, bodies, the OpenAPI document.

Face: app.
Imported by: deployment; imports grpc, handlers and protocol.
"""
