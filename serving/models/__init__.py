"""The versions of one replica: which answers, which is scored in the shadow, and the change from one
to the next.

Face: loading, repository.
Imported by: handlers and above; imports inference and what lies below.
"""
