"""The offline store: Parquet by day, made by ingest, read by Spark and Arrow, and the archive of what
was served.

Face: archive, class_training, footers, ingest, parquet, spark, unfit.
Imported by: join, online, live, backfill, training, serving; imports aggregation and schema.
"""
