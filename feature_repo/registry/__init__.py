"""Feast's registry: a folder of definitions becomes the applied one, what that would change is said
before, and who runs follows it.

Face: apply, definitions, followed, plan, stored_order.
Imported by: streaming, training, serving; imports spec, records and infra.
"""
