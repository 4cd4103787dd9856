"""How well the watch judges: alarms without drift, delay to alarm, and which cause the triage names."""
