"""History played as live traffic: replay, the demo, the year on autopilot, and their reports.

Face: demo, replay_run, year, year_report.
Imported by: the commands; imports monitoring and what lies below.
"""
