"""No slice is surely worse than with the live version."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from feature_repo.records.contract import ContractError
from feature_repo.spec.model import ModelSpec
from training.evaluation.rescoring import NotComparable
from training.gates.base import Challenge, Gate
from training.gates.record import Checked

if TYPE_CHECKING:
    from training.evaluation.comparison import SliceComparison


class Slices(Gate):
    """By more than `challenge.slice_margin`. Silent where the champion could not be compared at all: that gate has said so."""

    name = "slices"

    def look(self, at: Challenge) -> list[Checked]:
        from training.evaluation.comparison import ComparisonError, slices

        if at.rival is None:
            return []
        try:
            _ = at.whole
        except (ComparisonError, NotComparable, ContractError):
            return []
        asked, held_out, found = at.spec.learning.challenge, at.held_out, []
        absent = [c for c in at.spec.slices if c not in held_out.column_names]
        if absent:
            found += self.found(False, f"not known: the held-out rows have no column {', '.join(absent)}")
        columns = {c: np.array([str(v) for v in held_out[c].to_pylist()]) for c in at.spec.slices if c in held_out.column_names}
        if columns:
            parts = slices(at.label, *at.scores, columns, asked.slice_margin, metric=asked.metric, groups=at.day)
            found += self.judge(parts, columns, at.spec)
        return found

    def judge(self, parts: Sequence[SliceComparison], columns: Collection[str], spec: ModelSpec) -> list[Checked]:
        """A slice that cannot be compared is not known to be no worse, and a column of which none can be looked at neither."""
        from training.evaluation.comparison import SMALLEST

        asked = spec.learning.challenge
        named = [f"{s.column} {s.value}: {s.difference:+.4f}" for s in parts if s.measured is not None and not s.passed]
        named += [
            f"{s.column} {s.value} is not known: {s.unknown} (`challenge.metric` is {asked.metric})" for s in parts if s.measured is None
        ]
        unseen = sorted(set(columns) - {s.column for s in parts})
        named += [f"{c} is not known: none of its values has {SMALLEST} held-out rows (`retraining.test_days`)" for c in unseen]
        text = f"none of {len(parts)} is surely worse by more than {asked.slice_margin:g}"
        return self.found(not named, "; ".join(named[:5]) or text)
