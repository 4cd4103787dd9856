"""One row is scored fast enough."""

from __future__ import annotations

from training.gates.base import Challenge, Gate
from training.gates.record import Checked


class Latency(Gate):
    """The 99th percentile of one row in ONNX Runtime, against `challenge.p99_us`."""

    name = "latency"

    def look(self, at: Challenge) -> list[Checked]:
        p99, most = at.certificate.latency_us["p99"], at.spec.learning.challenge.p99_us
        return self.found(p99 <= most, f"one row in {p99:.0f} µs (p99), at most {most:g}")
