"""What the live version was served is what training reads."""

from __future__ import annotations

from feature_repo.records import release
from feature_repo.records.contract import ContractError
from training.gates.base import Challenge, Gate
from training.gates.record import Checked


class Skew(Gate):
    """The champion's newest logged vectors, recomputed: a challenger trained on other numbers than those served would prove nothing."""

    name = "skew"

    def look(self, at: Challenge) -> list[Checked]:
        from streaming.offline.archive import of
        from streaming.skew.causes import over_budget
        from streaming.skew.proof import SkewError, prove

        if at.champion is None:
            return self.found(True, "no version is live yet: nothing was served")
        if at.rival is None:
            return []
        asked, champion = at.spec.learning.challenge, at.rival
        if not asked.skew_rows:
            return self.found(True, "left out by the spec (`challenge.skew_rows` is 0)")
        rows = at.archived_where(lambda version, role: version == champion and role != "shadow")
        if not rows.num_rows:
            text = (
                f"not known: no prediction of version {champion}, which is live, is archived. "
                "Let it answer requests first (`headrace archive`)"
            )
            return self.found(False, f"{text}, or leave the check out (`challenge.skew_rows: 0`)")
        try:
            log = of(at.settings, at.case.project).restore(at.spec.name, rows.slice(max(0, rows.num_rows - asked.skew_rows)))
            made = release.verified(at.settings.model_root, at.spec.name, champion)
            found = prove(at.spark, at.case, at.settings, made, log, asked.stale_after_s)
        except (ContractError, SkewError) as error:
            return self.found(False, f"not known: {error}")
        if not found.cells:
            stored = [i.name for i in made.inputs if i.kind != "request"]
            text = f"not known: no value of {', '.join(stored[:3])} could be recomputed" if stored else "the live version reads no feature"
            return self.found(not stored, text)
        over = over_budget(found.causes, found.cells, {str(c): share for c, share in asked.skew_budget.items()})
        counted = ", ".join(f"{cause} {n:,}" for cause, n in found.causes.items()) or "no difference"
        text = f"{found.cells:,} cells of {found.predictions:,} predictions: {counted}"
        if over:
            text += f"; over budget: {'; '.join(f'{cause}: {said}' for cause, said in over.items())}"
        return self.found(not over, text)
