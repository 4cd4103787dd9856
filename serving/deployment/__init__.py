"""The application for any Ray, and its shell for one machine: Ray Serve and its HAProxy, of this checkout alone.

Face: app, leftovers.
Imported by: the commands; imports http. Ray itself imports `application:app`, by that path.
"""
