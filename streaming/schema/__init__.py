"""What a view holds: Feast's view compiled, its types and columns, and whether a value fits.

Face: cast, columns, compilation, declared, feature_view, json_row, types.
Imported by: every package of streaming above, training, serving; imports aggregation and
feature_repo.
"""
