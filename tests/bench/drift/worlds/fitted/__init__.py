"""The worlds that the rules of triage may be fitted on: one module each. A world that was once of the independent
suite, and has been seen, comes here."""
