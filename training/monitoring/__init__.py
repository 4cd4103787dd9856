"""What was served, judged by the truth that came in (live quality); and what its sources did.

Face: live_quality, source_findings.
Imported by: retraining; imports evaluation and what lies below.
"""
