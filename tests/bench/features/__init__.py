"""How fast features are made: joins, windows, the backfill, the stream, and what grows with their data."""
