"""What was served, judged by the truth that came in (live quality) and by recomputation (skew).

Face: live_quality, skew, skew_causes.
Imported by: retraining; imports evaluation and what lies below.
"""
