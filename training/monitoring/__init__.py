"""What was served, judged by the truth that came in (live quality).

Face: live_quality.
Imported by: retraining; imports evaluation and what lies below.
"""
