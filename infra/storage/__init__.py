"""Files that outlive a process, wherever they lie: a folder, or a bucket of S3, Google Cloud or Azure. A file
is written once, whole or not at all; of two who make one name, one wins. No rename of folders, no lock.

Face: place, store.
Imported by: every room; imports nothing of ours.
"""
