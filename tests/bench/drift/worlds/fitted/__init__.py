"""The worlds that the rules of triage may be fitted on: one module each, of four kinds."""
