"""Ray Serve and its HAProxy on one machine, of this checkout alone.

Face: app, leftovers.
Imported by: the commands; imports http.
"""
