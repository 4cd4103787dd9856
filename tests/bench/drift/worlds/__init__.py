"""The bench of triage: generated worlds, a pipe that may break at four places, and cases whose truth is known."""
