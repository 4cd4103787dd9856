"""The exported model says what LightGBM says."""

from __future__ import annotations

from training.gates.base import Challenge, Gate
from training.gates.record import Checked


class Export(Gate):
    """On the held-out rows, and on probes of every split (`training.export.certificate`)."""

    name = "export"

    def look(self, at: Challenge) -> list[Checked]:
        from training.export.certificate import CertificateError

        found = at.certificate
        if not found.passed:
            try:
                found.require()
            except CertificateError as error:
                return self.found(False, str(error))
        probes = sum(p.rows for p in found.probes.values())
        return self.found(
            found.passed,
            f"within {found.max_abs_difference:.1g} of LightGBM on {found.rows:,} held-out rows and {probes - found.rows:,} probes "
            f"of {found.splits_probed:,} splits, {found.flips} decisions flip",
        )
