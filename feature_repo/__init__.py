"""What features are: one folder per use case (plain Feast objects, ingest SQL, model specs) and the schemas that read them.

Imported by streaming, training and serving; imports only infra.
"""
