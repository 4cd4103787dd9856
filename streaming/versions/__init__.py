"""Versions of data: which files a table consists of, now and before. Files are written once; a version is a list
of them, which one writer can make.

Face: adoption, data_version, pinned, table_version, vacuum.
Imported by: offline and what stands above it, training; imports nothing of this room.
"""
