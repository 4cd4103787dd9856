"""How many inputs a fuzz test draws: some hundreds in CI, and as many as `HEADRACE_FUZZ` says (`HEADRACE_FUZZ=100000 pytest -k fuzz`)."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

INPUTS = int(os.environ.get("HEADRACE_FUZZ", "400"))
fuzzed = settings(max_examples=INPUTS, deadline=None, suppress_health_check=list(HealthCheck), database=None, print_blob=True)
