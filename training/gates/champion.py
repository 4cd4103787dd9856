"""The challenger is surely not worse than the live version, on the same rows."""

from __future__ import annotations

from feature_repo.records.contract import ContractError
from training.evaluation.rescoring import NotComparable
from training.gates.base import Challenge, Gate
from training.gates.record import Checked


class Champion(Gate):
    """The whole interval of the difference in `challenge.metric` lies above `challenge.margin` below zero."""

    name = "champion"

    def look(self, at: Challenge) -> list[Checked]:
        from training.evaluation.comparison import ComparisonError

        if at.champion is None:
            return self.found(True, "no version is live yet: there is none to compare with")
        if at.rival is None:
            return self.found(True, "this version is live itself")
        asked = at.spec.learning.challenge
        try:
            whole = at.whole
        except ComparisonError as error:
            return self.found(False, f"cannot be compared on {len(at.label):,} held-out rows: {error}")
        except (NotComparable, ContractError) as error:
            return self.found(False, f"not known: {error}")
        return self.found(
            whole.low >= -asked.margin,
            f"{asked.metric} {whole.challenger:.4f}, version {at.rival} {whole.champion:.4f} on the same {whole.rows:,} rows; "
            f"better by {whole.difference:+.4f} ({whole.low:+.4f} to {whole.high:+.4f}), margin {asked.margin:g}",
        )
