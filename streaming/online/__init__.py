"""The online store: Redis in Feast's layout, written by compare-and-set, and what leaves it again.

Face: entities, entity_index, feast_layout, lease, packed_row, removal, resp, retention, store, unfilled, writer.
Imported by: live, backfill, serving, training; imports join and what lies below.
"""
