"""How columns and rows are compared: one module per implementation, found in one table.

Face: base, table.
Imported by: `serving.monitoring`, and the commands.
"""
