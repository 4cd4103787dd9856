"""The model is small enough."""

from __future__ import annotations

from training.gates.base import Challenge, Gate
from training.gates.record import Checked


class Size(Gate):
    """The size of the ONNX file, against `challenge.megabytes`."""

    name = "size"

    def look(self, at: Challenge) -> list[Checked]:
        megabytes, most = at.certificate.bytes / 1e6, at.spec.learning.challenge.megabytes
        return self.found(megabytes <= most, f"{megabytes:.2f} MB, at most {most:g}")
