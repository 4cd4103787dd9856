"""The point-in-time join: what was known of an entity at a moment. On Spark and in this process, to
the same numbers.

Face: in_process, on_demand, on_spark, point_in_time, recompute.
Imported by: skew, online, live, backfill, training, serving; imports offline and what lies below.
"""
