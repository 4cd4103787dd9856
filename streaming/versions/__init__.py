"""Versions of data: which files a table consists of, now and before. Files are written once; a version is a list
of them, which one writer can make.

Face: data_version, reading, table_version, vacuum.
Imported by: offline, training; imports nothing of this room.
"""
